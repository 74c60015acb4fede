package gpus

import (
	"context"
	"io"
	"net/http/httptest"
	"testing"
	"time"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/share"
)

// BenchmarkScrape is a scrape of all families of eight cards, four of them held, without the
// driver's own time, which gpu/nvml measures.
func BenchmarkScrape(b *testing.B) {
	r := newRig(b, "h200-8", share.Config{})
	rec, err := fakenvml.Load("h200-8")
	if err != nil {
		b.Fatal(err)
	}
	if err := r.manager.Admit(podWith("a", share.GPU, 4)); err != nil {
		b.Fatal(err)
	}
	at := time.Unix(1000, 0)
	r.GPUs.now = func() time.Time { at = at.Add(15 * time.Second); return at }
	page := NewPage(r.GPUs, "node", func(context.Context) ([]device.Figures, error) { return rec.Figures, nil }, r.manager.Holdings)
	for b.Loop() {
		w := httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if n, _ := io.Copy(io.Discard, w.Body); w.Code != 200 || n < 1000 {
			b.Fatalf("%d, %d bytes", w.Code, n)
		}
	}
}
