package rest

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// asked notes the queries that pass.
type asked struct {
	http.RoundTripper
	mu      sync.Mutex
	queries []string
}

func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.queries = append(a.queries, r.URL.RawQuery)
	a.mu.Unlock()
	return a.RoundTripper.RoundTrip(r)
}

func (a *asked) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.queries...)
}

// TestReflectorStreamsItsList: client-go's informers get their content from one watch, see
// what comes after it, and never fall back to a list.
func TestReflectorStreamsItsList(t *testing.T) {
	w := newWorld(t, nil)
	for _, name := range []string{"a", "b"} {
		w.make(t, name)
	}
	note := &asked{}
	c, err := kubernetes.NewForConfig(&restclient.Config{Host: w.http.URL, QPS: -1, WrapTransport: func(rt http.RoundTripper) http.RoundTripper {
		note.RoundTripper = rt
		return note
	}})
	if err != nil {
		t.Fatal(err)
	}
	f := informers.NewSharedInformerFactory(c, 0)
	in := f.Core().V1().ConfigMaps()
	added := make(chan string, 10)
	if _, err := in.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) { added <- o.(*core.ConfigMap).Name }}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer f.Shutdown()
	defer close(stop)
	f.Start(stop)
	if !cache.WaitForCacheSync(stop, in.Informer().HasSynced) {
		t.Fatal("no sync")
	}
	if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for len(seen) < 3 {
		select {
		case name := <-added:
			seen[name] = true
		case <-time.After(time.Minute):
			t.Fatalf("only %v came", seen)
		}
	}
	queries := note.all()
	if !strings.Contains(queries[0], "sendInitialEvents=true") || !strings.Contains(queries[0], "watch=true") {
		t.Errorf("it began with %s", queries[0])
	}
	for _, q := range queries {
		if strings.Contains(q, "limit=") {
			t.Errorf("it listed: %s", q)
		}
	}
}

// TestSelectedWatch: an object that comes to match a selector is ADDED, one that no longer
// does DELETED, by labels and by fields.
func TestSelectedWatch(t *testing.T) {
	w := newWorld(t, nil)
	c, err := kubernetes.NewForConfig(&restclient.Config{Host: w.http.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	pods := c.CoreV1().Pods("default")
	p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Image: "x"}}}}
	first, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	byLabel, err := c.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{LabelSelector: "x=1", ResourceVersion: first.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer byLabel.Stop()
	byField, err := pods.Watch(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=n", ResourceVersion: first.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer byField.Stop()
	patch := func(body string) {
		t.Helper()
		if _, err := pods.Patch(t.Context(), "p", "application/merge-patch+json", []byte(body), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	patch(`{"metadata":{"labels":{"x":"1"}}}`)
	if err := pods.Bind(t.Context(), &core.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: core.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch(`{"metadata":{"labels":{"x":"2"}}}`)
	for _, want := range []string{"ADDED", "MODIFIED", "DELETED"} {
		if e := <-byLabel.ResultChan(); string(e.Type) != want {
			t.Errorf("by label: %s, want %s", e.Type, want)
		} else if want == "DELETED" && e.Object.(*core.Pod).Labels["x"] != "1" {
			t.Errorf("the object that no longer matches is shown as %v", e.Object.(*core.Pod).Labels)
		}
	}
	for _, want := range []string{"ADDED", "MODIFIED"} {
		if e := <-byField.ResultChan(); string(e.Type) != want {
			t.Errorf("by field: %s, want %s", e.Type, want)
		}
	}
}
