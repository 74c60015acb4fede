package gpus

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/gpu/device"
)

// plannerRig is a migRig whose node is asked by a planner.
type plannerRig struct {
	*migRig
	list      []api.MIGDemand
	on        bool
	potential map[string]int
	pods      []string
	at        time.Time
}

func newPlannerRig(t *testing.T, n int) *plannerRig {
	r := &plannerRig{migRig: newMIGRig(t, "h200-8", n), on: true, at: time.Unix(1000, 0)}
	r.GPUs.now = func() time.Time { return r.at }
	r.p.Planner = Planner{
		Demand:    func() ([]api.MIGDemand, bool) { return r.list, r.on },
		Potential: func(_ context.Context, p map[string]int) error { r.potential = maps.Clone(p); return nil },
		PodEvent:  func(d api.MIGDemand, reason, message string) { r.pods = append(r.pods, d.Pod+": "+reason+": "+message) },
	}
	return r
}

// waits adds a pod that waits, and says what the node offers then.
func (r *plannerRig) waits(pod, resource string, n int) string {
	r.list = append(r.list, api.MIGDemand{Namespace: "a", Pod: pod, Resource: "nvidia.com/" + resource, Count: n})
	return r.ask("")
}

// TestIdleCardsArePartitionedForPodsThatWait: a slice from a whole card, a whole card from an
// idle partitioned one, and no flapping.
func TestIdleCardsArePartitionedForPodsThatWait(t *testing.T) {
	r := newPlannerRig(t, 2)
	if got := r.ask(""); got != "map[gpu:2]" || r.potential["nvidia.com/mig-3g.71gb"] != 4 || len(r.events) != 0 {
		t.Errorf("nobody waits: %s, %v, %v", got, r.potential, r.events)
	}
	if got := r.waits("slice", "mig-3g.71gb", 1); got != "map[gpu:1 mig-3g.71gb:1]" {
		t.Error(got)
	}
	if len(r.pods) != 1 || !strings.HasPrefix(r.pods[0], "slice: MIGReshaped: GPU GPU-") || !strings.HasSuffix(r.pods[0], " is partitioned for pod a/slice: create 3g.71gb") || len(r.events) != 2 {
		t.Errorf("events are %q, %q", r.pods, r.events)
	}
	calls := r.player.Calls()
	if got := r.ask(""); got != "map[gpu:1 mig-3g.71gb:1]" || r.player.Calls() != calls {
		t.Errorf("asked again: %s", got)
	}
	// Another pod wants two whole cards: what was just made is left to its pod.
	if got := r.waits("both", "gpu", 2); got != "map[gpu:1 mig-3g.71gb:1]" {
		t.Error(got)
	}
	// The first pod never came; its card goes to the other when it is old.
	r.list = r.list[1:]
	r.at = r.at.Add(young)
	if got := r.ask(""); got != "map[gpu:2]" {
		t.Error(got)
	}
	if err := r.manager.Admit(podWith("both", "nvidia.com/gpu", 2)); err != nil {
		t.Fatal(err)
	}
	r.list, r.at = nil, r.at.Add(young)
	if got := r.waits("late", "mig-1g.18gb", 1); got != "map[gpu:2]" || r.potential["nvidia.com/mig-1g.18gb"] != 0 {
		t.Errorf("held cards: %s, %v", got, r.potential)
	}
	r.on = false
	if r.ask(""); r.potential != nil {
		t.Errorf("without a planner the node still says %v", r.potential)
	}
}

// TestLabelGoesBeforeThePlanner: a layout that somebody wishes is not changed for pods.
func TestLabelGoesBeforeThePlanner(t *testing.T) {
	r := newPlannerRig(t, 1)
	r.list = []api.MIGDemand{{Namespace: "a", Pod: "p", Resource: "nvidia.com/mig-1g.18gb", Count: 1}}
	if got := r.ask("all-disabled"); got != "map[gpu:1]" || r.potential != nil {
		t.Errorf("%s, %v", got, r.potential)
	}
	if got := fmt.Sprint(r.ask("")); got != "map[mig-1g.18gb:1]" {
		t.Error(got)
	}
}

// TestProcessKeepsACardFromThePlanner: one that no pod accounts for.
func TestProcessKeepsACardFromThePlanner(t *testing.T) {
	r := newPlannerRig(t, 1)
	r.player.SetProcesses(device.Process{PID: 7, Kind: device.ProcessCompute, UUID: r.inventory.State().Machine.GPUs[0].UUID})
	if got := r.waits("p", "mig-1g.18gb", 1); got != "map[gpu:1]" {
		t.Error(got)
	}
	r.player.SetProcesses()
	if got := r.ask(""); got != "map[mig-1g.18gb:1]" {
		t.Error(got)
	}
}

// TestBoundPodsKeepTheirCards: a pod that was bound, with the devices that the scheduler chose, and that
// the node has not admitted yet, has them as if it held them: for the planner, and for a layout that
// somebody wishes.
func TestBoundPodsKeepTheirCards(t *testing.T) {
	r := newPlannerRig(t, 2)
	cards := r.inventory.State().Machine.GPUs
	bind := func(uid, card string) *core.Pod { return chosen(podWith(uid, "nvidia.com/gpu", 1), card) }
	first := bind("first", cards[0].UUID)
	r.bound = []*core.Pod{first, bind("second", cards[1].UUID)}
	if got := r.waits("slice", "mig-3g.71gb", 1); got != "map[gpu:2]" || r.potential["nvidia.com/mig-3g.71gb"] != 0 {
		t.Errorf("a card of a bound pod was partitioned: %s, %v", got, r.potential)
	}
	if release, held := r.manager.Reserve([]string{cards[0].UUID}); release != nil || len(held) != 1 || held[0].Pod != "first" {
		t.Errorf("a card of a bound pod was reserved: %v", held)
	}
	if got := r.ask("all-3g.71gb"); got != "map[gpu:2]" || r.state != MIGPending {
		t.Errorf("for a layout: %s %s", got, r.state)
	}
	if err := r.manager.Admit(first); err != nil {
		t.Fatal(err)
	}
	r.bound = r.bound[:1] // the other one went before it was admitted
	if got := r.ask(""); got != "map[gpu:1 mig-3g.71gb:1]" {
		t.Errorf("the card that nobody is to have: %s", got)
	}
	if got := r.manager.Holdings(); len(got) != 1 || got[0].IDs[0] != cards[0].UUID {
		t.Errorf("held are %v", got)
	}
}
