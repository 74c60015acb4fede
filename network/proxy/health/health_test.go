package health

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"orch/network/nettest"
	"orch/network/proxy"
)

func TestAnswers(t *testing.T) {
	free := uint16(nettest.Port(t))
	s := New("", slog.New(slog.DiscardHandler))
	defer s.Set(nil)
	url := fmt.Sprintf("http://127.0.0.1:%d/", free)
	for _, step := range []struct{ local, want int }{{0, 503}, {2, 200}, {0, 503}} {
		s.Set([]proxy.HealthCheck{{Namespace: "a", Name: "b", Port: free, Local: step.local}})
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != step.want {
			t.Errorf("%d local endpoints: %d, want %d", step.local, resp.StatusCode, step.want)
		}
	}
	s.Set(nil)
	if _, err := http.Get(url); err == nil {
		t.Error("a port that isn't wanted any more answers")
	}
}
