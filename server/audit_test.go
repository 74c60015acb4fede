package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/pflag"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"orch/datastore/memory"
)

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, nonResourceURLs: [/metrics, '/healthz*']}
- {level: None, users: ['system:apiserver', 'system:anonymous'], verbs: [watch]}
- {level: Metadata, resources: [{group: '', resources: [secrets, serviceaccounts/token]}]}
- {level: RequestResponse, resources: [{group: '', resources: [configmaps], resourceNames: [loud, '']}], namespaces: [default]}
- {level: Request, verbs: [patch, delete], omitManagedFields: false}
- {level: None, users: ['ghost']}
- {level: Metadata, omitStages: [ResponseStarted], verbs: [list]}
- {level: Metadata}
`

// audited is a server that writes audit events to a file.
type audited struct {
	t    *testing.T
	path string
	*Server
}

func auditedServer(t *testing.T, policy string, more ...string) *audited {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &audited{t: t, path: filepath.Join(dir, "logs", "audit.log")}
	a.Server = start(t, memory.New(), func(c *Config) {
		args := append([]string{"--audit-policy-file=" + file, "--kube-apiserver-arg=audit-log-path=" + a.path}, more...)
		var other Config
		g := pflag.NewFlagSet("", pflag.ContinueOnError)
		other.AddFlags(g)
		if err := g.Parse(args); err != nil {
			t.Fatal(err)
		}
		c.Audit = other.Audit
	})
	return a
}

// events are those of one request, by its name.
func (a *audited) events(id string) (out []auditv1.Event) {
	a.t.Helper()
	raw, err := os.ReadFile(a.path)
	if err != nil {
		a.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			a.t.Fatalf("%v in %s", err, line)
		}
		if string(e.AuditID) == id {
			out = append(out, e)
		}
	}
	return out
}

func (a *audited) one(id string) auditv1.Event {
	a.t.Helper()
	return a.all(id, 1)[0]
}

// all waits for n events of a request: its answer may be read before the last is written.
func (a *audited) all(id string, n int) (l []auditv1.Event) {
	a.t.Helper()
	waitFor(a.t, fmt.Sprintf("%d events of %s", n, id), func() bool { l = a.events(id); return len(l) == n })
	return l
}

func (c *caller) named(id string) *caller {
	n := *c
	n.header = c.header.Clone()
	n.header.Set("Audit-ID", id)
	return &n
}

func TestAuditEvents(t *testing.T) {
	s := auditedServer(t, auditPolicy)
	root := user(t, s.Server, "root", "system:masters")
	root.header.Set("User-Agent", "tester/1")
	root.header.Set("X-Forwarded-For", "203.0.113.9")

	root.named("secret").do("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"s"},"stringData":{"p":"not-to-be-seen"}}`)
	e := s.one("secret")
	if e.Level != auditv1.LevelMetadata || e.Stage != auditv1.StageResponseComplete || e.Verb != "create" || e.RequestURI != "/api/v1/namespaces/default/secrets" ||
		e.User.Username != "root" || e.ResponseStatus.Code != 201 || e.RequestObject != nil || e.ObjectRef.Resource != "secrets" || e.ObjectRef.APIVersion != "v1" ||
		e.UserAgent != "tester/1" || !slices.Equal(e.SourceIPs, []string{"203.0.113.9", "127.0.0.1"}) || e.Kind != "Event" || e.APIVersion != "audit.k8s.io/v1" ||
		e.Annotations["authorization.k8s.io/decision"] != "allow" || e.StageTimestamp.Before(&e.RequestReceivedTimestamp) {
		t.Errorf("%+v", e)
	}

	root.named("loud").do("POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"loud"},"data":{"a":"b"}}`)
	e = s.one("loud")
	if e.Level != auditv1.LevelRequestResponse || e.ObjectRef.Name != "loud" || !strings.Contains(string(e.RequestObject.Raw), `"a":"b"`) ||
		!strings.Contains(string(e.ResponseObject.Raw), `"uid"`) || strings.Contains(string(e.ResponseObject.Raw), "managedFields") {
		t.Errorf("%+v %s %s", e, e.RequestObject.Raw, e.ResponseObject.Raw)
	}
	proto := *root.named("proto")
	proto.header.Set("Accept", "application/vnd.kubernetes.protobuf")
	proto.do("GET", "/api/v1/namespaces/default/configmaps/loud", "")
	if e = s.one("proto"); !strings.Contains(string(e.ResponseObject.Raw), `"kind":"ConfigMap"`) {
		t.Errorf("%s", e.ResponseObject.Raw)
	}
	root.named("again").do("POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"loud"}}`)
	if e = s.one("again"); e.ResponseStatus.Code != 409 || e.ResponseStatus.Reason != "AlreadyExists" || !strings.Contains(e.ResponseStatus.Message, "already exists") {
		t.Errorf("%+v", e.ResponseStatus)
	}
	root.named("patch").do("PATCH", "/api/v1/namespaces/default/configmaps/quiet", `{"data":{"a":null}}`)
	if e = s.one("patch"); e.Level != auditv1.LevelRequest || string(e.RequestObject.Raw) != `{"data":{"a":null}}` || e.ResponseObject != nil || e.ResponseStatus.Code != 404 {
		t.Errorf("%+v", e)
	}

	ghost := user(t, s.Server, "ghost")
	ghost.named("ghost").do("GET", "/api/v1/nodes", "")
	root.named("metrics").do("GET", "/metrics", "")
	for _, id := range []string{"ghost", "metrics"} {
		if l := s.events(id); len(l) != 0 {
			t.Errorf("%s is recorded: %+v", id, l)
		}
	}
	bob := user(t, s.Server, "bob")
	bob.named("refused").do("GET", "/api/v1/nodes", "")
	if e = s.one("refused"); e.ResponseStatus.Code != 403 || e.ResponseStatus.Reason != "Forbidden" || e.Annotations["authorization.k8s.io/decision"] != "forbid" {
		t.Errorf("%+v %v", e, e.Annotations)
	}

	as := root.named("as")
	as.header.Set("Impersonate-User", "alice")
	as.header.Set("Impersonate-Group", "devs")
	as.do("GET", "/api/v1/nodes", "")
	if e = s.one("as"); e.User.Username != "root" || e.ImpersonatedUser == nil || e.ImpersonatedUser.Username != "alice" || e.ResponseStatus.Code != 403 {
		t.Errorf("%+v", e)
	}
	as = bob.named("as not")
	as.header.Set("Impersonate-User", "root")
	as.do("GET", "/api/v1/nodes", "")
	if e = s.one("as not"); e.User.Username != "bob" || e.ImpersonatedUser != nil || e.ResponseStatus.Code != 403 || !strings.Contains(e.ResponseStatus.Message, "cannot impersonate") {
		t.Errorf("%+v", e)
	}
	bad := *as2(t, s.Server).named("bad")
	bad.header.Set("Authorization", "Bearer nonsense-token")
	if code, _ := bad.do("GET", "/api/v1/nodes/a", ""); code != 401 {
		t.Errorf("%d", code)
	}
	if e = s.one("bad"); e.Stage != auditv1.StageResponseStarted || e.ResponseStatus.Code != 401 || e.ResponseStatus.Message != "Authentication failed, attempted: bearer" {
		t.Errorf("%+v", e)
	}
	root.named("watch").do("GET", "/api/v1/nodes?watch=1&timeoutSeconds=1", "")
	l := s.all("watch", 2)
	if l[0].Stage != auditv1.StageResponseStarted || l[1].Stage != auditv1.StageResponseComplete || l[0].ResponseStatus.Code != 200 {
		t.Errorf("%+v", l)
	}
	if raw, _ := os.ReadFile(s.path); strings.Contains(string(raw), "not-to-be-seen") || strings.Contains(string(raw), "nonsense-token") {
		t.Error("a credential is in the audit log")
	}
	if _, body := root.do("GET", "/metrics", ""); !strings.Contains(body, "apiserver_audit_event_total ") || !strings.Contains(body, `apiserver_audit_error_total{plugin="log"} 0`) {
		t.Error("no numbers of the audit")
	}
}

// as2 is a caller without any credential.
func as2(t *testing.T, s *Server) *caller { return as(t, s, nil, nil) }

func TestAuditFileRotates(t *testing.T) {
	s := auditedServer(t, "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: RequestResponse}]}",
		"--audit-log-maxsize=1", "--audit-log-maxbackup=2", "--audit-log-compress")
	root := user(t, s.Server, "root", "system:masters")
	big := strings.Repeat("x", 300<<10)
	for i := range 10 {
		if code, body := root.do("POST", "/api/v1/namespaces/default/configmaps", fmt.Sprintf(`{"metadata":{"name":"c%d"},"data":{"a":"%s"}}`, i, big)); code != 201 {
			t.Fatalf("%d %.200s", code, body)
		}
	}
	waitFor(t, "two old files beside the new one", func() bool { // the last answer may come before its event
		entries, err := os.ReadDir(filepath.Dir(s.path))
		if err != nil {
			t.Fatal(err)
		}
		var old int
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".log.gz") {
				old++
			}
		}
		return old == 2 && len(entries) == 3
	})
}

func TestAuditWebhook(t *testing.T) {
	var mu sync.Mutex
	var got []auditv1.Event
	failures := 2
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if failures > 0 {
			failures--
			w.WriteHeader(500)
			return
		}
		b, _ := io.ReadAll(r.Body)
		var l auditv1.EventList
		if err := json.Unmarshal(b, &l); err != nil || l.Kind != "EventList" {
			t.Errorf("%v %.100s", err, b)
		}
		got = append(got, l.Items...)
	}))
	defer hook.Close()
	kubeconfig := filepath.Join(t.TempDir(), "hook")
	text := `{apiVersion: v1, kind: Config, clusters: [{name: a, cluster: {server: "` + hook.URL + `"}}], users: [{name: a}], contexts: [{name: a, context: {cluster: a, user: a}}], current-context: a}`
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := auditedServer(t, "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}]}",
		"--audit-webhook-config-file="+kubeconfig, "--audit-webhook-initial-backoff=10ms", "--audit-webhook-batch-max-wait=50ms",
		"--audit-webhook-truncate-enabled", "--audit-webhook-truncate-max-event-size=20000")
	root := user(t, s.Server, "root", "system:masters")
	root.named("small").do("POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"small"},"data":{"a":"b"}}`)
	root.named("big").do("POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"big"},"data":{"a":"`+strings.Repeat("x", 30000)+`"}}`)
	find := func(id string) *auditv1.Event {
		mu.Lock()
		defer mu.Unlock()
		for i := range got {
			if string(got[i].AuditID) == id && got[i].Stage == auditv1.StageResponseComplete {
				return &got[i]
			}
		}
		return nil
	}
	waitFor(t, "the events", func() bool { return find("small") != nil && find("big") != nil })
	if e := find("small"); e.ResponseObject == nil || e.Annotations["audit.k8s.io/truncated"] != "" {
		t.Errorf("%+v", e)
	}
	if e := find("big"); e.ResponseObject != nil || e.RequestObject != nil || e.Annotations["audit.k8s.io/truncated"] != "true" {
		t.Errorf("%+v", e)
	}
}

func TestAuditStrictModeRefuses(t *testing.T) {
	s := auditedServer(t, "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata, users: [root]}]}",
		"--audit-log-path=/dev/full", "--audit-log-mode=blocking-strict", "--audit-log-maxsize=1000")
	root := user(t, s.Server, "root", "system:masters")
	if code, body := root.do("GET", "/api/v1/nodes", ""); code != 500 || !strings.Contains(body, "failed to store audit event") {
		t.Errorf("%d %s", code, body)
	}
}

func TestUnknownAPIServerArgumentIsRefused(t *testing.T) {
	var c Config
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.AddFlags(f)
	if err := f.Parse([]string{"--kube-apiserver-arg=no-such-flag=1"}); err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("%v", err)
	}
	if err := f.Parse([]string{"--kube-apiserver-arg=audit-log-maxage=7"}); err != nil || c.Audit.Log.MaxAge != 7 {
		t.Errorf("%v %d", err, c.Audit.Log.MaxAge)
	}
}
