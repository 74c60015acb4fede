package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"orch/agent/stream"
	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/datastore/memory"
	"orch/runtime/fakeengine"
	"orch/server/aggregator/extensiontest"
	"orch/server/controllers"
	"orch/server/registry"
)

// fakeNode is a joined node on which the extension server runs: all its pods' addresses
// lead there.
func fakeNode(t *testing.T, s *Server, address string) {
	t.Helper()
	agent, err := stream.New(stream.Config{Pods: nowhere{}, Engine: fakeengine.New(fakeengine.Options{}), Dialer: nowhere{}, Reach: func(netip.Addr) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	stop := s.Tunnel().Local("far", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = api.PathDial + address // as NAT would
		agent.ServeHTTP(w, r)
	}))
	t.Cleanup(stop)
}

type nowhere struct{}

func (nowhere) Lookup(string, string) (stream.Pod, bool) { return stream.Pod{}, false }
func (nowhere) DialPod(context.Context, string, uint16) (net.Conn, error) {
	return nil, fmt.Errorf("no pods")
}

func must[T any](t *testing.T) func(*T, error) *T {
	return func(o *T, err error) *T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
}

// extended is a server with an extension server behind the Service wardle/api.
func extended(t *testing.T) (*Server, *extensiontest.Server, *client.Client) {
	t.Helper()
	s := start(t, memory.New(), func(c *Config) { c.DisableAgent = true })
	e := extensiontest.New(t, "api", "wardle", s.PKI().FrontProxyCA())
	fakeNode(t, s, e.Address)
	c := s.registry.Client(registry.User{Name: "admin", Groups: []string{api.GroupMasters}})
	ctx := t.Context()
	must[core.Namespace](t)(client.Create(ctx, c, api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wardle"}}))
	must[core.Node](t)(client.Create(ctx, c, api.Nodes, &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "far"}, Spec: core.NodeSpec{PodCIDR: "10.77.0.0/24", PodCIDRs: []string{"10.77.0.0/24"}}}))
	return s, e, c
}

func apiService(group, version string, ca []byte) *apireg.APIService {
	return &apireg.APIService{ObjectMeta: metav1.ObjectMeta{Name: version + "." + group}, Spec: apireg.APIServiceSpec{Group: group, Version: version,
		GroupPriorityMinimum: 2000, VersionPriority: 10, CABundle: ca, Service: &apireg.ServiceReference{Namespace: "wardle", Name: "api"}}}
}

func wardleService() *core.Service {
	return &core.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "wardle", Name: "api"}, Spec: core.ServiceSpec{Type: core.ServiceTypeClusterIP, Ports: []core.ServicePort{{Name: "https", Port: 443}}}}
}

func wardleEndpoints(ready bool) *discovery.EndpointSlice {
	return &discovery.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "wardle", Name: "api-1", Labels: map[string]string{discovery.LabelServiceName: "api"}},
		AddressType: discovery.AddressTypeIPv4, Ports: []discovery.EndpointPort{{Name: new("https"), Port: new(int32(8443)), Protocol: new(core.ProtocolTCP)}},
		Endpoints: []discovery.Endpoint{{Addresses: []string{"10.77.0.5"}, Conditions: discovery.EndpointConditions{Ready: &ready}}}}
}

// says waits until the APIService's condition has a reason and gives it.
func says(t *testing.T, c *client.Client, name, reason string) apireg.APIServiceCondition {
	t.Helper()
	var last apireg.APIServiceCondition
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if o := client.Cached(c, api.APIServices, "", name); o != nil && len(o.Status.Conditions) == 1 {
			if last = o.Status.Conditions[0]; last.Reason == reason {
				return last
			}
		}
	}
	t.Fatalf("the condition of %s is %+v, want %s", name, last, reason)
	return last
}

const wardle = "v1alpha1.wardle.example.com"

func TestAvailability(t *testing.T) {
	_, e, c := extended(t)
	ctx := t.Context()
	must[apireg.APIService](t)(client.Create(ctx, c, api.APIServices, apiService(extensiontest.Group, extensiontest.Version, e.CA)))
	want := func(reason, message string, status apireg.ConditionStatus) {
		t.Helper()
		if got := says(t, c, wardle, reason); got.Status != status || !strings.Contains(got.Message, message) {
			t.Errorf("%s: %+v", reason, got)
		}
	}
	want("ServiceNotFound", `service/api in "wardle" is not present`, apireg.ConditionFalse)
	other := wardleService()
	other.Spec.Ports[0].Port = 80
	made := must[core.Service](t)(client.Create(ctx, c, api.Services, other))
	want("ServicePortError", `service/api in "wardle" is not listening on port 443`, apireg.ConditionFalse)
	made = made.DeepCopy()
	made.Spec.Ports[0].Port = 443
	must[core.Service](t)(client.Update(ctx, c, api.Services, made))
	want("EndpointsNotFound", `cannot find endpointslices for service/api in "wardle"`, apireg.ConditionFalse)
	slice := must[discovery.EndpointSlice](t)(client.Create(ctx, c, api.EndpointSlices, wardleEndpoints(false)))
	want("MissingEndpoints", `endpointslices for service/api in "wardle" have no addresses with port name "https"`, apireg.ConditionFalse)
	e.SetDown(true)
	slice = slice.DeepCopy()
	slice.Endpoints[0].Conditions.Ready = new(true)
	must[discovery.EndpointSlice](t)(client.Update(ctx, c, api.EndpointSlices, slice))
	const at = "https://10.77.0.5:8443/apis/wardle.example.com/v1alpha1"
	want("FailedDiscoveryCheck", "failing or missing response from "+at+": bad status from "+at+": 500", apireg.ConditionFalse)
	e.SetDown(false)
	want("Passed", "all checks passed", apireg.ConditionTrue)
}

// serving is an extended server whose APIServices are available.
func serving(t *testing.T, change func(*extensiontest.Server)) (*Server, *extensiontest.Server, *client.Client) {
	t.Helper()
	s, e, c := extended(t)
	if change != nil {
		change(e)
	}
	ctx := t.Context()
	must[core.Service](t)(client.Create(ctx, c, api.Services, wardleService()))
	must[discovery.EndpointSlice](t)(client.Create(ctx, c, api.EndpointSlices, wardleEndpoints(true)))
	must[apireg.APIService](t)(client.Create(ctx, c, api.APIServices, apiService(extensiontest.Group, extensiontest.Version, e.CA)))
	says(t, c, wardle, "Passed")
	return s, e, c
}

func TestAggregatedRequests(t *testing.T) {
	s, _, _ := serving(t, nil)
	admin := user(t, s, "alice", api.GroupMasters)
	const flunders = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders"
	for _, tc := range []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"create", "POST", flunders, `{"metadata":{"name":"a"},"spec":{"reference":"x"}}`, 201, `"kind":"Flunder"`},
		{"again", "POST", flunders, `{"metadata":{"name":"a"}}`, 409, "already exists"},
		{"get", "GET", flunders + "/a", "", 200, `"reference":"x"`},
		{"list", "GET", "/apis/wardle.example.com/v1alpha1/flunders?limit=5", "", 200, `"kind":"FlunderList"`},
		{"method of its own", "PUT", flunders + "/a", "{}", 405, "does not allow this method"},
		{"no such resource", "GET", "/apis/wardle.example.com/v1alpha1/nothings", "", 404, "404 page not found"},
		{"discovery of the version", "GET", "/apis/wardle.example.com/v1alpha1", "", 200, `"flunders"`},
		{"discovery of the group", "GET", "/apis/wardle.example.com", "", 200, `"preferredVersion":{"groupVersion":"wardle.example.com/v1alpha1","version":"v1alpha1"}`},
		{"no redirects", "GET", flunders + "/a/away", "", 502, "the backend attempted to redirect this request, which is not permitted"},
		{"delete", "DELETE", flunders + "/a", "", 200, `"name":"a"`},
		{"gone", "GET", flunders + "/a", "", 404, `flunders.wardle.example.com \"a\" not found`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code, got := admin.do(tc.method, tc.path, tc.body); code != tc.code || !strings.Contains(got, tc.want) {
				t.Errorf("%d %s", code, got)
			}
		})
	}
	if code, text := user(t, s, "bob").do("GET", flunders, ""); code != 403 || !strings.Contains(text, `User \"bob\" cannot list resource \"flunders\" in API group \"wardle.example.com\" in the namespace \"default\"`) {
		t.Errorf("who may not: %d %s", code, text)
	}
}

// What the other server learns of the user, and what it must not.
func TestAggregatedIdentity(t *testing.T) {
	s, _, _ := serving(t, nil)
	admin := user(t, s, "alice", api.GroupMasters)
	admin.header = http.Header{"X-Remote-User": {"root"}, "X-Remote-Group": {"system:masters"}, "X-Remote-Extra-Scope": {"all"}, "X-Remote-Uid": {"0"},
		"Impersonate-User": {"carol"}, "Impersonate-Uid": {"7"}, "Impersonate-Group": {api.GroupMasters, "dev"}, "Impersonate-Extra-Some%2fthing": {"a", "b"}}
	code, text := admin.do("GET", "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders/a/whoami?x=%2F&y", "")
	var got struct {
		Headers     http.Header
		Host, Query string
	}
	if err := json.Unmarshal([]byte(text), &got); code != 200 || err != nil {
		t.Fatalf("%d %s", code, text)
	}
	for name, want := range map[string][]string{"X-Remote-User": {"carol"}, "X-Remote-Uid": {"7"}, "X-Remote-Extra-Some%2fthing": {"a", "b"},
		"X-Remote-Extra-Scope": nil, "Impersonate-User": nil, "Authorization": nil} {
		if !slices.Equal(got.Headers[http.CanonicalHeaderKey(name)], want) {
			t.Errorf("%s: %q, want %q", name, got.Headers[http.CanonicalHeaderKey(name)], want)
		}
	}
	if groups := got.Headers["X-Remote-Group"]; !slices.Contains(groups, "dev") || !slices.Contains(groups, api.GroupAuthenticated) {
		t.Errorf("groups %q", groups)
	}
	if got.Query != "x=%2F&y" || got.Host != "10.77.0.5:8443" || got.Headers.Get("X-Forwarded-For") == "" {
		t.Errorf("%+v", got)
	}
}

func TestAggregatedStreams(t *testing.T) {
	s, _, _ := serving(t, nil)
	admin := user(t, s, "alice", api.GroupMasters)
	const flunders = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders"
	resp, err := admin.http.Get(s.url() + flunders + "?watch=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	admin.do("POST", flunders, `{"metadata":{"name":"seen"}}`)
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.Contains(line, `"seen"`) || !strings.Contains(line, "ADDED") {
		t.Errorf("watch: %q %v", line, err)
	}
	tr := admin.http.Transport.(*http.Transport)
	d := websocket.Dialer{TLSClientConfig: tr.TLSClientConfig.Clone()}
	d.TLSClientConfig.NextProtos = []string{"http/1.1"}
	ws, r, err := d.Dial(strings.Replace(s.url(), "https", "wss", 1)+flunders+"/a/socket", nil)
	if err != nil {
		t.Fatalf("%v %v", err, r)
	}
	defer ws.Close()
	if _, data, err := ws.ReadMessage(); err != nil || string(data) != "hello alice" {
		t.Errorf("%q %v", data, err)
	}
	if err := ws.WriteMessage(websocket.TextMessage, []byte("echo")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := ws.ReadMessage(); err != nil || string(data) != "echo" {
		t.Errorf("%q %v", data, err)
	}
}

const surfaceType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

func TestAggregatedDiscovery(t *testing.T) {
	for name, change := range map[string]func(*extensiontest.Server){"both forms": nil, "old form": func(e *extensiontest.Server) { e.NoAggregated = true }} {
		t.Run(name, func(t *testing.T) {
			s, e, c := serving(t, change)
			admin := user(t, s, "alice", api.GroupMasters)
			admin.header = http.Header{"Accept": {surfaceType}}
			version := func() (freshness string, resources int) {
				t.Helper()
				_, text := admin.do("GET", "/apis", "")
				var doc struct {
					Items []struct {
						Metadata struct{ Name string }
						Versions []struct {
							Freshness string
							Resources []struct{ Resource string }
						}
					}
				}
				if err := json.Unmarshal([]byte(text), &doc); err != nil {
					t.Fatal(err)
				}
				if doc.Items[0].Metadata.Name != "apiregistration.k8s.io" || doc.Items[1].Metadata.Name != "apps" {
					t.Errorf("the order begins with %v", doc.Items[:2])
				}
				for _, g := range doc.Items {
					if g.Metadata.Name == extensiontest.Group {
						return g.Versions[0].Freshness, len(g.Versions[0].Resources)
					}
				}
				return "", 0
			}
			if f, n := version(); f != "Current" || n != 1 {
				t.Errorf("%s with %d resources", f, n)
			}
			asked := len(e.Asked())
			version()
			if now := len(e.Asked()); now != asked {
				t.Errorf("the document was asked for again at once: %v", e.Asked()[asked:])
			}
			if code, text := admin.do("GET", "/apis/", ""); code != 200 || !strings.Contains(text, extensiontest.Group) {
				t.Errorf("%d %s", code, text)
			}
			// A server that goes leaves a stale version, and requests are refused at once.
			slice := client.Cached(c, api.EndpointSlices, "wardle", "api-1").DeepCopy()
			slice.Endpoints[0].Conditions.Ready = new(false)
			must[discovery.EndpointSlice](t)(client.Update(t.Context(), c, api.EndpointSlices, slice))
			says(t, c, wardle, "MissingEndpoints")
			if f, n := version(); f != "Stale" || n != 0 {
				t.Errorf("%s with %d resources", f, n)
			}
			if code, text := admin.do("GET", "/apis/wardle.example.com/v1alpha1/flunders", ""); code != 503 || text != "service unavailable\n" {
				t.Errorf("%d %q", code, text)
			}
			if err := client.Delete(t.Context(), c, api.APIServices, "", wardle, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
				if f, _ := version(); f == "" {
					break
				}
				if time.Now().After(end) {
					t.Fatal("the group is still shown")
				}
			}
			if code, _ := admin.do("GET", "/apis/wardle.example.com/v1alpha1/flunders", ""); code != 404 {
				t.Errorf("%d after the end", code)
			}
		})
	}
}

func TestAggregatedOpenAPI(t *testing.T) {
	for name, change := range map[string]func(*extensiontest.Server){"both versions": nil, "version 2": func(e *extensiontest.Server) { e.NoV3 = true }} {
		t.Run(name, func(t *testing.T) {
			s, _, _ := serving(t, change)
			admin := user(t, s, "alice", api.GroupMasters)
			_, text := admin.do("GET", "/openapi/v3", "")
			var index struct {
				Paths map[string]struct{ ServerRelativeURL string }
			}
			if err := json.Unmarshal([]byte(text), &index); err != nil {
				t.Fatal(err)
			}
			link := index.Paths["apis/wardle.example.com/v1alpha1"].ServerRelativeURL
			code, text := admin.do("GET", link, "")
			if code != 200 || !strings.Contains(text, `"com.example.wardle.v1alpha1.Flunder"`) || !strings.Contains(text, `"openapi":"3.0`) {
				t.Errorf("%s: %d %.300s", link, code, text)
			}
			_, text = admin.do("GET", "/openapi/v2", "")
			var doc struct {
				Paths, Definitions map[string]json.RawMessage
			}
			if err := json.Unmarshal([]byte(text), &doc); err != nil {
				t.Fatal(err)
			}
			def := string(doc.Definitions["com.example.wardle.v1alpha1.Flunder"])
			if !strings.Contains(def, "Whom it refers to") || !strings.Contains(def, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2") {
				t.Errorf("definition %s", def)
			}
			if doc.Definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2"] == nil || !strings.Contains(string(doc.Definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]), "ownerReferences") {
				t.Error("a type of the same name took the place of ours, or has none of its own")
			}
			if doc.Paths["/apis/other.example.com/v1/things"] != nil || doc.Definitions["other"] != nil {
				t.Error("a server added what it does not answer for")
			}
			if doc.Paths["/api/v1/pods"] == nil || doc.Paths["/apis/wardle.example.com/v1alpha1/namespaces/{namespace}/flunders"] == nil {
				t.Error("paths are missing")
			}
			admin.header = http.Header{"Accept": {"application/com.github.proto-openapi.spec.v2@v1.0+protobuf"}}
			if code, text := admin.do("GET", "/openapi/v2", ""); code != 200 || !strings.Contains(text, "com.example.wardle.v1alpha1.Flunder") {
				t.Errorf("protobuf: %d, %d bytes", code, len(text))
			}
		})
	}
}

// Versions that are served here have APIServices too; those of custom resources come
// and go with them.
func TestLocalAPIServices(t *testing.T) {
	s, _, c := extended(t)
	ctx := t.Context()
	got := says(t, c, "v1.apps", "Local")
	if got.Status != apireg.ConditionTrue || got.Message != "Local APIServices are always available" {
		t.Errorf("%+v", got)
	}
	says(t, c, "v1.", "Local")
	if o := client.Cached(c, api.APIServices, "", "v1.apps"); o.Labels["kube-aggregator.kubernetes.io/automanaged"] != "onstart" || o.Spec.GroupPriorityMinimum != 17800 || o.Spec.VersionPriority != 15 {
		t.Errorf("%+v", o)
	}
	admin := user(t, s, "alice", api.GroupMasters)
	setUp(t, admin, [2]string{"/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `{"metadata":{"name":"things.x.io"},"spec":{"group":"x.io","scope":"Namespaced",` +
		`"names":{"plural":"things","singular":"thing","kind":"Thing","listKind":"ThingList"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`})
	says(t, c, "v1.x.io", "Local")
	o := client.Cached(c, api.APIServices, "", "v1.x.io").DeepCopy()
	if o.Labels["kube-aggregator.kubernetes.io/automanaged"] != "true" || o.Spec.GroupPriorityMinimum != 1000 || o.Spec.VersionPriority != 100 {
		t.Errorf("%+v", o)
	}
	o.Spec.GroupPriorityMinimum = 5
	must[apireg.APIService](t)(client.Update(ctx, c, api.APIServices, o))
	wait := func(what string, is func(*apireg.APIService) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !is(client.Cached(c, api.APIServices, "", "v1.x.io")); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	wait("a change is not put right", func(o *apireg.APIService) bool { return o != nil && o.Spec.GroupPriorityMinimum == 1000 })
	if err := client.Delete(ctx, c, api.CustomResourceDefinitions, "", "things.x.io", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wait("it outlives its custom resources", func(o *apireg.APIService) bool { return o == nil })
}

func TestExtensionAuthentication(t *testing.T) {
	s, _, c := extended(t)
	m := client.Cached(c, api.ConfigMaps, "kube-system", "extension-apiserver-authentication")
	for key, want := range map[string]string{
		"client-ca-file": string(s.PKI().ClientCA()), "requestheader-client-ca-file": string(s.PKI().FrontProxyCA()), "requestheader-allowed-names": `["system:auth-proxy"]`,
		"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-uid-headers": `["X-Remote-Uid"]`, "requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	} {
		if m.Data[key] != want {
			t.Errorf("%s: %q", key, m.Data[key])
		}
	}
}

// A namespace goes with what other servers hold in it, and stays while nobody knows
// what that is.
func TestNamespaceOfAggregatedObjects(t *testing.T) {
	s, e, c := serving(t, nil)
	ctx := t.Context()
	specs, err := controllers.Specs(controllers.Deps{Client: s.Client(api.ControllerUser, api.GroupMasters), ClusterCIDR: "10.42.0.0/16", RootCA: []byte("PEM"),
		Kinds: s.Kinds, Changed: s.KindsChanged, Others: s.Others("namespace-controller"), Owned: s.Others("generic-garbage-collector")})
	if err != nil {
		t.Fatal(err)
	}
	specs = slices.DeleteFunc(specs, func(s reconcile.Spec) bool { return s.Name != "namespace" })
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- reconcile.Run(running, c, specs...) }()
	defer func() { stop(); <-ended }()
	admin := user(t, s, "alice", api.GroupMasters)
	const flunders = "/apis/wardle.example.com/v1alpha1/namespaces/full/flunders"
	setUp(t, admin, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"full"}}`}, [2]string{flunders, `{"metadata":{"name":"a"}}`})
	slice := client.Cached(c, api.EndpointSlices, "wardle", "api-1").DeepCopy()
	slice.Endpoints[0].Conditions.Ready = new(false)
	must[discovery.EndpointSlice](t)(client.Update(ctx, c, api.EndpointSlices, slice))
	says(t, c, wardle, "MissingEndpoints")
	admin.do("DELETE", "/api/v1/namespaces/full", "")
	wait := func(what string, is func(*core.Namespace) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !is(client.Cached(c, api.Namespaces, "", "full")); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", what, client.Cached(c, api.Namespaces, "", "full"))
			}
		}
	}
	const text = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: wardle.example.com/v1alpha1: stale GroupVersion discovery: wardle.example.com/v1alpha1"
	wait("it does not say what it waits for", func(n *core.Namespace) bool {
		return n != nil && slices.ContainsFunc(n.Status.Conditions, func(c core.NamespaceCondition) bool {
			return c.Type == core.NamespaceDeletionDiscoveryFailure && c.Status == core.ConditionTrue && c.Reason == "DiscoveryFailed" && c.Message == text
		})
	})
	slice = client.Cached(c, api.EndpointSlices, "wardle", "api-1").DeepCopy()
	slice.Endpoints[0].Conditions.Ready = new(true)
	must[discovery.EndpointSlice](t)(client.Update(ctx, c, api.EndpointSlices, slice))
	wait("it does not go", func(n *core.Namespace) bool { return n == nil })
	if left := e.Flunders(); len(left) > 0 {
		t.Errorf("orphans: %v", left)
	}
}

// running runs some of the controllers, by their names.
func running(t *testing.T, s *Server, names ...string) {
	t.Helper()
	specs, err := controllers.Specs(controllers.Deps{Client: s.Client(api.ControllerUser, api.GroupMasters), ClusterCIDR: "10.42.0.0/16", RootCA: s.PKI().ServerCA(),
		Kinds: s.Collected, Changed: s.KindsChanged, Others: s.Others("namespace-controller"), Owned: s.Others("generic-garbage-collector")})
	if err != nil {
		t.Fatal(err)
	}
	specs = slices.DeleteFunc(specs, func(s reconcile.Spec) bool { return !slices.Contains(names, s.Name) })
	if len(specs) != len(names) {
		t.Fatalf("%d controllers of %q", len(specs), names)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- reconcile.Run(ctx, s.Client(api.ControllerUser, api.GroupMasters), specs...) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// owned is an object with an owner, as JSON.
func owned(name, ownerVersion, ownerKind, owner, uid string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"ownerReferences":[{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q}]}}`, name, ownerVersion, ownerKind, owner, uid)
}

// Owners and dependents may be another server's: what depends on them goes when they do.
func TestGarbageOfAggregatedObjects(t *testing.T) {
	s, e, _ := serving(t, nil)
	running(t, s, "garbage")
	admin := user(t, s, "alice", api.GroupMasters)
	const flunders, maps, version = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders", "/api/v1/namespaces/default/configmaps", "wardle.example.com/v1alpha1"
	uid := func(path string) string {
		t.Helper()
		code, text := admin.do("GET", path, "")
		var o metav1.PartialObjectMetadata
		if err := json.Unmarshal([]byte(text), &o); code != 200 || err != nil {
			t.Fatalf("%d %s", code, text)
		}
		return string(o.UID)
	}
	gone := func(what, path string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if code, text := admin.do("GET", path, ""); code == 404 {
				return
			} else if time.Now().After(end) {
				t.Fatalf("%s: %d %s", what, code, text)
			}
		}
	}
	setUp(t, admin, [2]string{flunders, `{"metadata":{"name":"owner"}}`}, [2]string{maps, `{"metadata":{"name":"owner"}}`})
	setUp(t, admin, [2]string{maps, owned("of-flunder", version, "Flunder", "owner", uid(flunders+"/owner"))},
		[2]string{flunders, owned("of-map", "v1", "ConfigMap", "owner", uid(maps+"/owner"))},
		[2]string{maps, owned("of-nobody", version, "Flunder", "never", "no-such-uid")},
		[2]string{maps, owned("of-unknown", "nowhere.example.com/v1", "Thing", "a", "some-uid")})
	gone("its owner never was", maps+"/of-nobody")
	if code, text := admin.do("GET", maps+"/of-flunder", ""); code != 200 {
		t.Errorf("its owner is there: %d %s", code, text)
	}
	admin.do("DELETE", maps+"/owner", "")
	gone("a dependent elsewhere", flunders+"/of-map")
	admin.do("DELETE", flunders+"/owner", "")
	gone("a dependent here", maps+"/of-flunder")
	// In the foreground the owner waits for what depends on it, and elsewhere does so too.
	setUp(t, admin, [2]string{flunders, `{"metadata":{"name":"waits"}}`})
	setUp(t, admin, [2]string{maps, strings.Replace(owned("last", version, "Flunder", "waits", uid(flunders+"/waits")), `"uid"`, `"blockOwnerDeletion":true,"uid"`, 1)})
	if code, text := admin.do("DELETE", flunders+"/waits", `{"propagationPolicy":"Foreground"}`); code != 200 {
		t.Errorf("%d %s", code, text)
	}
	gone("the owner that waits", flunders+"/waits")
	if code, text := admin.do("GET", maps+"/last", ""); code != 404 {
		t.Errorf("the owner did not wait: %d %s", code, text)
	}
	// One owner of two goes: the other keeps the object.
	setUp(t, admin, [2]string{maps, `{"metadata":{"name":"stays"}}`}, [2]string{maps, `{"metadata":{"name":"goes"}}`})
	two := strings.TrimSuffix(owned("of-two", "v1", "ConfigMap", "stays", uid(maps+"/stays")), "]}}") + fmt.Sprintf(`,{"apiVersion":"v1","kind":"ConfigMap","name":"goes","uid":%q}]}}`, uid(maps+"/goes"))
	setUp(t, admin, [2]string{flunders, two})
	admin.do("DELETE", maps+"/goes", "")
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		code, text := admin.do("GET", flunders+"/of-two", "")
		if code == 200 && !strings.Contains(text, `"goes"`) && strings.Contains(text, `"stays"`) {
			break
		} else if code != 200 || time.Now().After(end) {
			t.Fatalf("of two owners one went: %d %s", code, text)
		}
	}
	admin.do("DELETE", maps+"/stays", "")
	gone("the last owner is gone", flunders+"/of-two")
	if code, text := admin.do("GET", maps+"/of-unknown", ""); code != 200 {
		t.Errorf("nobody knows its owner's kind: %d %s", code, text)
	}
	if left := e.Flunders(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// While a server cannot be asked, dependents of its objects stay, and nobody asks in haste.
func TestGarbageOfAnUnavailableServer(t *testing.T) {
	s, e, c := serving(t, nil)
	running(t, s, "garbage")
	admin := user(t, s, "alice", api.GroupMasters)
	const flunders, maps, version = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders", "/api/v1/namespaces/default/configmaps", "wardle.example.com/v1alpha1"
	setUp(t, admin, [2]string{maps, owned("seen", version, "Flunder", "never", "no-such-uid")})
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // the kind is known from here on
		if code, _ := admin.do("GET", maps+"/seen", ""); code == 404 {
			break
		} else if time.Now().After(end) {
			t.Fatal("the collector does not know the kind")
		}
	}
	e.SetDown(true)
	slice := client.Cached(c, api.EndpointSlices, "wardle", "api-1").DeepCopy()
	slice.Endpoints[0].Conditions.Ready = new(false)
	must[discovery.EndpointSlice](t)(client.Update(t.Context(), c, api.EndpointSlices, slice))
	says(t, c, wardle, "MissingEndpoints")
	setUp(t, admin, [2]string{maps, owned("waits", version, "Flunder", "never", "no-such-uid")})
	time.Sleep(time.Second)
	if code, text := admin.do("GET", maps+"/waits", ""); code != 200 {
		t.Errorf("deleted on a guess: %d %s", code, text)
	}
	if n := e.Requests(); n > 30 {
		t.Errorf("%d requests while it was down", n)
	}
	e.SetDown(false)
	slice = client.Cached(c, api.EndpointSlices, "wardle", "api-1").DeepCopy()
	slice.Endpoints[0].Conditions.Ready = new(true)
	must[discovery.EndpointSlice](t)(client.Update(t.Context(), c, api.EndpointSlices, slice))
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if code, text := admin.do("GET", maps+"/waits", ""); code == 404 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("still there: %d %s", code, text)
		}
	}
}

// Discovery follows where an administrator puts versions of ours.
func TestPrioritiesOfLocalVersions(t *testing.T) {
	s, _, c := extended(t)
	admin := user(t, s, "alice", api.GroupMasters)
	order := func() (groups, autoscaling string) {
		t.Helper()
		_, text := admin.do("GET", "/apis", "")
		var list metav1.APIGroupList
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		for _, g := range list.Groups {
			groups += g.Name + " "
			if g.Name == "autoscaling" {
				autoscaling = g.PreferredVersion.Version
			}
		}
		return groups, autoscaling
	}
	if groups, version := order(); version != "v2" || strings.Index(groups, " apps ") > strings.Index(groups, " batch ") {
		t.Errorf("%s %s", groups, version)
	}
	edit := func(name, patch string) {
		t.Helper()
		admin.header = http.Header{"Content-Type": {"application/merge-patch+json"}}
		defer func() { admin.header = nil }()
		for end := time.Now().Add(time.Minute); client.Cached(c, api.APIServices, "", name) == nil && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		}
		if code, text := admin.do("PATCH", "/apis/apiregistration.k8s.io/v1/apiservices/"+name, patch); code != 200 {
			t.Fatalf("%d %s", code, text)
		}
	}
	want := func(what string, is func(groups, version string) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !is(order()); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				groups, version := order()
				t.Fatalf("%s: %s %s", what, groups, version)
			}
		}
	}
	edit("v1.autoscaling", `{"spec":{"versionPriority":90}}`)
	want("the other version", func(_, version string) bool { return version == "v1" })
	edit("v1.batch", `{"spec":{"groupPriorityMinimum":19000}}`)
	want("the group moves ahead", func(groups, _ string) bool { return strings.Index(groups, "batch ") < strings.Index(groups, "apps ") })
	edit("v1.autoscaling", `{"spec":{"versionPriority":15}}`)
	want("and back", func(_, version string) bool { return version == "v2" })
}
