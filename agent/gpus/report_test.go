package gpus

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/report"
	"orch/gpu/share"
)

func TestReport(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{Method: share.TimeSlicing, Resources: []share.Replication{{Name: share.GPU, As: share.GPU, Replicas: 2, First: 1}}})
	rec, err := fakenvml.Load("h100-8")
	if err != nil {
		t.Fatal(err)
	}
	var broken error
	page := NewPage(r.GPUs, "node", func(context.Context) ([]device.Figures, error) { return rec.Figures, broken }, r.manager.Holdings)
	if err := r.manager.Admit(podWith("a", share.GPU, 3)); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	page.ServeReport(w, httptest.NewRequest(http.MethodGet, report.Path, nil))
	var got report.Report
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	held := 0
	for _, c := range got.Cards {
		held += len(c.Holders)
		if c.Temperature == nil || c.MemoryBytes == nil || c.UsedBytes == nil {
			t.Errorf("card %d has no figures", c.Index)
		}
	}
	if want := (report.Resource{Name: share.GPU, Capacity: 9, Allocatable: 9, Held: 3}); len(got.Resources) != 1 || got.Resources[0] != want || held != 3 || got.Cards[0].Shares != 2 {
		t.Errorf("%+v, %d held, %d shares", got.Resources, held, got.Cards[0].Shares)
	}
	broken = errors.New("the driver hangs")
	page.gpus.now = func() time.Time { return time.Now().Add(time.Hour) }
	if got := page.Report(t.Context()); got.Figures != "the driver hangs" || len(got.Cards) != 8 {
		t.Errorf("a driver that hangs: %q, %d cards", got.Figures, len(got.Cards))
	}
}

// TestRecordingOfATroubledMachine: what could be had is recorded, with what could not.
func TestRecordingOfATroubledMachine(t *testing.T) {
	rec, err := fakenvml.Load("h200")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	Recorder(func(context.Context) (device.Recording, error) { return rec, errors.New("figures: lost") }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	got, err := device.ReadRecording(w.Body)
	if err != nil || got.Note != "incomplete: figures: lost" || len(got.Machine.GPUs) != 1 {
		t.Errorf("%v %q", err, got.Note)
	}
	w = httptest.NewRecorder()
	Recorder(func(context.Context) (device.Recording, error) { return device.Recording{}, errors.New("stopping") }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "recording this node's GPUs: stopping") {
		t.Error(w.Code, w.Body)
	}
}

func TestServeLocal(t *testing.T) {
	r := newRig(t, "h200", share.Config{})
	page := NewPage(r.GPUs, "node", func(context.Context) ([]device.Figures, error) { return nil, nil }, r.manager.Holdings)
	socket := filepath.Join(t.TempDir(), "run", "s")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- page.ServeLocal(ctx, socket, map[string]http.Handler{report.Path: http.HandlerFunc(page.ServeReport)})
	}()
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		for {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
			if err == nil || ctx.Err() != nil {
				return conn, err
			}
		}
	}}}
	a, err := c.Get("http://x" + report.Path)
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if a.StatusCode != http.StatusOK {
		t.Error(a.Status)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
