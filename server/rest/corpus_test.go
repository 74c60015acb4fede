package rest

import (
	"context"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
	"orch/server/rest/hostile"
)

const (
	corpusSeed = 20261128
	corpusSize = 12_000
)

// fits tells whether an answer is one that a hostile request may get: 501 and 503 say
// what is not there, 504 that the client asked for too little time.
func fits(code int) bool {
	return code < 500 || code == http.StatusNotImplemented || code == http.StatusServiceUnavailable || code == http.StatusGatewayTimeout
}

func (w *world) sender() *hostile.Sender {
	return &hostile.Sender{Patience: 30 * time.Second, Dial: func() (net.Conn, error) { return net.Dial("tcp", w.http.Listener.Addr().String()) }}
}

// assault sends a part of the corpus from some connections at a time.
func (w *world) assault(t *testing.T, from, to uint64) {
	var next atomic.Uint64
	next.Store(from)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := w.sender()
			defer s.Close()
			for n := next.Add(1) - 1; n < to; n = next.Add(1) - 1 {
				r := hostile.Make(corpusSeed, n)
				code, err := s.Send(r)
				if err != nil || !fits(code) {
					t.Errorf("request %d: %d %v %s: %.300q", n, code, err, s.Answer, r.Raw)
				}
			}
		})
	}
	wg.Wait()
}

// sweep removes what the requests left behind.
func (w *world) sweep(t testing.TB) {
	c := w.registry.Client(registry.User{Name: "sweeper"})
	for _, r := range w.registry.Resources() {
		if r.Computed || r.SameAs != nil || r.Facts == api.Namespaces.Facts {
			continue
		}
		c.Each(r.Facts, "", func(o api.Object) bool {
			target := client.Target{Kind: r.Facts, Namespace: o.GetNamespace(), Name: o.GetName()}
			if len(o.GetFinalizers()) > 0 {
				_, _ = c.Patch(context.Background(), target, "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			}
			_, _ = c.Delete(context.Background(), target, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
			return true
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestHostileCorpus: thousands of malformed, oversized and contradictory requests make no
// handler panic, are answered by something else than a server error, and leave nothing
// behind.
func TestHostileCorpus(t *testing.T) {
	w := newWorld(t, nil)
	begin, end := uint64(0), uint64(corpusSize)
	if one := os.Getenv("HOSTILE_REQUEST"); one != "" { // to look at one again
		n, err := strconv.ParseUint(one, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		begin, end = n, n+1
	}
	w.assault(t, begin, begin+(end-begin)/6) // fills pools, caches and rings
	w.sweep(t)
	before, goroutines := heap(), runtime.NumGoroutine()
	w.assault(t, begin+(end-begin)/6, end)
	w.sweep(t)
	w.http.CloseClientConnections()
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > goroutines+20 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines+20 {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines before, %d after:\n%s", goroutines, n, buf[:runtime.Stack(buf, true)])
	}
	if after := heap(); after > before+64<<20 {
		t.Errorf("heap: %d MiB before, %d after", before>>20, after>>20)
	}
	if text := w.log.String(); strings.Contains(text, "panic") {
		i := strings.Index(text, "panic")
		t.Errorf("a handler panicked: %.4000s", text[max(0, i-200):])
	}
}
