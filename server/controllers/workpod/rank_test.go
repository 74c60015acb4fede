package workpod

import (
	"errors"
	"slices"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

var epoch = metav1.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// running is a pod on a node, ready for a day, made two days ago.
func running(name string, change func(*core.Pod)) *core.Pod {
	p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(epoch.Add(-48 * time.Hour))}}
	p.Spec.NodeName, p.Status.Phase = "n1", core.PodRunning
	p.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch.Add(-24 * time.Hour))}}
	if change != nil {
		change(p)
	}
	return p
}

func TestSurplusGoesInOrder(t *testing.T) {
	pods := []*core.Pod{
		running("z-kept", nil),
		running("restarted", func(p *core.Pod) {
			p.Status.ContainerStatuses = []core.ContainerStatus{{RestartCount: 3}}
		}),
		running("young-ready", func(p *core.Pod) {
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(epoch.Add(-time.Minute))
		}),
		running("doubled", func(p *core.Pod) { p.Spec.NodeName = "crowded" }),
		running("cheap", func(p *core.Pod) { p.Annotations = map[string]string{core.PodDeletionCost: "-5"} }),
		running("not-ready", func(p *core.Pod) { p.Status.Conditions = nil }),
		running("unknown", func(p *core.Pod) { p.Status.Phase = core.PodUnknown }),
		running("pending", func(p *core.Pod) { p.Status.Phase = core.PodPending }),
		running("unassigned", func(p *core.Pod) { p.Spec.NodeName, p.Status.Phase = "", core.PodPending }),
	}
	want := []string{"unassigned", "pending", "unknown", "not-ready", "cheap", "doubled", "young-ready", "restarted"}
	var got []string
	for _, p := range Surplus(pods, len(pods)-1, map[string]int{"n1": 1, "crowded": 4}, epoch.Time) {
		got = append(got, p.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("order = %v, want %v", got, want)
	}
	if n := len(Surplus(pods, 100, nil, epoch.Time)); n != len(pods) {
		t.Errorf("%d of %d", n, len(pods))
	}
}

func TestAvailable(t *testing.T) {
	cases := []struct {
		name     string
		minReady time.Duration
		now      time.Duration // since it became ready
		ready    bool
		want     bool
		in       time.Duration
	}{
		{"not ready", 0, time.Hour, false, false, 0},
		{"ready, no minimum", 0, 0, true, true, 0},
		{"not long enough", 10 * time.Second, 4 * time.Second, true, false, 6 * time.Second},
		{"long enough", 10 * time.Second, 10 * time.Second, true, true, 0},
	}
	for _, c := range cases {
		p := running("p", func(p *core.Pod) {
			p.Status.Conditions[0].LastTransitionTime = epoch
			if !c.ready {
				p.Status.Conditions[0].Status = core.ConditionFalse
			}
		})
		if ok, in := Available(p, c.minReady, epoch.Add(c.now)); ok != c.want || in != c.in {
			t.Errorf("%s: %v, %v", c.name, ok, in)
		}
	}
}

func TestClaim(t *testing.T) {
	owner := &core.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "o", UID: "o"}}
	pod := func(name, app, controller string) *core.Pod {
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}}}
		if controller != "" {
			p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(controller), Controller: new(true)}}
		}
		return p
	}
	gone := pod("gone", "web", "")
	gone.DeletionTimestamp = &epoch
	pods := []*core.Pod{pod("mine", "web", "o"), pod("other", "web", "x"), pod("orphan", "web", ""), pod("strayed", "db", "o"), pod("foreign", "db", ""), gone}
	sel := labels.SelectorFromSet(labels.Set{"app": "web"})
	show := func(c Claim[core.Pod]) (out []string) {
		for _, list := range [][]*core.Pod{c.Mine, c.Adopt, c.Release} {
			for _, p := range list {
				out = append(out, p.Name)
			}
			out = append(out, "|")
		}
		return out
	}
	if got, want := show(ClaimOf(owner, sel, pods)), []string{"mine", "|", "orphan", "|", "strayed", "|"}; !slices.Equal(got, want) {
		t.Errorf("claim = %v, want %v", got, want)
	}
	owner.DeletionTimestamp = &epoch
	if got, want := show(ClaimOf(owner, sel, pods)), []string{"mine", "|", "|", "|"}; !slices.Equal(got, want) {
		t.Errorf("claim of a dying owner = %v, want %v", got, want)
	}
}

func TestSlowStart(t *testing.T) {
	if n, err := SlowStart(10, func(int) error { return nil }); n != 10 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	broken := errors.New("no")
	calls := make(chan int, 100)
	n, err := SlowStart(100, func(i int) error {
		calls <- i
		if i == 2 {
			return broken
		}
		return nil
	})
	if n != 2 || !errors.Is(err, broken) || len(calls) != 3 {
		t.Errorf("%d done of %d tried, %v; want 2 of 3: the batch of two with a failure is the last", n, len(calls), err)
	}
}
