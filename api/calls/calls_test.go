package calls

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestCalls(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer s.Close()
	c := New()
	h := http.Client{Transport: c.Wrap(nil)}
	for range 2 {
		resp, err := h.Post(s.URL, "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if _, err := h.Get("http://127.0.0.1:1/"); err == nil {
		t.Error("nobody listens on port 1")
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, m := range families[1].Metric {
		got[fmt.Sprint(m.Label[0].GetValue(), m.Label[2].GetValue())] = m.Counter.GetValue()
	}
	if families[1].GetName() != "rest_client_requests_total" || got["418POST"] != 2 || got["<error>GET"] != 1 {
		t.Errorf("%s %v", families[1].GetName(), got)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestHostsAreBounded(t *testing.T) {
	c := New()
	for i := range maxHosts {
		c.host(fmt.Sprint(i))
	}
	if got := c.host("one more"); got != "other" || c.host("7") != "7" {
		t.Errorf("got %q", got)
	}
}
