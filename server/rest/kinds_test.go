package rest

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"orch/api"
	"orch/server/rest/surface"
)

// exempt lists what no request can exercise here, and why.
var exempt = map[string]string{
	"pods/attach create": "connect_test.go", "pods/attach get": "connect_test.go",
	"pods/exec create": "connect_test.go", "pods/exec get": "connect_test.go",
	"pods/log get":            "connect_test.go",
	"pods/portforward create": "connect_test.go", "pods/portforward get": "connect_test.go",
	"pods/proxy": "connect_test.go", "services/proxy": "connect_test.go", "nodes/proxy": "connect_test.go",
	"pods/binding create": "scheduler's e2e", "pods/eviction create": "registry's tests", "pods/resize": "registry's tests", "pods/ephemeralcontainers": "registry's tests",
	"serviceaccounts/token create": "access's tests: it needs a signer", "namespaces/finalize update": "registry's tests",
	"certificatesigningrequests/approval": "registry's tests",
	"bindings create":                     "scheduler's e2e", "componentstatuses get": "computed by nobody yet", "componentstatuses list": "computed by nobody yet",
}

func isExempt(resource, verb string) bool {
	if exempt[resource] != "" || exempt[resource+" "+verb] != "" {
		return true
	}
	return strings.HasSuffix(resource, "reviews") // access's tests: they need an authorizer
}

// Every kind goes through every verb over HTTP, in JSON and with what comes back
// in protobuf; what was not exercised must be exempt.
func TestEveryKindAndVerb(t *testing.T) {
	w := newWorld(t, nil)
	did := map[string]bool{}
	objects := fixtures(t)
	for _, f := range api.All() {
		fixture := objects[f.GVK()]
		if fixture == nil {
			if !f.Computed {
				t.Errorf("no fixture of %s", f.GVK())
			}
			continue
		}
		t.Run(f.Plural+"."+f.Group+"."+f.Version, func(t *testing.T) {
			x := exercise{t: t, w: w, f: f, o: fixture, did: did}
			x.all()
		})
	}
	for _, f := range api.All() {
		for _, v := range surface.Verbs(f) {
			if key := f.Plural + " " + v; !did[f.GVR().String()+" "+v] && !isExempt(f.Plural, v) {
				t.Errorf("not exercised: %s", key)
			}
		}
		for _, s := range surface.Subresources(f) {
			for _, v := range s.Verbs {
				if name := f.Plural + "/" + s.Name; !did[f.GVR().String()+"/"+s.Name+" "+v] && !isExempt(name, v) {
					t.Errorf("not exercised: %s %s", name, v)
				}
			}
		}
	}
	if strings.Contains(w.log.String(), "panic") {
		t.Error(w.log.String())
	}
}

func fixtures(t *testing.T) map[schema.GroupVersionKind]*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile("testdata/kinds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte("request: CSR"), []byte("request: "+certificateRequest(t)), 1)
	all := map[schema.GroupVersionKind]*unstructured.Unstructured{}
	for _, doc := range strings.Split(string(data), "\n---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		if o.GetName() == "" {
			o.SetName("x")
		}
		all[o.GroupVersionKind()] = o
	}
	return all
}

func certificateRequest(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

type exercise struct {
	t   *testing.T
	w   *world
	f   *api.Facts
	o   *unstructured.Unstructured
	did map[string]bool
}

func (x *exercise) path(sub string) string {
	p := "/apis/" + x.f.Group + "/" + x.f.Version
	if x.f.Group == "" {
		p = "/api/" + x.f.Version
	}
	if !x.f.Cluster {
		p += "/namespaces/default"
	}
	return p + "/" + x.f.Plural + sub
}

// ask sends a request, wants the code, notes the verb, and gives the answer.
func (x *exercise) ask(verb, sub string, code int, method, path, body string, header ...string) map[string]any {
	x.t.Helper()
	if body != "" && len(header) == 0 {
		header = []string{"Content-Type", "application/json"}
	}
	resp, data := x.w.do(x.t, method, path, body, header...)
	if resp.StatusCode != code {
		x.t.Fatalf("%s %s: %s\n%s", method, path, resp.Status, data)
	}
	key := x.f.GVR().String()
	if sub != "" {
		key += "/" + sub
	}
	x.did[key+" "+verb] = true
	var out map[string]any
	if len(data) > 0 && data[0] == '{' {
		_ = json.Unmarshal(data, &out) // a watch gives several; nobody looks at them
	}
	return out
}

func (x *exercise) all() {
	name := x.o.GetName()
	body, err := x.o.MarshalJSON()
	if err != nil {
		x.t.Fatal(err)
	}
	one := x.path("/" + name)
	made := x.ask("create", "", 201, "POST", x.path("")+"?fieldValidation=Strict", string(body))
	if made["kind"] != x.f.Kind || made["apiVersion"] != x.f.GroupVersion().String() {
		x.t.Errorf("created %v %v", made["apiVersion"], made["kind"])
	}
	x.ask("get", "", 200, "GET", one, "")
	x.formats(one)
	list := x.ask("list", "", 200, "GET", x.path(""), "")
	if list["kind"] != x.f.Kind+"List" || len(list["items"].([]any)) == 0 {
		x.t.Errorf("list: %v", list)
	}
	x.watch(x.path("?watch=1&fieldSelector=metadata.name%3D" + name))
	now := x.ask("get", "", 200, "GET", one, "")
	text, _ := json.Marshal(now)
	x.ask("update", "", 200, "PUT", one, string(text))
	x.ask("patch", "", 200, "PATCH", one, `{"metadata":{"labels":{"seen":"1"}}}`, "Content-Type", "application/merge-patch+json")
	x.ask("patch", "", 200, "PATCH", one, `{"metadata":{"labels":{"seen":"2"}}}`, "Content-Type", "application/strategic-merge-patch+json")
	x.ask("patch", "", 200, "PATCH", one, `[{"op":"replace","path":"/metadata/labels/seen","value":"3"}]`, "Content-Type", "application/json-patch+json")
	apply := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q,"labels":{"mine":"1"}}}`, x.f.GroupVersion(), x.f.Kind, name)
	x.ask("patch", "", 200, "PATCH", one+"?fieldManager=me", apply, "Content-Type", "application/apply-patch+yaml")
	x.subresource("status", x.f.Status, one)
	x.subresource("scale", x.f.Scale, one)
	x.ask("delete", "", 200, "DELETE", one+"?gracePeriodSeconds=0", "")
	if surface.Serves(x.f, "", "deletecollection") {
		x.ask("deletecollection", "", 200, "DELETE", x.path("?gracePeriodSeconds=0"), "")
	}
}

// formats reads the object in every form it has.
func (x *exercise) formats(one string) {
	for _, accept := range []string{"application/yaml", protobufType, "application/json;as=Table;g=meta.k8s.io;v=v1", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
		protobufType + ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"} {
		for _, path := range []string{one, x.path("")} {
			if resp, data := x.w.do(x.t, "GET", path, "", "Accept", accept); resp.StatusCode != 200 {
				x.t.Errorf("%s as %s: %s %s", path, accept, resp.Status, data)
			} else if accept == protobufType && path == one {
				if o, _, err := codec().Decode(data, nil, nil); err != nil || o.GetObjectKind().GroupVersionKind().Kind != x.f.Kind {
					x.t.Errorf("%s as protobuf: %v", path, err)
				}
			}
		}
	}
}

func (x *exercise) subresource(sub string, has bool, one string) {
	path := one + "/" + sub
	if !has {
		if resp, _ := x.w.do(x.t, "GET", path, ""); resp.StatusCode != 404 {
			x.t.Errorf("%s: %s", path, resp.Status)
		}
		return
	}
	now := x.ask("get", sub, 200, "GET", path, "")
	if sub == "scale" && now["kind"] != "Scale" {
		x.t.Errorf("scale is %v", now)
	}
	text, _ := json.Marshal(now)
	x.ask("update", sub, 200, "PUT", path, string(text))
	patch := `{"metadata":{"annotations":{"a":"b"}}}`
	if sub == "scale" {
		patch = `{"spec":{"replicas":2}}`
	}
	x.ask("patch", sub, 200, "PATCH", path, patch, "Content-Type", "application/merge-patch+json")
}

// watch reads the first event and goes.
func (x *exercise) watch(path string) {
	x.t.Helper()
	resp, err := http.Get(x.w.http.URL + path)
	if err != nil {
		x.t.Fatal(err)
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, `{"type":"ADDED","object":{"kind":"`+x.f.Kind+`"`) {
		x.t.Errorf("watch: %v %s", err, line)
	}
	x.did[x.f.GVR().String()+" watch"] = true
}
