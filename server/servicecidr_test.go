package server

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"orch/api"
	"orch/api/reconcile"
	"orch/datastore/memory"
	"orch/server/controllers/servicecidr"
)

// TestServiceCIDRs: cluster IPs come from every ServiceCIDR that is ready, one that is deleted
// gives none any more and stays while Services need it.
func TestServiceCIDRs(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", api.GroupMasters)
	const ranges, services = "/apis/networking.k8s.io/v1/servicecidrs", "/api/v1/namespaces/default/services"
	made := func(name, ip string) (int, string) {
		return admin.message("POST", services, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"clusterIP":%q,"ports":[{"port":80}]}}`, name, ip))
	}
	setUp(t, admin, [2]string{ranges, `{"metadata":{"name":"more"},"spec":{"cidrs":["10.99.0.0/28"]}}`})
	if code, m := made("early", "10.99.0.3"); code != 422 || !strings.Contains(m, "The range of valid IPs is 10.43.0.0/16") {
		t.Errorf("a range that is not ready: %d %s", code, m)
	}
	runLoop(t, s, servicecidr.Specs(servicecidr.Deps{Client: s.Client("controllers"), Now: func() time.Time { return time.Now().Add(time.Minute) }})[0]) // it waits for writes under way
	state := func(name string) string { _, text := admin.do("GET", ranges+"/"+name, ""); return text }
	for _, name := range []string{"more", "kubernetes"} {
		waitFor(t, name, func() bool {
			return strings.Contains(state(name), `"type":"Ready","status":"True"`) && strings.Contains(state(name), servicecidr.Finalizer)
		})
	}
	if code, m := made("a", "10.99.0.3"); code != 201 {
		t.Fatalf("a range that is ready: %d %s", code, m)
	}
	if code, m := made("b", "10.99.0.3"); code != 422 || !strings.Contains(m, "provided IP is already allocated") {
		t.Errorf("an address that is taken: %d %s", code, m)
	}
	setUp(t, admin, [2]string{"/apis/networking.k8s.io/v1/ipaddresses", `{"metadata":{"name":"10.99.0.4"},"spec":{"parentRef":{"group":"x.io","resource":"things","name":"t"}}}`})
	if code, m := made("b", "10.99.0.4"); code != 422 || !strings.Contains(m, "provided IP is already allocated") {
		t.Errorf("an address that an IPAddress keeps for another: %d %s", code, m)
	}
	admin.do("DELETE", ranges+"/more", "")
	waitFor(t, "the reason why it stays", func() bool {
		return strings.Contains(state("more"), `"status":"False"`) && strings.Contains(state("more"), "Terminating")
	})
	if code, m := made("c", "10.99.0.5"); code != 422 || !strings.Contains(m, "is not in the valid range") {
		t.Errorf("a range that is being deleted: %d %s", code, m)
	}
	if code, m := admin.message("PATCH", services+"/a", `{"metadata":{"labels":{"x":"y"}}}`); code != 200 {
		t.Errorf("a Service with an address of a range that is being deleted: %d %s", code, m)
	}
	admin.do("DELETE", services+"/a", "")
	waitFor(t, "the range to go", func() bool { return strings.Contains(state("more"), `"NotFound"`) })
}

// TestServiceCIDRsWhenTheFirstIsFull: the ranges are used one after the other.
func TestServiceCIDRsWhenTheFirstIsFull(t *testing.T) {
	s := start(t, memory.New(), func(c *Config) { c.ServiceCIDR = "10.43.0.0/28" })
	admin := user(t, s, "admin", api.GroupMasters)
	runLoop(t, s, servicecidr.Specs(servicecidr.Deps{Client: s.Client("controllers"), Now: time.Now})[0])
	setUp(t, admin, [2]string{"/apis/networking.k8s.io/v1/servicecidrs", `{"metadata":{"name":"more"},"spec":{"cidrs":["10.99.0.0/28"]}}`})
	waitFor(t, "the range", func() bool {
		_, text := admin.do("GET", "/apis/networking.k8s.io/v1/servicecidrs/more", "")
		return strings.Contains(text, `"status":"True"`)
	})
	in := map[netip.Prefix]int{}
	for i := range 20 {
		code, text := admin.do("POST", "/api/v1/namespaces/default/services", fmt.Sprintf(`{"metadata":{"name":"s%d"},"spec":{"ports":[{"port":80}]}}`, i))
		if code != 201 {
			t.Fatal(code, text)
		}
		_, rest, _ := strings.Cut(text, `"clusterIP":"`)
		ip, _, _ := strings.Cut(rest, `"`)
		in[netip.PrefixFrom(netip.MustParseAddr(ip), 28).Masked()]++
	}
	if a, b := in[netip.MustParsePrefix("10.43.0.0/28")], in[netip.MustParsePrefix("10.99.0.0/28")]; a+b != 20 || a < 10 || b < 6 {
		t.Errorf("%v", in)
	}
}

func runLoop(t *testing.T, s *Server, spec reconcile.Spec) {
	t.Helper()
	go func() { _ = reconcile.Run(t.Context(), s.Client("controllers"), spec) }()
}
