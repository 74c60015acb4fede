package e2e

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/sample-apiserver/pkg/apis/wardle"
	"k8s.io/sample-apiserver/pkg/apis/wardle/v1alpha1"
	wardleserver "k8s.io/sample-apiserver/pkg/apiserver"
	sampleopenapi "k8s.io/sample-apiserver/pkg/generated/openapi"

	"orch/e2e/lab"
)

// TestGenuineExtensionServer aggregates a server made with upstream's library, whose
// authentication and authorization ask ours: it reads kube-system's ConfigMap, checks the
// front proxy's certificate, and sends TokenReviews and SubjectAccessReviews.
func TestGenuineExtensionServer(t *testing.T) {
	h := lab.New(t).Host("one")
	h.StartServer("--disable-agent")
	l, err := h.Listen("tcp", net.JoinHostPort(h.IP.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	h.KubectlIn(strings.NewReplacer("PORT", strconv.Itoa(port), "HOST", h.IP.String()).Replace(wardleObjects), "apply", "-f", "-")
	token := strings.TrimSpace(h.Kubectl("create", "token", "api", "-n", "wardle"))
	ca := startWardle(t, h, l, token)
	h.KubectlIn(fmt.Sprintf(`{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1alpha1.wardle.example.com"},"spec":{"group":"wardle.example.com",`+
		`"version":"v1alpha1","groupPriorityMinimum":2000,"versionPriority":200,"caBundle":%q,"service":{"namespace":"wardle","name":"api"}}}`, base64Text(ca)), "apply", "-f", "-")
	h.Kubectl("wait", "apiservice/v1alpha1.wardle.example.com", "--for=condition=Available", "--timeout=150s")

	const flunder = `{"apiVersion":"wardle.example.com/v1alpha1","kind":"Flunder","metadata":{"name":"f"},"spec":{"referenceType":"Flunder","reference":"other"}}`
	if out := h.KubectlIn(flunder, "create", "-f", "-"); !strings.Contains(out.Both(), "flunder.wardle.example.com/f created") {
		t.Errorf("create: %s", out.Both())
	}
	for _, c := range []struct{ want, command string }{
		{"f ", "get flunders"},
		{"other", "get flunder f -o jsonpath={.spec.flunderReference}{.spec.reference}"},
		{"reference", "explain --recursive flunders"},
		{"wardle.example.com/v1alpha1", "api-resources --api-group=wardle.example.com"},
		{`flunder.wardle.example.com "f" deleted`, "delete flunder f"},
	} {
		if out := h.Kubectl(strings.Fields(c.command)...); !strings.Contains(out, c.want) {
			t.Errorf("kubectl %s: %s", c.command, out)
		}
	}
	if out, err := h.TryKubectl("get", "flunders", "--as=jane"); err == nil || !strings.Contains(out+err.Error(), "forbidden") {
		t.Errorf("jane: %s %v", out, err)
	}
	// Straight to the extension server: it has the token and the rights checked by ours.
	direct := func(token string) int {
		q, err := http.NewRequest("GET", "https://"+l.Addr().String()+"/apis/wardle.example.com/v1alpha1/namespaces/default/flunders", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer "+token)
		tr := &http.Transport{DialContext: h.Dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		resp, err := (&http.Client{Transport: tr}).Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := direct(token); code != 403 {
		t.Errorf("a known user without rights: %d", code)
	}
	if code := direct("nonsense"); code != 401 {
		t.Errorf("an unknown token: %d", code)
	}
	h.Kubectl("create", "clusterrolebinding", "api-admin", "--clusterrole=cluster-admin", "--serviceaccount=wardle:api")
	h.Eventually(patience, "rights are asked for again", func() error {
		if code := direct(token); code != 200 {
			return fmt.Errorf("status %d", code)
		}
		return nil
	})
}

const wardleObjects = `
apiVersion: v1
kind: Namespace
metadata: {name: wardle}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: api, namespace: wardle}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: wardle-delegator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects: [{kind: ServiceAccount, name: api, namespace: wardle}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: wardle-reader, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}
subjects: [{kind: ServiceAccount, name: api, namespace: wardle}]
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: wardle}
spec: {ports: [{name: https, port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, namespace: wardle, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: https, port: PORT, protocol: TCP}]
endpoints: [{addresses: [HOST], conditions: {ready: true}}]
`

// startWardle serves the wardle group on l and gives the bundle of its certificate.
func startWardle(t *testing.T, h *lab.Host, l net.Listener, token string) []byte {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	must(os.WriteFile(kubeconfig, []byte(fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://%s', insecure-skip-tls-verify: true}}]\n"+
		"contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: %q}}]\ncurrent-context: c\n", forward(t, h), token)), 0o600))

	config := genericapiserver.NewRecommendedConfig(wardleserver.Codecs)
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(sampleopenapi.GetOpenAPIDefinitions, openapi.NewDefinitionNamer(wardleserver.Scheme))
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(sampleopenapi.GetOpenAPIDefinitions, openapi.NewDefinitionNamer(wardleserver.Scheme))
	serving := options.NewSecureServingOptions().WithLoopback()
	serving.Listener = l
	serving.ServerCert.CertDirectory = ""
	must(serving.MaybeDefaultWithSelfSignedCerts("api.wardle.svc", nil, nil))
	must(serving.ApplyTo(&config.SecureServing, &config.LoopbackClientConfig))
	authn := options.NewDelegatingAuthenticationOptions()
	authn.RemoteKubeConfigFile = kubeconfig
	must(authn.ApplyTo(&config.Authentication, config.SecureServing, config.OpenAPIConfig))
	authz := options.NewDelegatingAuthorizationOptions()
	authz.RemoteKubeConfigFile = kubeconfig
	authz.DenyCacheTTL = time.Second
	must(authz.ApplyTo(&config.Authorization))
	server, err := config.Complete().New("wardle", genericapiserver.NewEmptyDelegate())
	must(err)
	group := genericapiserver.NewDefaultAPIGroupInfo(wardle.GroupName, wardleserver.Scheme, metav1.ParameterCodec, wardleserver.Codecs)
	group.VersionedResourcesStorageMap["v1alpha1"] = map[string]rest.Storage{"flunders": &flunders{items: map[string]*wardle.Flunder{}}}
	must(server.InstallAPIGroup(&group))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.PrepareRun().RunWithContext(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	bundle, _ := serving.ServerCert.GeneratedCert.CurrentCertKeyContent()
	return bundle
}

// forward leads connections to a port of the test's own namespace to the API server.
func forward(t *testing.T, h *lab.Host) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	to := strings.TrimPrefix(h.Config().Host, "https://")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				there, err := h.Dial(context.Background(), "tcp", to)
				if err != nil {
					return
				}
				defer there.Close()
				go func() { _, _ = io.Copy(there, c); there.Close() }()
				_, _ = io.Copy(c, there)
			}()
		}
	}()
	return l.Addr().String()
}

// flunders keeps Flunders in memory.
type flunders struct {
	mu       sync.Mutex
	revision int
	items    map[string]*wardle.Flunder
}

var (
	_ rest.Creater         = &flunders{}
	_ rest.Getter          = &flunders{}
	_ rest.Lister          = &flunders{}
	_ rest.GracefulDeleter = &flunders{}
	_ rest.Watcher         = &flunders{}
	_ v1alpha1.Flunder
)

func (f *flunders) New() runtime.Object     { return &wardle.Flunder{} }
func (f *flunders) NewList() runtime.Object { return &wardle.FlunderList{} }
func (f *flunders) Destroy()                {}
func (f *flunders) NamespaceScoped() bool   { return true }
func (f *flunders) GetSingularName() string { return "flunder" }

func key(ctx context.Context, name string) string { return request.NamespaceValue(ctx) + "/" + name }

func (f *flunders) Create(ctx context.Context, o runtime.Object, check rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if check != nil {
		if err := check(ctx, o); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := o.DeepCopyObject().(*wardle.Flunder)
	if f.items[key(ctx, n.Name)] != nil {
		return nil, apierrors.NewAlreadyExists(wardle.Resource("flunders"), n.Name)
	}
	f.revision++
	n.Namespace, n.UID, n.ResourceVersion, n.CreationTimestamp = request.NamespaceValue(ctx), types.UID(fmt.Sprint("uid-", f.revision)), strconv.Itoa(f.revision), metav1.Now()
	f.items[key(ctx, n.Name)] = n
	return n.DeepCopyObject(), nil
}

func (f *flunders) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.items[key(ctx, name)]; o != nil {
		return o.DeepCopyObject(), nil
	}
	return nil, apierrors.NewNotFound(wardle.Resource("flunders"), name)
}

func (f *flunders) List(ctx context.Context, _ *internalversion.ListOptions) (runtime.Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := &wardle.FlunderList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(f.revision)}}
	for k, o := range f.items {
		if strings.HasPrefix(k, request.NamespaceValue(ctx)) {
			list.Items = append(list.Items, *o.DeepCopy())
		}
	}
	return list, nil
}

func (f *flunders) Delete(ctx context.Context, name string, _ rest.ValidateObjectFunc, _ *metav1.DeleteOptions) (runtime.Object, bool, error) {
	o, err := f.Get(ctx, name, nil)
	if err != nil {
		return nil, false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.items, key(ctx, name))
	return o, true, nil
}

// Watch tells of nothing: kubectl waits for the end of an object by reading it too.
func (f *flunders) Watch(context.Context, *internalversion.ListOptions) (watch.Interface, error) {
	return watch.NewFake(), nil
}

func (f *flunders) ConvertToTable(ctx context.Context, o, how runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(wardle.Resource("flunders")).ConvertToTable(ctx, o, how)
}

func base64Text(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
