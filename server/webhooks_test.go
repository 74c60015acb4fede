package server

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/server/registry"
)

// hooks is a server of webhooks: what it answers is told by path.
type hooks struct {
	*httptest.Server
	ca string

	mu   sync.Mutex
	seen []seenReview
}

type seenReview struct {
	path, version string
	*admissionv1.AdmissionRequest
	object, old map[string]any
}

type answers map[string]func(*admissionv1.AdmissionRequest, *admissionv1.AdmissionResponse)

func newHooks(t testing.TB, a answers, raw map[string]http.HandlerFunc) *hooks {
	t.Helper()
	h := &hooks{}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := raw[r.URL.Path]; f != nil {
			f(w, r)
			return
		}
		var in admissionv1.AdmissionReview
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &in); err != nil || r.Header.Get("Authorization") != "" || len(r.TLS.PeerCertificates) > 0 {
			t.Errorf("%v %s", err, body)
		}
		s := seenReview{path: r.URL.Path, version: in.APIVersion, AdmissionRequest: in.Request}
		_ = json.Unmarshal(in.Request.Object.Raw, &s.object)
		_ = json.Unmarshal(in.Request.OldObject.Raw, &s.old)
		h.mu.Lock()
		h.seen = append(h.seen, s)
		h.mu.Unlock()
		out := admissionv1.AdmissionReview{TypeMeta: in.TypeMeta, Response: &admissionv1.AdmissionResponse{UID: in.Request.UID, Allowed: true}}
		if f := a[r.URL.Path]; f != nil {
			f(in.Request, out.Response)
		}
		_ = json.NewEncoder(w).Encode(out)
	}))
	t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
	h.ca = base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}))
	return h
}

// reviews are the calls to a path since the last question.
func (h *hooks) reviews(path string) (out []seenReview) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rest := h.seen[:0]
	for _, s := range h.seen {
		if s.path == path {
			out = append(out, s)
		} else {
			rest = append(rest, s)
		}
	}
	h.seen = rest
	return out
}

// configuration of one webhook at a path, for ConfigMaps unless extra has rules.
func (h *hooks) configuration(kind, name, path, extra string) string {
	if !strings.Contains(extra, `"rules"`) {
		extra += `,"rules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"],"operations":["*"]}]`
	}
	if !strings.Contains(extra, `"sideEffects"`) {
		extra += `,"sideEffects":"None"`
	}
	if !strings.Contains(extra, `"admissionReviewVersions"`) {
		extra += `,"admissionReviewVersions":["v1"]`
	}
	return fmt.Sprintf(`{"metadata":{"name":%q},"webhooks":[{"name":"%s.example.com","clientConfig":{"url":%q,"caBundle":%q}%s}]}`,
		name, name, h.URL+path, h.ca, extra)
}

const (
	validatingPath = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
	mutatingPath   = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
	mapsPath       = "/api/v1/namespaces/a/configmaps"
)

func configMap(name, rest string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q%s}}`, name, rest)
}

func patch(r *admissionv1.AdmissionResponse, text string) {
	r.Patch, r.PatchType = []byte(text), new(admissionv1.PatchTypeJSONPatch)
}

func hooked(t *testing.T) (*Server, *caller) {
	t.Helper()
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", "system:masters")
	setUp(t, admin, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"a","labels":{"team":"a"}}}`}, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"b"}}`})
	return s, admin
}

// TestWebhookAnswers: what users see of every way a validating webhook can answer, with
// both failure policies.
func TestWebhookAnswers(t *testing.T) {
	_, admin := hooked(t)
	no := func(s *metav1.Status) func(*admissionv1.AdmissionRequest, *admissionv1.AdmissionResponse) {
		return func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) {
			r.Allowed, r.Result = false, s
		}
	}
	h := newHooks(t, answers{
		"/denies": no(nil), "/teapot": no(&metav1.Status{Code: 418, Message: "short and stout", Reason: "Teapot"}), "/reason": no(&metav1.Status{Code: 200, Reason: "NotGood"}),
		"/uid":   func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) { r.UID = "other" },
		"/patch": func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) { patch(r, `[]`) },
		"/warns": func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) {
			r.Warnings = []string{"mind the gap"}
		},
	}, map[string]http.HandlerFunc{
		"/garbage": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"/empty":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") },
		"/huge":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 12<<20)) },
		"/redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/fine", http.StatusTemporaryRedirect)
		},
		"/broken": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of order", 500) },
		"/hangs": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that the client goes
			<-r.Context().Done()
		},
		"/closes": func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			_ = c.Close()
		},
	})
	const failed = `Internal error occurred: failed calling webhook "w.example.com": `
	for _, tc := range []struct {
		path string
		code int
		says string
		open bool // goes through with failurePolicy Ignore
	}{
		{"/fine", 201, "", true},
		{"/warns", 201, "", true},
		{"/denies", 400, `admission webhook "w.example.com" denied the request without explanation`, false},
		{"/teapot", 418, `admission webhook "w.example.com" denied the request: short and stout`, false},
		{"/reason", 400, `admission webhook "w.example.com" denied the request: NotGood`, false},
		{"/uid", 500, failed + `received invalid webhook response: expected response.uid=`, true},
		{"/patch", 500, failed + `received invalid webhook response: validating webhook may not return response.patch`, true},
		{"/empty", 500, failed + `received invalid webhook response: webhook response was absent`, true},
		{"/garbage", 500, failed + `failed to call webhook: `, true},
		{"/huge", 500, failed + `failed to call webhook: the response is larger than the limit of 10485760 bytes`, true},
		{"/redirect", 500, failed + `failed to call webhook: the server responded with the status code 307`, true},
		{"/broken", 500, failed + `failed to call webhook: an error on the server ("out of order") has prevented the request from succeeding`, true},
		{"/closes", 500, failed + `failed to call webhook: Post "` + h.URL + `/closes?timeout=30s": EOF`, true},
		{"/hangs", 500, failed + `failed to call webhook: Post "` + h.URL + `/hangs?timeout=1s": context deadline exceeded`, true},
		{"https://169.254.169.254/", 500, "link-local", true},
	} {
		for _, policy := range []string{"Fail", "Ignore"} {
			t.Run(strings.Trim(tc.path, "/")+" "+policy, func(t *testing.T) {
				seconds := 30
				if tc.path == "/hangs" {
					seconds = 1
				}
				body := h.configuration("", "w", tc.path, fmt.Sprintf(`,"timeoutSeconds":%d,"failurePolicy":%q`, seconds, policy))
				if strings.HasPrefix(tc.path, "https:") {
					body = strings.Replace(body, h.URL, "", 1)
				}
				setUp(t, admin, [2]string{validatingPath, body})
				code, m := admin.message("POST", mapsPath, configMap("x", ""))
				want := tc.code
				if policy == "Ignore" && tc.open {
					want = 201
				}
				if code != want || want != 201 && !strings.Contains(m, tc.says) {
					t.Errorf("%d %s\nwant %d %s", code, m, want, tc.says)
				}
				admin.do("DELETE", validatingPath+"/w", "")
				admin.do("DELETE", mapsPath+"/x", "")
			})
		}
	}
	if _, page := admin.do("GET", "/metrics", ""); !strings.Contains(page, `apiserver_admission_webhook_rejection_count{error_type="no_error",name="w.example.com",operation="CREATE",rejection_code="418",type="validating"} `) ||
		!strings.Contains(page, `apiserver_admission_webhook_fail_open_count{name="w.example.com",type="validating"}`) {
		t.Error("the numbers are not on the page")
	}
}

// TestWebhookMatching: which requests a webhook is asked about.
func TestWebhookMatching(t *testing.T) {
	_, admin := hooked(t)
	h := newHooks(t, nil, nil)
	rule := func(group, version, resource, op string) string {
		return fmt.Sprintf(`,"rules":[{"apiGroups":[%q],"apiVersions":[%q],"resources":[%q],"operations":[%q]}]`, group, version, resource, op)
	}
	const hpa = `{"metadata":{"name":"x"},"spec":{"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"},"maxReplicas":3}}`
	for i, tc := range []struct {
		name, extra, path, body string
		calls                   int
	}{
		{"the rule", "", mapsPath, configMap("x", ""), 1},
		{"another operation", rule("", "v1", "configmaps", "UPDATE"), mapsPath, configMap("x", ""), 0},
		{"another resource", rule("", "v1", "secrets", "*"), mapsPath, configMap("x", ""), 0},
		{"everything", rule("*", "*", "*/*", "*"), mapsPath, configMap("x", ""), 1},
		{"only subresources", rule("*", "*", "configmaps/status", "*"), mapsPath, configMap("x", ""), 0},
		{"cluster scope", strings.Replace(rule("*", "*", "*", "*"), `"apiG`, `"scope":"Cluster","apiG`, 1), mapsPath, configMap("x", ""), 0},
		{"namespace by label", `,"namespaceSelector":{"matchLabels":{"team":"a"}}`, mapsPath, configMap("x", ""), 1},
		{"namespace without it", `,"namespaceSelector":{"matchLabels":{"team":"a"}}`, "/api/v1/namespaces/b/configmaps", configMap("x", ""), 0},
		{"object by label", `,"objectSelector":{"matchLabels":{"l":"1"}}`, mapsPath, configMap("x", `,"labels":{"l":"1"}`), 1},
		{"object without it", `,"objectSelector":{"matchLabels":{"l":"1"}}`, mapsPath, configMap("x", ""), 0},
		{"condition that holds", `,"matchConditions":[{"name":"c","expression":"object.metadata.name == 'x' && request.operation == 'CREATE'"}]`, mapsPath, configMap("x", ""), 1},
		{"condition that does not", `,"matchConditions":[{"name":"c","expression":"request.userInfo.username != 'admin'"}]`, mapsPath, configMap("x", ""), 0},
		{"condition about rights", `,"matchConditions":[{"name":"c","expression":"!authorizer.group('').resource('pods').check('get').allowed()"}]`, mapsPath, configMap("x", ""), 0},
		{"another version, equivalent", rule("autoscaling", "v1", "horizontalpodautoscalers", "*"), "/apis/autoscaling/v2/namespaces/a/horizontalpodautoscalers", hpa, 1},
		{"another version, exact", rule("autoscaling", "v1", "horizontalpodautoscalers", "*") + `,"matchPolicy":"Exact"`, "/apis/autoscaling/v2/namespaces/a/horizontalpodautoscalers", hpa, 0},
		{"reviews are exempt", rule("*", "*", "*", "*"), "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`, 0},
		{"configurations are exempt", rule("*", "*", "*", "*"), mutatingPath, `{"metadata":{"name":"x"}}`, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := fmt.Sprintf("/%d", i)
			setUp(t, admin, [2]string{validatingPath, h.configuration("", "w", path, tc.extra)})
			if code, m := admin.message("POST", tc.path, tc.body); code != 201 {
				t.Errorf("%d %s", code, m)
			}
			admin.do("DELETE", validatingPath+"/w", "")
			admin.do("DELETE", tc.path+"/x", "")
			got := h.reviews(path)
			if len(got) != tc.calls {
				t.Errorf("%d calls, want %d", len(got), tc.calls)
			}
			if strings.Contains(tc.name, "equivalent") && len(got) == 1 && (got[0].object["apiVersion"] != "autoscaling/v1" || got[0].Kind.Version != "v1" || got[0].RequestKind.Version != "v2") {
				t.Errorf("%+v", got[0].AdmissionRequest)
			}
		})
	}
}

// TestWebhookSeesTheRequest: the review of every operation and subresource, and dry run.
func TestWebhookSeesTheRequest(t *testing.T) {
	_, admin := hooked(t)
	h := newHooks(t, nil, nil)
	all := `,"rules":[{"apiGroups":["*"],"apiVersions":["*"],"resources":["configmaps","deployments","deployments/*","namespaces","pods/*"],"operations":["*"]}]`
	setUp(t, admin, [2]string{validatingPath, h.configuration("", "w", "/see", all+`,"sideEffects":"NoneOnDryRun"`)})
	check := func(what, op, kind, sub, options string, code int, method, path, body string) seenReview {
		t.Helper()
		if got, m := admin.message(method, path, body); got != code {
			t.Errorf("%s: %d %s", what, got, m)
		}
		seen := h.reviews("/see")
		if len(seen) != 1 {
			t.Fatalf("%s: %d reviews", what, len(seen))
		}
		s := seen[0]
		if string(s.Operation) != op || s.Kind.Kind != kind || s.SubResource != sub || s.UserInfo.Username != "admin" || !strings.Contains(string(s.Options.Raw), `"kind":"`+options+`"`) {
			t.Errorf("%s: %s %s %q %s", what, s.Operation, s.Kind, s.SubResource, s.Options.Raw)
		}
		return s
	}
	s := check("create", "CREATE", "ConfigMap", "", "CreateOptions", 201, "POST", mapsPath, configMap("x", ""))
	if s.old != nil || s.object["kind"] != "ConfigMap" || s.Name != "x" || s.Namespace != "a" {
		t.Errorf("%+v", s)
	}
	s = check("patch", "UPDATE", "ConfigMap", "", "UpdateOptions", 200, "PATCH", mapsPath+"/x", `{"data":{"a":"b"}}`)
	if s.old["data"] != nil || fmt.Sprint(s.object["data"]) != "map[a:b]" {
		t.Errorf("%+v", s)
	}
	s = check("dry run", "UPDATE", "ConfigMap", "", "UpdateOptions", 200, "PATCH", mapsPath+"/x?dryRun=All", `{"data":{"a":"c"}}`)
	if !*s.DryRun {
		t.Error("not told that it is a dry run")
	}
	if s = check("delete", "DELETE", "ConfigMap", "", "DeleteOptions", 200, "DELETE", mapsPath+"/x", ""); s.object != nil || s.old == nil {
		t.Errorf("%+v", s)
	}
	s = check("namespace", "CREATE", "Namespace", "", "CreateOptions", 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"c"}}`)
	if s.Namespace != "c" {
		t.Errorf("a Namespace is in itself, not in %q", s.Namespace)
	}
	const deploy = "/apis/apps/v1/namespaces/a/deployments"
	check("deployment", "CREATE", "Deployment", "", "CreateOptions", 201, "POST", deploy, `{"metadata":{"name":"d"},"spec":{"replicas":0,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}}}`)
	s = check("scale", "UPDATE", "Scale", "scale", "UpdateOptions", 200, "PATCH", deploy+"/d/scale", `{"spec":{"replicas":2}}`)
	if s.object["apiVersion"] != "autoscaling/v1" || fmt.Sprint(s.object["spec"]) != "map[replicas:2]" {
		t.Errorf("%+v", s.object)
	}
	check("status", "UPDATE", "Deployment", "status", "UpdateOptions", 200, "PATCH", deploy+"/d/status", `{"status":{"replicas":1}}`)
	admin.do("DELETE", validatingPath+"/w", "")
	setUp(t, admin, [2]string{validatingPath, h.configuration("", "old", "/old", `,"admissionReviewVersions":["v2","v1beta1","v1"]`)}, [2]string{mapsPath, configMap("y", "")})
	if got := h.reviews("/old"); len(got) != 1 || got[0].version != "admission.k8s.io/v1beta1" {
		t.Errorf("%+v", got)
	}
}

// TestMutatingWebhooks: order, patches, defaults and preparation afterwards, reinvocation.
func TestMutatingWebhooks(t *testing.T) {
	_, admin := hooked(t)
	label := func(key, value string) func(*admissionv1.AdmissionRequest, *admissionv1.AdmissionResponse) {
		return func(q *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) {
			var o metav1.PartialObjectMetadata
			_ = json.Unmarshal(q.Object.Raw, &o)
			switch {
			case o.Labels == nil:
				patch(r, fmt.Sprintf(`[{"op":"add","path":"/metadata/labels","value":{%q:%q}}]`, key, value))
			case o.Labels[key] == "":
				patch(r, fmt.Sprintf(`[{"op":"add","path":"/metadata/labels/%s","value":%q}]`, key, value))
			}
		}
	}
	h := newHooks(t, answers{
		"/a": label("a", "1"), "/b": label("b", "2"),
		"/bad": func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) {
			patch(r, `[{"op":"remove","path":"/nix"}]`)
		},
		"/garbage": func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) { patch(r, `{"op`) },
		"/type":    func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) { r.Patch = []byte(`[]`) },
		"/deployment": func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) {
			patch(r, `[{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"side","image":"y:1"}},{"op":"add","path":"/status","value":{"replicas":9}},{"op":"replace","path":"/metadata/uid","value":"mine"}]`)
		},
	}, nil)
	const pods = `,"rules":[{"apiGroups":["apps"],"apiVersions":["*"],"resources":["deployments"],"operations":["CREATE"]}]`
	setUp(t, admin,
		[2]string{mutatingPath, h.configuration("", "a-first", "/a", `,"reinvocationPolicy":"IfNeeded"`)},
		[2]string{mutatingPath, h.configuration("", "b-second", "/b", "")},
		[2]string{mutatingPath, h.configuration("", "deploy", "/deployment", pods)},
		[2]string{mapsPath, configMap("x", "")},
	)
	if _, body := admin.do("GET", mapsPath+"/x", ""); !strings.Contains(body, `"labels":{"a":"1","b":"2"}`) {
		t.Error(body)
	}
	if a, b := len(h.reviews("/a")), len(h.reviews("/b")); a != 2 || b != 1 {
		t.Errorf("the first was called %d times, the second %d: want 2 and 1", a, b)
	}
	code, body := admin.do("POST", "/apis/apps/v1/namespaces/a/deployments", `{"metadata":{"name":"d"},"spec":{"replicas":0,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}}}`)
	if code != 201 || !strings.Contains(body, `"name":"side"`) || strings.Count(body, `"terminationMessagePolicy":"File"`) != 2 || strings.Contains(body, `"replicas":9`) || strings.Contains(body, `"uid":"mine"`) {
		t.Errorf("%d %s", code, body)
	}
	admin.do("DELETE", mutatingPath+"/a-first", "")
	admin.do("DELETE", mutatingPath+"/b-second", "")
	for path, says := range map[string]string{
		"/bad":     `Internal error occurred: `,
		"/garbage": `Internal error occurred: failed calling webhook "w.example.com": received undecodable patch in webhook response: `,
		"/type":    `failed calling webhook "w.example.com": received invalid webhook response: webhook returned response.patch but not response.patchType`,
	} {
		setUp(t, admin, [2]string{mutatingPath, h.configuration("", "w", path, "")})
		if code, m := admin.message("POST", mapsPath, configMap("y", "")); code != 500 || !strings.Contains(m, says) {
			t.Errorf("%s: %d %s", path, code, m)
		}
		admin.do("DELETE", mutatingPath+"/w", "")
	}
}

// TestWebhooksOfAnUpdateOfAConfiguration: a change counts for the next request.
func TestWebhookConfigurationChangesAtOnce(t *testing.T) {
	_, admin := hooked(t)
	h := newHooks(t, answers{"/no": func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) { r.Allowed = false }}, nil)
	for i := range 20 {
		setUp(t, admin, [2]string{validatingPath, h.configuration("", "w", "/no", "")})
		if code, _ := admin.message("POST", mapsPath, configMap(fmt.Sprint("x", i), "")); code != 400 {
			t.Errorf("%d with a webhook that denies", code)
		}
		admin.do("DELETE", validatingPath+"/w", "")
		if code, _ := admin.message("POST", mapsPath, configMap(fmt.Sprint("x", i), "")); code != 201 {
			t.Errorf("%d without it", code)
		}
	}
}

// TestWebhookSeesConnections: exec, eviction and binding are asked about with their own bodies.
func TestWebhookSeesConnections(t *testing.T) {
	_, admin := hooked(t)
	h := newHooks(t, answers{"/no": func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) { r.Allowed = false }}, nil)
	setUp(t, admin,
		[2]string{"/api/v1/namespaces/a/serviceaccounts", `{"metadata":{"name":"default"}}`},
		[2]string{"/api/v1/namespaces/a/pods", pod("")},
		[2]string{validatingPath, h.configuration("", "w", "/no", `,"rules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["pods/*"],"operations":["*"]}]`)},
	)
	for _, tc := range []struct{ sub, body, op, kind string }{
		{"exec?command=ls&stdout=true", "", "CONNECT", "PodExecOptions"},
		{"attach?stdout=true", "", "CONNECT", "PodAttachOptions"},
		{"portforward", "", "CONNECT", "PodPortForwardOptions"},
		{"eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}`, "CREATE", "Eviction"},
		{"binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"name":"n"}}`, "CREATE", "Binding"},
	} {
		code, m := admin.message("POST", "/api/v1/namespaces/a/pods/p/"+tc.sub, tc.body)
		if code != 400 || m != `admission webhook "w.example.com" denied the request without explanation` {
			t.Errorf("%s: %d %s", tc.sub, code, m)
		}
		sub, _, _ := strings.Cut(tc.sub, "?")
		if got := h.reviews("/no"); len(got) != 1 || string(got[0].Operation) != tc.op || got[0].Kind.Kind != tc.kind || got[0].SubResource != sub || got[0].object["kind"] != tc.kind || got[0].Name != "p" {
			t.Errorf("%s: %+v", tc.sub, got)
		}
	}
}

// TestAuditNotesOfWebhooks: what a webhook says for the audit log, and what it changed.
func TestAuditNotesOfWebhooks(t *testing.T) {
	s, admin := hooked(t)
	h := newHooks(t, answers{"/a": func(_ *admissionv1.AdmissionRequest, r *admissionv1.AdmissionResponse) {
		r.AuditAnnotations = map[string]string{"why": "because"}
		patch(r, `[{"op":"add","path":"/data","value":{"a":"b"}}]`)
	}}, map[string]http.HandlerFunc{"/broken": http.NotFound})
	setUp(t, admin,
		[2]string{mutatingPath, h.configuration("", "a", "/a", "")},
		[2]string{mutatingPath, h.configuration("", "b", "/broken", `,"failurePolicy":"Ignore"`)},
		[2]string{validatingPath, h.configuration("", "v", "/broken", `,"failurePolicy":"Ignore"`)},
	)
	var mu sync.Mutex
	notes := map[string]string{}
	q := registry.Request{User: registry.User{Name: "admin"}, Target: client.Target{Kind: api.ConfigMaps.Facts, Namespace: "a"}, Annotate: func(k, v string) {
		mu.Lock()
		defer mu.Unlock()
		notes[k] = v
	}}
	if _, err := s.registry.Create(t.Context(), q, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"a.example.com/why": "because",
		"mutation.webhook.admission.k8s.io/round_0_index_0":               `{"configuration":"a","webhook":"a.example.com","mutated":true}`,
		"patch.webhook.admission.k8s.io/round_0_index_0":                  `{"configuration":"a","webhook":"a.example.com","patch":[{"op":"add","path":"/data","value":{"a":"b"}}],"patchType":"JSONPatch"}`,
		"mutation.webhook.admission.k8s.io/round_0_index_1":               `{"configuration":"b","webhook":"b.example.com","mutated":false}`,
		"failed-open.mutation.webhook.admission.k8s.io/round_0_index_1":   "b.example.com",
		"failed-open.validating.webhook.admission.k8s.io/round_0_index_0": "v.example.com",
	}
	if d := cmp.Diff(want, notes); d != "" {
		t.Error(d)
	}
}

// TestRestartUnderABrokenWebhook: a webhook for everything that nobody answers keeps the
// server from no start.
func TestRestartUnderABrokenWebhook(t *testing.T) {
	store := memory.New()
	s, stop := boot(t, store, nil)
	admin := user(t, s, "admin", "system:masters")
	setUp(t, admin, [2]string{validatingPath, strings.Replace((&hooks{Server: &httptest.Server{URL: "https://127.0.0.1:1"}}).configuration("", "w", "/", `,"rules":[{"apiGroups":["*"],"apiVersions":["*"],"resources":["*/*"],"operations":["*"]}]`), `"caBundle":"",`, "", 1)})
	if code, m := admin.message("POST", "/api/v1/namespaces", `{"metadata":{"name":"n"}}`); code != 500 {
		t.Errorf("%d %s", code, m)
	}
	stop()
	s = start(t, store, nil)
	admin = user(t, s, "admin", "system:masters")
	if code, m := admin.message("DELETE", validatingPath+"/w", ""); code != 200 {
		t.Errorf("%d %s", code, m)
	}
	setUp(t, admin, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"n"}}`})
}

// Both kinds of webhooks see every object of a collection that is deleted, without a name, as
// from upstream.
func TestWebhooksSeeDeletedCollections(t *testing.T) {
	_, admin := hooked(t)
	h := newHooks(t, nil, nil)
	setUp(t, admin, [2]string{mapsPath, configMap("x", "")}, [2]string{mapsPath, configMap("y", "")},
		[2]string{mutatingPath, h.configuration("", "m", "/mutates", "")}, [2]string{validatingPath, h.configuration("", "v", "/validates", "")})
	if code, m := admin.message("DELETE", mapsPath+"?labelSelector=!other", ""); code != 200 {
		t.Fatal(code, m)
	}
	for _, path := range []string{"/mutates", "/validates"} {
		var got []string
		for _, r := range h.reviews(path) {
			name, _, _ := unstructured.NestedString(r.old, "metadata", "name")
			got = append(got, fmt.Sprintf("%s %s %q %s", r.Operation, r.Namespace, r.Name, name))
			if r.object != nil {
				t.Errorf("an object that is deleted has no new state: %v", r.object)
			}
		}
		slices.Sort(got)
		if want := []string{`DELETE a "" x`, `DELETE a "" y`}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if code, m := admin.message("DELETE", mapsPath+"/x", ""); code != 404 {
		t.Error(code, m)
	}
}
