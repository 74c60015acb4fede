package allocate

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/client"
)

func services(t testing.TB, cidr string, now func() time.Time) *Services {
	t.Helper()
	s, err := New(Config{ServiceCIDR: netip.MustParsePrefix(cidr), FirstPort: 30000, LastPort: 30019, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func service(name string, change func(*core.ServiceSpec)) *core.Service {
	s := &core.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name},
		Spec:       core.ServiceSpec{Type: core.ServiceTypeClusterIP, Selector: map[string]string{"a": "b"}, Ports: []core.ServicePort{{Name: "a", Port: 80, Protocol: core.ProtocolTCP}}},
	}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func TestFamilies(t *testing.T) {
	for _, tc := range []struct {
		name     string
		change   func(*core.ServiceSpec)
		families []core.IPFamily
		policy   core.IPFamilyPolicy
		err      string
	}{
		{"plain", nil, []core.IPFamily{"IPv4"}, core.IPFamilyPolicySingleStack, ""},
		{"headless", func(s *core.ServiceSpec) { s.ClusterIP = "None" }, []core.IPFamily{"IPv4"}, core.IPFamilyPolicySingleStack, ""},
		{"headless without selector", func(s *core.ServiceSpec) { s.ClusterIP, s.Selector = "None", nil }, []core.IPFamily{"IPv4", "IPv6"}, core.IPFamilyPolicyRequireDualStack, ""},
		{"prefers both", func(s *core.ServiceSpec) { s.IPFamilyPolicy = new(core.IPFamilyPolicyPreferDualStack) }, []core.IPFamily{"IPv4"}, core.IPFamilyPolicyPreferDualStack, ""},
		{"requires both", func(s *core.ServiceSpec) { s.IPFamilyPolicy = new(core.IPFamilyPolicyRequireDualStack) }, nil, "",
			`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		{"the other family", func(s *core.ServiceSpec) { s.IPFamilies = []core.IPFamily{"IPv6"} }, nil, "", `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{"external name", func(s *core.ServiceSpec) { s.Type = core.ServiceTypeExternalName }, nil, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, o := services(t, "10.43.0.0/16", time.Now), service("x", tc.change)
			err := s.Complete(o, nil, false)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.families, o.Spec.IPFamilies); d != "" {
				t.Error(d)
			}
			if tc.policy != "" && *o.Spec.IPFamilyPolicy != tc.policy {
				t.Errorf("policy %s", *o.Spec.IPFamilyPolicy)
			}
			if headless := o.Spec.ClusterIP == "None"; headless && o.Spec.ClusterIPs[0] != "None" {
				t.Errorf("clusterIPs %v", o.Spec.ClusterIPs)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	s := services(t, "10.43.0.0/16", time.Now)
	taken := service("first", func(p *core.ServiceSpec) {
		p.ClusterIP, p.Type, p.Ports[0].NodePort = "10.43.0.10", core.ServiceTypeNodePort, 30005
	})
	if err := s.Complete(taken, nil, false); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, says string
		change     func(*core.ServiceSpec)
	}{
		{"address taken", `spec.clusterIPs: Invalid value: ["10.43.0.10"]: failed to allocate IP 10.43.0.10: provided IP is already allocated`, func(p *core.ServiceSpec) { p.ClusterIP = "10.43.0.10" }},
		{"address outside", `the provided IP (10.44.0.1) is not in the valid range. The range of valid IPs is 10.43.0.0/16`, func(p *core.ServiceSpec) { p.ClusterIP = "10.44.0.1" }},
		{"network address", `is not in the valid range`, func(p *core.ServiceSpec) { p.ClusterIP = "10.43.0.0" }},
		{"broadcast address", `is not in the valid range`, func(p *core.ServiceSpec) { p.ClusterIP = "10.43.255.255" }},
		{"port taken", `spec.ports[0].nodePort: Invalid value: 30005: provided port is already allocated`, func(p *core.ServiceSpec) { p.Type, p.Ports[0].NodePort = core.ServiceTypeNodePort, 30005 }},
		{"port outside", `provided port is not in the valid range. The range of valid ports is 30000-30019`, func(p *core.ServiceSpec) { p.Type, p.Ports[0].NodePort = core.ServiceTypeNodePort, 31000 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := s.Complete(service("second", tc.change), nil, false)
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v\nwant %s", err, tc.says)
			}
		})
	}
}

func TestUpdateKeepsAndDrops(t *testing.T) {
	s := services(t, "10.43.0.0/16", time.Now)
	old := service("x", func(p *core.ServiceSpec) {
		p.Type, p.ExternalTrafficPolicy = core.ServiceTypeLoadBalancer, core.ServiceExternalTrafficPolicyLocal
		p.Ports = append(p.Ports, core.ServicePort{Name: "b", Port: 53, Protocol: core.ProtocolUDP}, core.ServicePort{Name: "c", Port: 53, Protocol: core.ProtocolTCP})
	})
	if err := s.Complete(old, nil, false); err != nil {
		t.Fatal(err)
	}
	if old.Spec.HealthCheckNodePort == 0 || old.Spec.Ports[0].NodePort == 0 || old.Spec.Ports[1].NodePort != old.Spec.Ports[2].NodePort {
		t.Fatalf("%+v", old.Spec)
	}
	s.Apply(client.Change{New: old})

	same := old.DeepCopy()
	same.Spec.ClusterIP, same.Spec.ClusterIPs, same.Spec.HealthCheckNodePort = "", nil, 0
	for i := range same.Spec.Ports {
		same.Spec.Ports[i].NodePort = 0
	}
	if err := s.Complete(same, old, false); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(old.Spec, same.Spec); d != "" {
		t.Errorf("what an update leaves out stays: %s", d)
	}

	plain := old.DeepCopy()
	plain.Spec.Type = core.ServiceTypeClusterIP
	if err := s.Complete(plain, old, false); err != nil {
		t.Fatal(err)
	}
	if plain.Spec.Ports[0].NodePort != 0 || plain.Spec.HealthCheckNodePort != 0 || plain.Spec.ClusterIP != old.Spec.ClusterIP {
		t.Errorf("%+v", plain.Spec)
	}

	external := old.DeepCopy()
	external.Spec.Type = core.ServiceTypeExternalName
	if err := s.Complete(external, old, false); err != nil {
		t.Fatal(err)
	}
	if external.Spec.ClusterIP != "" || external.Spec.ClusterIPs != nil || external.Spec.IPFamilies != nil {
		t.Errorf("%+v", external.Spec)
	}
	s.Apply(client.Change{Old: old, New: external})
	if n := s.ips.Held() + s.ports.Held(); n != 0 {
		t.Errorf("%d numbers are held by nobody", n)
	}
}

// TestParallel is the race: whatever happens, no number is given twice.
func TestParallel(t *testing.T) {
	s := services(t, "10.43.0.0/24", time.Now)
	var mu sync.Mutex
	ips, ports := map[string]string{}, map[int32]string{}
	var full int
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			o := service(fmt.Sprint("s", i), func(p *core.ServiceSpec) { p.Type = core.ServiceTypeNodePort })
			if i%10 == 0 {
				o.Spec.Ports[0].NodePort = 30003
			}
			err := s.Complete(o, nil, false)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				full++
				return
			}
			if w := ips[o.Spec.ClusterIP]; w != "" {
				t.Errorf("%s for %s and %s", o.Spec.ClusterIP, w, o.Name)
			}
			if w := ports[o.Spec.Ports[0].NodePort]; w != "" {
				t.Errorf("%d for %s and %s", o.Spec.Ports[0].NodePort, w, o.Name)
			}
			ips[o.Spec.ClusterIP], ports[o.Spec.Ports[0].NodePort] = o.Name, o.Name
		})
	}
	wg.Wait()
	if len(ports) != 20 || full != 80 {
		t.Errorf("%d of 20 ports given, %d refused", len(ports), full)
	}
}

func TestPendingFallsBack(t *testing.T) {
	now := time.Unix(1000, 0)
	s := services(t, "10.43.0.0/29", func() time.Time { return now })
	for i := range 6 {
		if err := s.Complete(service(fmt.Sprint(i), nil), nil, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Complete(service("late", nil), nil, false); err == nil || !strings.Contains(err.Error(), "range is full") {
		t.Fatalf("got %v", err)
	}
	now = now.Add(pendingFor + time.Second)
	late := service("late", nil)
	if err := s.Complete(late, nil, false); err != nil {
		t.Errorf("addresses of writes that never came are not free again: %v", err)
	}
	free := "10.43.0.1"
	if late.Spec.ClusterIP == free {
		free = "10.43.0.2"
	}
	dry := service("dry", func(p *core.ServiceSpec) { p.ClusterIP = free })
	if err := s.Complete(dry, nil, true); err != nil {
		t.Error(err)
	}
	if s.ips.Held() > 7 {
		t.Error("a dry run took an address")
	}
}

func TestFirstAddress(t *testing.T) {
	for cidr, want := range map[string]string{"10.43.0.0/16": "10.43.0.1", "10.43.9.9/16": "10.43.0.1", "fd00:1::/112": "fd00:1::1"} {
		if got := services(t, cidr, time.Now).FirstIP().String(); got != want {
			t.Errorf("%s: %s", cidr, got)
		}
	}
}
