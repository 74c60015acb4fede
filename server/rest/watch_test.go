package rest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gorilla/websocket"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

var ignoreEmpty = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreTypes(metav1.TypeMeta{})}

func decodeJSON(data []byte) (runtime.Object, *schema.GroupVersionKind, error) {
	s := json.NewSerializerWithOptions(json.DefaultMetaFactory, api.Scheme(), api.Scheme(), json.SerializerOptions{})
	return s.Decode(data, nil, nil)
}

func configMapCall(name string) registry.Request {
	return registry.Request{User: registry.User{Name: "admin"}, Target: client.Target{Kind: api.ConfigMaps.Facts, Namespace: "default", Name: name}}
}

func (w *world) make(t testing.TB, name string) string {
	t.Helper()
	res, err := w.registry.Create(t.Context(), configMapCall(""), &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return res.Item.Object().GetResourceVersion()
}

// Writers and watchers in every format at once: each watcher sees every object, in
// order of revision, and nothing is left behind when all is over.
func TestWatchersSeeEverything(t *testing.T) {
	const writers, each, watchers = 4, 50, 9
	w := newWorld(t, nil)
	first := w.make(t, "first")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range watchers {
		contentType := []string{"application/json", protobufType, "application/json"}[i%3]
		c, err := kubernetes.NewForConfig(&restclient.Config{Host: w.http.URL, ContentConfig: restclient.ContentConfig{ContentType: contentType, AcceptContentTypes: contentType}})
		if err != nil {
			t.Fatal(err)
		}
		in, err := c.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: first})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer in.Stop()
			last, seen := int64(0), map[string]bool{}
			for e := range in.ResultChan() {
				cm, ok := e.Object.(*core.ConfigMap)
				if !ok || e.Type != apiwatch.Added {
					t.Errorf("watcher %d: %s %+v", i, e.Type, e.Object)
					return
				}
				rev, _ := strconv.ParseInt(cm.ResourceVersion, 10, 64)
				if rev <= last || seen[cm.Name] {
					t.Errorf("watcher %d: %s at %d after %d", i, cm.Name, rev, last)
				}
				last, seen[cm.Name] = rev, true
				if len(seen) == writers*each {
					return
				}
			}
			t.Errorf("watcher %d: saw %d of %d", i, len(seen), writers*each)
		})
	}
	for k := range writers {
		wg.Go(func() {
			for n := range each {
				w.make(t, fmt.Sprintf("w%d-%d", k, n))
			}
		})
	}
	wg.Wait()
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.make(t, "a")
	t.Run("timeout", func(t *testing.T) {
		start := time.Now()
		_, data := w.do(t, "GET", "/api/v1/configmaps?watch=1&timeoutSeconds=3", "")
		if strings.Count(string(data), "\n") != 1 || time.Since(start) < 2900*time.Millisecond {
			t.Errorf("after %v: %s", time.Since(start), data)
		}
	})
	t.Run("future", func(t *testing.T) {
		resp, data := w.do(t, "GET", "/api/v1/configmaps?watch=1&resourceVersion=999999", "")
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(data), `{"type":"ERROR","object":{"kind":"Status"`) || !strings.Contains(string(data), `"code":504`) {
			t.Errorf("%s %s", resp.Status, data)
		}
	})
	t.Run("drain", func(t *testing.T) {
		resp, err := http.Get(w.http.URL + "/api/v1/configmaps?watch=1")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		r := bufio.NewReader(resp.Body)
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		w.server.drain()
		if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
			t.Errorf("after the drain: %q, %v", rest, err)
		}
	})
}

func TestWatchOverWebSocket(t *testing.T) {
	w := newWorld(t, nil)
	w.make(t, "a")
	c, _, err := websocket.DefaultDialer.Dial(strings.Replace(w.http.URL, "http", "ws", 1)+"/api/v1/configmaps?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"a", "b"} {
		if name == "b" {
			w.make(t, name)
		}
		_, data, err := c.ReadMessage()
		if err != nil || !strings.Contains(string(data), `"name":"`+name+`"`) || !strings.HasPrefix(string(data), `{"type":"ADDED"`) {
			t.Fatalf("%s: %v %s", name, err, data)
		}
	}
}

// A watcher that reads nothing is cut off by the registry's bound, not by our memory;
// here we only see that the server goes on without it.
func TestIdleReaderDoesNotStopWriters(t *testing.T) {
	w := newWorld(t, nil)
	resp, err := http.Get(w.http.URL + "/api/v1/configmaps?watch=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for n := range 200 {
		name := fmt.Sprint("n", n)
		w.make(t, name)
		if _, err := w.registry.Patch(t.Context(), configMapCall(name), types.MergePatchType, []byte(`{"data":{"k":"`+strings.Repeat("x", 10<<10)+`"}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
