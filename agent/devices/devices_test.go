package devices

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
	"orch/api"
)

// fake offers what it is told to, the first free ones first.
type fake struct{ devices map[string][]Device }

func (f *fake) Offer() map[string][]Device { return f.devices }

func (f *fake) Choose(c Choice) ([]string, error) { return c.Free[:c.Count], nil }

func (f *fake) Edits(_ context.Context, _ host.DeviceHolder, resource string, ids []string) (host.DeviceEdits, error) {
	return host.DeviceEdits{Env: []core.EnvVar{{Name: resource, Value: strings.Join(ids, ",")}}}, nil
}

const gpu = "nvidia.com/gpu"

func cards(n int) []Device {
	var out []Device
	for i := range n {
		id := fmt.Sprintf("GPU-%d", i)
		out = append(out, Device{ID: id, Part: id, Healthy: true})
	}
	return out
}

func manager(t testing.TB, path string, p ...Provider) *Manager {
	t.Helper()
	m, err := New(Config{Path: path, Providers: p, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// pod asks for so many of a resource in each of its containers; "init:" and
// "sidecar:" before a number make it one of those.
func pod(uid string, name core.ResourceName, counts ...string) *core.Pod {
	p := &core.Pod{}
	p.Namespace, p.Name, p.UID = "ns", uid, types.UID(uid)
	for i, c := range counts {
		kind, number, ok := strings.Cut(c, ":")
		if !ok {
			kind, number = "", c
		}
		box := core.Container{Name: fmt.Sprintf("c%d", i)}
		box.Resources.Limits = core.ResourceList{name: resource.MustParse(number), core.ResourceCPU: resource.MustParse("1")}
		switch kind {
		case "init":
			p.Spec.InitContainers = append(p.Spec.InitContainers, box)
		case "sidecar":
			box.RestartPolicy = new(core.ContainerRestartPolicyAlways)
			p.Spec.InitContainers = append(p.Spec.InitContainers, box)
		default:
			p.Spec.Containers = append(p.Spec.Containers, box)
		}
	}
	return p
}

func held(m *Manager) string {
	var out []string
	for _, h := range m.Holdings() {
		out = append(out, fmt.Sprintf("%s/%s=%s", h.Pod, h.Container, strings.Join(h.IDs, "+")))
	}
	return strings.Join(out, " ")
}

func TestAdmit(t *testing.T) {
	for _, tc := range []struct {
		name string
		pods []*core.Pod
		want string
		err  string
	}{
		{"one each", []*core.Pod{pod("a", gpu, "1"), pod("b", gpu, "1", "1")}, "a/c0=GPU-0 b/c0=GPU-1 b/c1=GPU-2", ""},
		{"twice the same pod", []*core.Pod{pod("a", gpu, "1"), pod("a", gpu, "1")}, "a/c0=GPU-0", ""},
		{"none", []*core.Pod{pod("a", gpu, "0"), pod("b", "cpu", "1")}, "", ""},
		{"too many, and nothing of it stays", []*core.Pod{pod("a", gpu, "3", "2")}, "",
			"Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 2, Available: 1, which is unexpected"},
		{"init containers pass on", []*core.Pod{pod("a", gpu, "init:2", "init:1", "2", "1")}, "a/c0=GPU-0+GPU-1 a/c1=GPU-0 a/c2=GPU-0+GPU-1 a/c3=GPU-2", ""},
		{"sidecars keep", []*core.Pod{pod("a", gpu, "sidecar:1", "init:1", "1")}, "a/c0=GPU-0 a/c1=GPU-1 a/c2=GPU-1", ""},
		{"a resource that nobody offers is a number", []*core.Pod{pod("a", "example.com/licence", "5")}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := manager(t, filepath.Join(t.TempDir(), "ledger"), &fake{map[string][]Device{gpu: cards(4)}})
			var last error
			for _, p := range tc.pods {
				last = m.Admit(p)
			}
			if got := held(m); got != tc.want {
				t.Errorf("held are %q, want %q", got, tc.want)
			}
			if last != nil && last.Error() != tc.err || last == nil && tc.err != "" {
				t.Errorf("error is %v, want %q", last, tc.err)
			}
		})
	}
}

// TestTheSchedulerChooses: the devices that the binding names are taken, or none.
// A plugin that serves a resource gives nothing to a pod whose devices of that name come with a claim.
func TestNothingForWhatAClaimStandsFor(t *testing.T) {
	m := manager(t, filepath.Join(t.TempDir(), "ledger"), &fake{map[string][]Device{gpu: cards(2)}})
	p := pod("p", gpu, "1")
	p.Status.ExtendedResourceClaimStatus = &core.PodExtendedResourceClaimStatus{ResourceClaimName: "made",
		RequestMappings: []core.ContainerExtendedResourceRequest{{ContainerName: "c0", ResourceName: gpu, RequestName: "container-0-request-0"}}}
	if err := m.Admit(p); err != nil || held(m) != "" {
		t.Errorf("%v, holds %q", err, held(m))
	}
}

func TestTheSchedulerChooses(t *testing.T) {
	for _, tc := range []struct {
		name, annotation string
		asks             []string
		want, err        string
	}{
		{"what is named", `{"c0":{"nvidia.com/gpu":["GPU-3","GPU-1"]}}`, []string{"2"}, "b/c0=GPU-3+GPU-1", ""},
		{"passed on", `{"c0":{"nvidia.com/gpu":["GPU-3"]},"c1":{"nvidia.com/gpu":["GPU-3","GPU-2"]}}`, []string{"init:1", "2"}, "b/c0=GPU-3 b/c1=GPU-3+GPU-2", ""},
		{"nothing for this container", `{"other":{}}`, []string{"1"}, "b/c0=GPU-1", ""},
		{"another number", `{"c0":{"nvidia.com/gpu":["GPU-3"]}}`, []string{"2"}, "", "the scheduler having chosen 1 devices of nvidia.com/gpu where 2 are wanted"},
		{"one twice", `{"c0":{"nvidia.com/gpu":["GPU-3","GPU-3"]}}`, []string{"2"}, "", "the scheduler having chosen 1 devices of nvidia.com/gpu where 2 are wanted"},
		{"one that is held", `{"c0":{"nvidia.com/gpu":["GPU-0"]}}`, []string{"1"}, "", "device GPU-0 of nvidia.com/gpu, which the scheduler chose, being in use by pod ns/a"},
		{"one for two containers", `{"c0":{"nvidia.com/gpu":["GPU-1"]},"c1":{"nvidia.com/gpu":["GPU-1"]}}`, []string{"1", "1"}, "", "device GPU-1 of nvidia.com/gpu, which the scheduler chose, being in use by another"},
		{"one that is ill", `{"c0":{"nvidia.com/gpu":["GPU-4"]}}`, []string{"1"}, "", "device GPU-4 of nvidia.com/gpu, which the scheduler chose, not being healthy"},
		{"one that is not there", `{"c0":{"nvidia.com/gpu":["GPU-9"]}}`, []string{"1"}, "", "device GPU-9 of nvidia.com/gpu, which the scheduler chose, not being on this node"},
		{"nonsense", `[`, []string{"1"}, "", "the annotation orch.io/allocated-devices being unreadable: unexpected end of JSON input"},
		{"an empty one", "", []string{"1"}, "b/c0=GPU-1", ""},
	} {
		f := &fake{map[string][]Device{gpu: cards(5)}}
		f.devices[gpu][4].Healthy = false
		m := manager(t, filepath.Join(t.TempDir(), "ledger"), f)
		if err := m.Admit(pod("a", gpu, "1")); err != nil {
			t.Fatal(err)
		}
		p := pod("b", gpu, tc.asks...)
		p.Annotations = map[string]string{api.AnnotationDevices: tc.annotation}
		err := m.Admit(p)
		if want := "Allocate failed due to " + tc.err + ", which is unexpected"; err == nil && tc.err != "" || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %s", tc.name, err, want)
		}
		if got := strings.TrimSpace(strings.TrimPrefix(held(m), "a/c0=GPU-0")); got != tc.want {
			t.Errorf("%s: held are %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestUnhealthyIsCapacityOnly(t *testing.T) {
	f := &fake{map[string][]Device{gpu: cards(2)}}
	f.devices[gpu][0].Healthy = false
	m := manager(t, filepath.Join(t.TempDir(), "ledger"), f)
	capacity, allocatable := m.Resources()
	if c, a := capacity[gpu], allocatable[gpu]; c.Value() != 2 || a.Value() != 1 {
		t.Errorf("%v of %v", a.String(), c.String())
	}
	if err := m.Admit(pod("a", gpu, "1")); err != nil || held(m) != "a/c0=GPU-1" {
		t.Error(err, held(m))
	}
}

// TestOtherOfferOfAHeldPart: a card that is held whole is not given as shares, nor one
// whose share is held as a whole, when the configuration changes meanwhile.
func TestOtherOfferOfAHeldPart(t *testing.T) {
	whole := map[string][]Device{gpu: cards(2)}
	shares := map[string][]Device{gpu + ".shared": {
		{ID: "GPU-0::0", Part: "GPU-0", Shared: true, Healthy: true}, {ID: "GPU-0::1", Part: "GPU-0", Shared: true, Healthy: true},
		{ID: "GPU-1::0", Part: "GPU-1", Shared: true, Healthy: true}, {ID: "GPU-1::1", Part: "GPU-1", Shared: true, Healthy: true}}}
	f := &fake{whole}
	m := manager(t, filepath.Join(t.TempDir(), "ledger"), f)
	if err := m.Admit(pod("a", gpu, "1")); err != nil {
		t.Fatal(err)
	}
	f.devices = shares
	for i := range 3 {
		err := m.Admit(pod(fmt.Sprint("s", i), gpu+".shared", "1"))
		if (err == nil) != (i < 2) {
			t.Errorf("share %d: %v", i, err)
		}
	}
	f.devices = whole
	if err := m.Release("a"); err != nil {
		t.Fatal(err)
	}
	if err := m.Admit(pod("b", gpu, "2")); err == nil {
		t.Error("a card whose shares are held was given whole")
	}
}

func TestLedgerOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	f := &fake{map[string][]Device{gpu: cards(2)}}
	m := manager(t, path, f)
	for _, uid := range []string{"a", "b"} {
		if err := m.Admit(pod(uid, gpu, "1")); err != nil {
			t.Fatal(err)
		}
	}
	again := manager(t, path, f)
	if held(again) != held(m) || again.Admit(pod("c", gpu, "1")) == nil {
		t.Errorf("after a restart %q is held", held(again))
	}
	if err := again.Keep(map[types.UID]bool{"b": true}); err != nil || held(again) != "b/c0=GPU-1" {
		t.Error(err, held(again))
	}
	e, err := again.Edits(t.Context(), host.DeviceHolder{Pod: pod("b", gpu, "1"), Container: &core.Container{Name: "c0"}})
	if err != nil || !reflect.DeepEqual(e.Env, []core.EnvVar{{Name: gpu, Value: "GPU-1"}}) || !reflect.DeepEqual(e.Held, map[string][]string{gpu: {"GPU-1"}}) {
		t.Error(e, err)
	}
	if e, err := again.Edits(t.Context(), host.DeviceHolder{Pod: pod("z", gpu, "1"), Container: &core.Container{Name: "c0"}}); err != nil || !e.Empty() {
		t.Error(e, err)
	}
}

func TestLedgerThatCannotBeReadIsRefused(t *testing.T) {
	for name, text := range map[string]string{"damaged": "{", "newer": `{"version":3}`} {
		path := filepath.Join(t.TempDir(), "ledger")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Path: path, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "delete the file") {
			t.Errorf("%s: %v", name, err)
		}
		if b, _ := os.ReadFile(path); string(b) != text {
			t.Errorf("%s: the file was touched", name)
		}
	}
}

// TestFullDiskGivesNothing: what is not on the disk was not given.
func TestFullDiskGivesNothing(t *testing.T) {
	dir := t.TempDir()
	m := manager(t, filepath.Join(dir, "gone", "ledger"), &fake{map[string][]Device{gpu: cards(1)}})
	if err := os.WriteFile(filepath.Join(dir, "gone"), nil, 0o600); err != nil { // a file where the folder should be
		t.Fatal(err)
	}
	if err := m.Admit(pod("a", gpu, "1")); err == nil || held(m) != "" {
		t.Error(err, held(m))
	}
}

// TestNoDeviceTwice lives through random pods, restarts of the manager and changes of the offer.
func TestNoDeviceTwice(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "ledger")
	f := &fake{map[string][]Device{gpu: cards(6)}}
	m := manager(t, path, f)
	live := map[types.UID]bool{}
	for i := range 400 {
		switch r.IntN(4) {
		case 0, 1:
			p := pod(fmt.Sprint("p", i), gpu, fmt.Sprint(r.IntN(3)), fmt.Sprint(r.IntN(2)))
			if m.Admit(p) == nil {
				live[p.UID] = true
			}
		case 2:
			for uid := range live {
				delete(live, uid)
				if err := m.Release(uid); err != nil {
					t.Fatal(err)
				}
				break
			}
		case 3:
			m = manager(t, path, f)
			if err := m.Keep(live); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[string]string{}
		for _, h := range m.Holdings() {
			if !live[h.UID] {
				t.Fatalf("%s is gone and holds %v", h.UID, h.IDs)
			}
			for _, id := range h.IDs {
				if seen[id] != "" {
					t.Fatalf("%s is held by %s and %s", id, seen[id], h.key())
				}
				seen[id] = h.key()
			}
		}
	}
}

func BenchmarkAdmitRelease(b *testing.B) {
	m := manager(b, filepath.Join(b.TempDir(), "ledger"), &fake{map[string][]Device{gpu: cards(8)}})
	p := pod("a", gpu, "4")
	for b.Loop() {
		if err := m.Admit(p); err != nil {
			b.Fatal(err)
		}
		if err := m.Release("a"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestReserved: what is being altered is given to nobody, and what somebody holds is not altered.
func TestReserved(t *testing.T) {
	f := &fake{map[string][]Device{gpu: cards(2)}}
	m := manager(t, filepath.Join(t.TempDir(), "ledger"), f)
	release, held := m.Reserve([]string{"GPU-0"})
	if len(held) > 0 {
		t.Fatal(held)
	}
	if err := m.Admit(pod("two", gpu, "2")); err == nil || !strings.Contains(err.Error(), "Requested: 2, Available: 1") {
		t.Error(err)
	}
	if err := m.Admit(pod("one", gpu, "1")); err != nil || m.Holdings()[0].IDs[0] != "GPU-1" {
		t.Error(err, m.Holdings())
	}
	if r, held := m.Reserve([]string{"GPU-0", "GPU-1"}); r != nil || len(held) != 1 || held[0].Pod != "one" {
		t.Error(held)
	}
	release()
	if err := m.Admit(pod("other", gpu, "1")); err != nil {
		t.Error(err)
	}
}
