package rest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
)

func (w *world) fill(b testing.TB, n int) {
	b.Helper()
	for i := range n {
		cm := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%04d", i), Namespace: "default"}, Data: map[string]string{"k": strings.Repeat("x", 1024)}}
		if _, err := w.registry.Create(b.Context(), configMapCall(""), cm, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// discard is a ResponseWriter without a network behind it.
type discard struct {
	h http.Header
	n int
}

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { d.n += len(p); return len(p), nil }

// Server side alone, without TLS: the target is 5 ms for protobuf and 10 ms for JSON.
func BenchmarkList2000(b *testing.B) {
	w := newWorld(b, nil)
	w.fill(b, 2000)
	for _, accept := range []string{protobufType, "application/json"} {
		b.Run(accept[12:], func(b *testing.B) {
			r := httptest.NewRequest("GET", "/api/v1/namespaces/default/configmaps", nil)
			r.Header.Set("Accept", accept)
			b.ReportAllocs()
			for b.Loop() {
				d := &discard{h: http.Header{}}
				w.server.ServeHTTP(d, r)
				b.SetBytes(int64(d.n))
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	w := newWorld(b, nil)
	w.fill(b, 1)
	r := httptest.NewRequest("GET", "/api/v1/namespaces/default/configmaps/c0000", nil)
	r.Header.Set("Accept", protobufType)
	b.ReportAllocs()
	for b.Loop() {
		w.server.ServeHTTP(&discard{h: http.Header{}}, r)
	}
}

// BenchmarkGetTLS is what 16 clients on one HTTP/2 connection get, theirs and the
// server's work together on the same cores.
func BenchmarkGetTLS(b *testing.B) {
	w := newWorld(b, nil)
	w.fill(b, 100)
	url, client := w.serveTLS(b)
	var n atomic.Int64
	b.SetParallelism(8) // times GOMAXPROCS
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, _ := http.NewRequest("GET", fmt.Sprintf("%s/api/v1/namespaces/default/configmaps/c%04d", url, n.Add(1)%100), nil)
			req.Header.Set("Accept", protobufType)
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
}

// BenchmarkListTLS is a list of 2,000 as a client sees it.
func BenchmarkListTLS(b *testing.B) {
	w := newWorld(b, nil)
	w.fill(b, 2000)
	url, client := w.serveTLS(b)
	for _, accept := range []string{protobufType, "application/json"} {
		b.Run(accept[12:], func(b *testing.B) {
			for b.Loop() {
				req, _ := http.NewRequest("GET", url+"/api/v1/namespaces/default/configmaps", nil)
				req.Header.Set("Accept", accept)
				resp, err := client.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				n, _ := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				b.SetBytes(n)
			}
		})
	}
}

// BenchmarkWatchLatency is from the start of a create to the event at a watcher, one at
// a time, both over TLS with client-go.
func BenchmarkWatchLatency(b *testing.B) {
	w := newWorld(b, nil)
	url, hc := w.serveTLS(b)
	c, err := kubernetes.NewForConfigAndClient(&restclient.Config{Host: url, QPS: -1, ContentConfig: restclient.ContentConfig{ContentType: protobufType}}, hc)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	in, err := c.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer in.Stop()
	var n int
	for b.Loop() {
		n++
		name := fmt.Sprint("c", n)
		go func() {
			_, _ = c.CoreV1().ConfigMaps("default").Create(ctx, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		}()
		if e := <-in.ResultChan(); e.Object.(*core.ConfigMap).Name != name {
			b.Fatal("another object came")
		}
	}
}
