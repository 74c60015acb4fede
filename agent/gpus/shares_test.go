package gpus

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/agent/devices"
	"orch/api"
	"orch/gpu/share"
)

// partOf is a pod that wants so much of one card.
func partOf(uid string, mib, cores int64) *core.Pod {
	p := podWith(uid, share.GPU, 1)
	l := p.Spec.Containers[0].Resources.Limits
	l[share.Memory], l[share.Cores] = *resource.NewQuantity(mib, resource.DecimalSI), *resource.NewQuantity(cores, resource.DecimalSI)
	return p
}

// chosen writes the scheduler's choice into a pod.
func chosen(p *core.Pod, ids ...string) *core.Pod {
	b, _ := json.Marshal(map[string]any{"main": map[string][]string{share.GPU: ids}})
	p.Annotations = map[string]string{api.AnnotationDevices: string(b)}
	return p
}

func heldIDs(r *rig) string {
	var out []string
	for _, h := range r.manager.Holdings() {
		out = append(out, h.Pod+"="+strings.Join(h.IDs, "+"))
	}
	return strings.Join(out, " ")
}

// TestPartsOfCards: pods share a card up to what it has; nobody gets a shared card whole,
// or a part of one that is held whole; what ends makes room, also over a restart.
func TestPartsOfCards(t *testing.T) {
	r := newRig(t, "mixed", share.Config{})
	capacity, allocatable := r.manager.Resources()
	sum := int64(0)
	for _, g := range r.machine.GPUs {
		sum += int64(*g.MemoryBytes >> 20)
	}
	if m, c := capacity[share.Memory], allocatable[share.Cores]; m.Value() != sum || c.Value() != int64(100*len(r.machine.GPUs)) {
		t.Errorf("%v %v", capacity, allocatable)
	}
	admit := func(p *core.Pod, says string) {
		t.Helper()
		err := r.manager.Admit(p)
		if err == nil && says != "" || err != nil && (says == "" || !strings.Contains(err.Error(), says)) {
			t.Fatalf("%s: %v, want %q; held are %s", p.Name, err, says, heldIDs(r))
		}
	}
	admit(partOf("a", 10000, 30), "")
	admit(partOf("b", 5000, 30), "")
	ids := heldIDs(r)
	card, _, _ := strings.Cut(strings.TrimPrefix(ids, "a="), "::")
	if ids != fmt.Sprintf("a=%s::share-0.10000m.30c b=%[1]s::share-1.5000m.30c", card) {
		t.Error(ids)
	}
	if s := r.manager.Status("a")["main"]; len(s) != 1 || s[0].Name != share.GPU || s[0].Resources[0].Health != core.ResourceHealthStatusHealthy {
		t.Errorf("%+v", s)
	}
	rest := int64(len(r.machine.GPUs) - 1)
	admit(podWith("whole", share.GPU, rest+1), fmt.Sprintf("Available: %d", rest))
	admit(podWith("whole", share.GPU, rest), "")
	admit(partOf("c", 300, 50), "Allocate failed due to Insufficient nvidia.com/gpucores: 50 % of one card wanted")
	admit(partOf("c", 1<<20, 0), "Allocate failed due to Insufficient nvidia.com/gpumem: 1048576 MiB of one card wanted, the largest has")
	admit(partOf("c", 300, 40), "")
	// Another orch over the same file.
	m, err := devices.New(devices.Config{Path: filepath.Join(filepath.Dir(r.config.Dir), "ledger"), Providers: []devices.Provider{r.GPUs}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r.manager = m
	admit(partOf("d", 10, 1), "Insufficient nvidia.com/gpucores")
	if err := m.Release("b"); err != nil {
		t.Fatal(err)
	}
	admit(partOf("d", 5000, 30), "")
	if !strings.Contains(heldIDs(r), "d="+card+"::share-1.5000m.30c") {
		t.Error(heldIDs(r))
	}
}

// TestTheSchedulersParts: what the binding names is taken if it can be had, and nothing else.
func TestTheSchedulersParts(t *testing.T) {
	r := newRig(t, "h100-8", share.Config{})
	a, b := r.machine.GPUs[5].UUID, r.machine.GPUs[6].UUID
	for _, tc := range []struct {
		pod  *core.Pod
		says string
	}{
		{chosen(partOf("a", 1000, 10), a+"::share-3.1000m.10c"), ""},
		{chosen(podWith("b", share.GPU, 1), b), ""},
		{chosen(partOf("c", 1000, 10), a+"::share-3.1000m.10c"), "Allocate failed due to the scheduler's choice: " + a + "::share-3.1000m.10c is in use, which is unexpected"},
		{chosen(partOf("c", 1000, 10), b+"::share-0.1000m.10c"), b + " cannot be given in parts now"},
		{chosen(partOf("c", 1000, 10), a+"::share-0.9000m.10c"), "is not the share that is wanted"},
		{chosen(podWith("c", share.GPU, 1), a), "being in use"},
		{chosen(partOf("c", 1000, 10), a+"::share-0.1000m.10c"), ""},
	} {
		err := r.manager.Admit(tc.pod)
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s %s: %v", tc.pod.Name, tc.pod.Annotations, err)
		}
	}
	r.ill[a] = true
	if err := r.manager.Admit(chosen(partOf("d", 1000, 10), a+"::share-1.1000m.10c")); err == nil {
		t.Error("a part of a sick card is given")
	}
	if s := r.manager.Status("a")["main"]; s[0].Resources[0].Health != core.ResourceHealthStatusUnhealthy {
		t.Errorf("%+v", s)
	}
}
