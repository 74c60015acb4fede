package devices

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
)

// claimOf is a claim for devices of our own driver, used by a pod.
func claimOf(name, pod string, list ...ClaimDevice) Claim {
	return Claim{UID: types.UID("uid-" + name), Namespace: "ns", Name: name,
		Pods:    map[types.UID]ClaimPod{types.UID(pod): {Name: pod, Containers: map[string][]ClaimRequest{"c0": {{Claim: "r"}}}}},
		Drivers: map[string]ClaimDriver{"d.io": {Devices: list}}}
}

func part(name string, excludes ...string) ClaimDevice {
	return ClaimDevice{Requests: []string{"r"}, Pool: "n1", Device: strings.ToLower(name), Part: name, Excludes: excludes}
}

func watched(name string) ClaimDevice {
	d := part(name)
	d.Admin = true
	return d
}

// TestClaimsAndPodsExcludeEachOther: one device, one holder, whichever way it was asked for.
func TestClaimsAndPodsExcludeEachOther(t *testing.T) {
	shares := map[string][]Device{gpu: {{ID: "GPU-0::0", Part: "GPU-0", Shared: true, Healthy: true}, {ID: "GPU-0::1", Part: "GPU-0", Shared: true, Healthy: true}}}
	whole := map[string][]Device{gpu: cards(2)}
	for _, tc := range []struct {
		name  string
		offer map[string][]Device
		first any // a pod's number of cards, or a Claim
		then  any
		err   string
	}{
		{"a claim after a pod", whole, "1", claimOf("a", "x", part("GPU-0")), "device gpu-0 is in use by pod ns/p1"},
		{"another card", whole, "1", claimOf("a", "x", part("GPU-1")), ""},
		{"a pod after a claim", whole, claimOf("a", "x", part("GPU-0")), "2", "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 2, Available: 1, which is unexpected"},
		{"a pod beside a claim", whole, claimOf("a", "x", part("GPU-0")), "1", ""},
		{"a claim after a claim", whole, claimOf("a", "x", part("GPU-0")), claimOf("b", "y", part("GPU-0")), "device gpu-0 is in use by ResourceClaim ns/a"},
		{"the same claim for another pod", whole, claimOf("a", "x", part("GPU-0")), claimOf("a", "y", part("GPU-0")), ""},
		{"what a claim excludes", whole, claimOf("a", "x", part("MIG-0", "GPU-0")), "2", "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 2, Available: 1, which is unexpected"},
		{"a claim that excludes what is held", whole, "1", claimOf("a", "x", part("MIG-0", "GPU-0")), "device mig-0 is in use by pod ns/p1"},
		{"a claim for what is excluded", whole, claimOf("a", "x", part("MIG-0", "GPU-0")), claimOf("b", "y", part("GPU-0")), "device gpu-0 is in use by ResourceClaim ns/a"},
		{"two that exclude the same", whole, claimOf("a", "x", part("MIG-0", "GPU-0")), claimOf("b", "y", part("MIG-1", "GPU-0")), ""},
		{"a claim beside a share", shares, "1", claimOf("a", "x", part("GPU-0")), "device gpu-0 is in use by pod ns/p1"},
		{"a share beside a claim", shares, claimOf("a", "x", part("GPU-0")), "1", "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1, Available: 0, which is unexpected"},
		{"who only watches is in nobody's way", whole, claimOf("a", "x", watched("GPU-0")), "2", ""},
		{"nor is anybody in his", whole, "2", claimOf("a", "x", watched("GPU-0")), ""},
		{"another claim of that name", whole, claimOf("a", "x", part("GPU-0")), func() Claim { c := claimOf("a", "y", part("GPU-1")); c.UID = "new"; return c }(),
			"old ResourceClaim with same name a and different UID uid-a still exists (previous pod force-deleted?!)"},
	} {
		m := manager(t, filepath.Join(t.TempDir(), "ledger"), &fake{tc.offer})
		do := func(what any, name string) error {
			if c, ok := what.(Claim); ok {
				_, err := m.HoldClaim(c, false)
				return err
			}
			return m.Admit(pod(name, gpu, what.(string)))
		}
		if err := do(tc.first, "p1"); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if err := do(tc.then, "p2"); err == nil && tc.err != "" || err != nil && err.Error() != tc.err {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.err)
		}
	}
}

// TestLifeOfAClaim: it is one holding of several pods, over restarts, until its drivers let go.
func TestLifeOfAClaim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	f := &fake{map[string][]Device{gpu: cards(1)}}
	m := manager(t, path, f)
	version := func() (v struct{ Version int }) {
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &v)
		}
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, p := range []string{"x", "y"} {
		if _, err := m.HoldClaim(claimOf("a", p, part("GPU-0")), false); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.ClaimPrepared("uid-a", "d.io", ClaimDriver{Devices: []ClaimDevice{part("GPU-0")}, Prepared: "boot", State: []byte("s")}); err != nil {
		t.Fatal(err)
	}
	m = manager(t, path, f)
	c, err := m.HoldClaim(claimOf("a", "z", part("GPU-9")), false)
	if err != nil || c.Drivers["d.io"].Devices[0].Part != "GPU-0" || c.Drivers["d.io"].Prepared != "boot" || string(c.Drivers["d.io"].State) != "s" || len(c.Pods) != 3 {
		t.Errorf("%+v %v", c, err)
	}
	if n := len(m.Holdings()); n != 3 || !m.Holdings()[0].Claimed() || m.Holdings()[0].Container != "c0" || m.Holdings()[0].Holder() != "ResourceClaim ns/a" || version().Version != claimsVersion {
		t.Errorf("%d holdings: %+v", n, m.Holdings())
	}
	if m.Allocated("x") != nil || len(m.Status("x")) > 0 {
		t.Error("a claim counts as an extended resource")
	}
	if e, err := m.Edits(t.Context(), host.DeviceHolder{Pod: pod("x", gpu), Container: &pod("x", gpu, "1").Spec.Containers[0]}); err != nil || !e.Empty() {
		t.Error(e, err)
	}
	if release, held := m.Reserve([]string{"GPU-0"}); release != nil || len(held) == 0 {
		t.Error("what a claim holds was reserved")
	}
	if err := m.ForgetClaim("uid-a"); err != nil || len(m.Claims()) != 1 {
		t.Errorf("a claim that is used was forgotten: %v", err)
	}
	left, err := m.LeaveClaims(func(uid types.UID) bool { return uid != "y" })
	if err != nil || len(left) != 0 {
		t.Errorf("left are %v %v", left, err)
	}
	if left, err = m.LeaveClaims(func(uid types.UID) bool { return true }); err != nil || len(left) != 1 || len(m.Holdings()) != 1 || m.Holdings()[0].Pod != "" {
		t.Errorf("left are %v %v, held %+v", left, err, m.Holdings())
	}
	if err := m.Admit(pod("p", gpu, "1")); err == nil {
		t.Error("a device was given that its driver still has")
	}
	if err := m.ForgetClaim("uid-a"); err != nil || m.Admit(pod("p", gpu, "1")) != nil || version().Version != ledgerVersion {
		t.Error(err, m.Holdings())
	}
}

// TestNoDeviceTwiceWithClaims lives through random pods, claims and restarts.
func TestNoDeviceTwiceWithClaims(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "ledger")
	f := &fake{map[string][]Device{gpu: cards(6)}}
	m := manager(t, path, f)
	claims := 0
	for i := range 400 {
		switch r.IntN(5) {
		case 0:
			_ = m.Admit(pod(fmt.Sprint("p", i), gpu, fmt.Sprint(1+r.IntN(2)))) // it may not fit
		case 1:
			if _, err := m.HoldClaim(claimOf(fmt.Sprint("c", i), fmt.Sprint("q", i), part(fmt.Sprint("GPU-", r.IntN(6)))), false); err == nil {
				claims++
			}
		case 2, 3:
			if _, err := m.LeaveClaims(func(types.UID) bool { return r.IntN(3) == 0 }); err != nil {
				t.Fatal(err)
			}
			for uid := range m.Claims() {
				if err := m.ForgetClaim(uid); err != nil {
					t.Fatal(err)
				}
			}
			for _, h := range m.Holdings() {
				if !h.Claimed() && r.IntN(3) == 0 {
					if err := m.Release(h.UID); err != nil {
						t.Fatal(err)
					}
				}
			}
		case 4:
			m = manager(t, path, f)
		}
		seen := map[string]string{}
		for _, h := range m.Holdings() {
			for _, id := range h.IDs {
				if seen[id] != "" {
					t.Fatalf("%s is held by %s and %s", id, seen[id], h.key())
				}
				seen[id] = h.key()
			}
		}
	}
	if claims < 10 {
		t.Errorf("only %d claims were tried", claims)
	}
}

func BenchmarkClaim(b *testing.B) {
	m := manager(b, filepath.Join(b.TempDir(), "ledger"), &fake{map[string][]Device{gpu: cards(8)}})
	c := claimOf("a", "x", part("GPU-0"), part("GPU-1"))
	for b.Loop() {
		if _, err := m.HoldClaim(c, false); err != nil {
			b.Fatal(err)
		}
		if err := m.ClaimPrepared("uid-a", "d.io", c.Drivers["d.io"]); err != nil {
			b.Fatal(err)
		}
		if _, err := m.LeaveClaims(func(types.UID) bool { return true }); err != nil {
			b.Fatal(err)
		}
		if err := m.ForgetClaim("uid-a"); err != nil {
			b.Fatal(err)
		}
	}
}
