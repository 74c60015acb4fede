package crd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"orch/api"
	"orch/api/client"
	"orch/datastore"
	"orch/datastore/memory"
	"orch/server/access"
	"orch/server/crd"
	"orch/server/registry"
	"orch/server/rest"
	"orch/server/rest/openapi"
	"orch/server/webhook"
)

type everybody struct{}

func (everybody) Authenticate(*http.Request) (registry.User, bool, error) {
	return registry.User{Name: "admin"}, true, nil
}

func (everybody) Authorize(context.Context, access.Attributes) (bool, string, error) {
	return true, "", nil
}

// world is an API server with custom resources, on a memory store.
type world struct {
	testing.TB
	crd  *crd.Controller
	url  string
	stop func()
	http *http.Client
}

func start(t testing.TB) *world { return startOn(t, memory.New()) }

func startOn(t testing.TB, store datastore.Store) *world {
	t.Helper()
	r, err := registry.New(registry.Config{Store: store, Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := rest.New(rest.Config{Registry: r, Authenticator: everybody{}, Authorizer: everybody{}, Version: "v1.37.0+orch"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := crd.New(crd.Config{Registry: r, Client: r.Client(registry.User{Name: "system:apiserver"}), Webhooks: webhook.New(webhook.Config{}),
		Publish: func(name string, d crd.Document) { s.Documents().Set(name, openapi.Document(d)) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Run(ctx) })
	<-r.Ready()
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("custom resources: %v", err)
		}
	})
	<-c.Ready()
	call := registry.Request{User: registry.User{Name: "admin"}, Target: client.Target{Kind: api.Namespaces.Facts}}
	_, _ = r.Create(ctx, call, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	h := httptest.NewServer(s)
	w := &world{TB: t, crd: c, url: h.URL, http: &http.Client{Timeout: 20 * time.Second}}
	w.stop = sync.OnceFunc(func() {
		h.CloseClientConnections()
		h.Close()
		cancel()
		wg.Wait()
	})
	t.Cleanup(w.stop)
	return w
}

// answer is what came back.
type answer struct {
	code     int
	warnings []string
	body     map[string]any
	raw      string
}

func (a answer) get(path string) any {
	var v any = a.body
	for _, p := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[p]
		case []any:
			var i int
			if _, err := fmt.Sscan(p, &i); err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

func (a answer) message() string { s, _ := a.get("message").(string); return s }

// do sends a YAML or JSON body; header is names and values in turn.
func (w *world) do(method, path, body string, header ...string) answer {
	w.Helper()
	a, err := w.try(method, path, body, header...)
	if err != nil {
		w.Fatal(err)
	}
	return a
}

func (w *world) try(method, path, body string, header ...string) (answer, error) {
	req, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/yaml")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	a := answer{code: resp.StatusCode, warnings: resp.Header.Values("Warning"), raw: string(data)}
	_ = json.Unmarshal(data, &a.body)
	return a, err
}

func (w *world) must(code int, method, path, body string, header ...string) answer {
	w.Helper()
	a := w.do(method, path, body, header...)
	if a.code != code {
		w.Fatalf("%s %s: %d, not %d: %s", method, path, a.code, code, a.raw)
	}
	return a
}

const crdPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// until waits for a definition to satisfy ok.
func (w *world) until(name, what string, ok func(answer) bool) answer {
	w.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		a := w.do("GET", crdPath+"/"+name, "")
		if ok(a) {
			return a
		}
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain for %s of %s: %s", what, name, a.raw)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func condition(a answer, kind string) (status, reason, message string) {
	l, _ := a.get("status.conditions").([]any)
	for _, c := range l {
		if m := c.(map[string]any); m["type"] == kind {
			return fmt.Sprint(m["status"]), fmt.Sprint(m["reason"]), fmt.Sprint(m["message"])
		}
	}
	return "", "", ""
}

func established(a answer) bool { s, _, _ := condition(a, "Established"); return s == "True" }

// define creates a definition and waits until it is established.
func (w *world) define(manifest string) answer {
	w.Helper()
	a := w.must(201, "POST", crdPath, manifest)
	return w.until(fmt.Sprint(a.get("metadata.name")), "establishment", established)
}

func fixture(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(b))
}

// edit changes a YAML document.
func edit(t testing.TB, doc string, change func(m map[string]any)) string {
	t.Helper()
	m := map[string]any{}
	if err := yaml.Unmarshal([]byte(doc), &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	b, err := yaml.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
