package devices

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/structured"

	"orch/api"
)

func class(name string, age time.Duration, resourceName string) *resource.DeviceClass {
	o := &resource.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))}}
	if resourceName != "" {
		o.Spec.ExtendedResourceName = &resourceName
	}
	return o
}

func TestClassOfAResource(t *testing.T) {
	s := New()
	s.SetClass(class("old", time.Hour, "x.io/card"))
	s.SetClass(class("new", 0, "x.io/card"))
	s.SetClass(class("newer", 0, "x.io/card"))
	for name, want := range map[string]string{
		"x.io/card": "new", // the newer one; of two that are as old the first by name
		resource.ResourceDeviceClassPrefix + "old": "old",
		"x.io/none": "",
	} {
		got := ""
		if o := s.classes.byResource[core.ResourceName(name)]; o != nil {
			got = o.Name
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	s.RemoveClass("new")
	s.RemoveClass("newer")
	if got := s.classes.byResource["x.io/card"].Name; got != "old" {
		t.Errorf("after the newer ones are gone: %s", got)
	}
	if s.SetClass(class("old", time.Hour, "x.io/card")) {
		t.Error("the same class counts as a change")
	}
}

func allocated(name, revision string, devices ...string) *resource.ResourceClaim {
	o := &resource.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: revision}}
	if devices != nil {
		o.Status.Allocation = &resource.AllocationResult{}
	}
	for _, d := range devices {
		o.Status.Allocation.Devices.Results = append(o.Status.Allocation.Devices.Results, resource.DeviceRequestAllocationResult{Driver: "d.io", Pool: "p", Device: d})
	}
	return o
}

func (s *State) taken(device string) bool {
	p := s.pools[poolID{"d.io", "p"}]
	return p != nil && p.state.AllocatedDevices.Has(structured.MakeDeviceID("d.io", "p", device))
}

// TestOldNewsOfAClaim is not believed: the answer to a write comes before the cache shows it.
func TestOldNewsOfAClaim(t *testing.T) {
	s := New()
	s.SetClaim(allocated("c", "1"))
	s.SetClaim(allocated("c", "3", "x"))
	s.SetClaim(allocated("c", "2"))
	if !s.taken("x") {
		t.Error("an older state took the device back")
	}
	if !s.SetClaim(allocated("c", "4")) || s.taken("x") {
		t.Error("the device is not free")
	}
	if len(s.pools) != 0 {
		t.Errorf("pools that nothing is in: %d", len(s.pools))
	}
}

// TestAllocationCountsFromTheDecisionOn until it is seen or given up.
func TestAllocationCountsFromTheDecisionOn(t *testing.T) {
	s := New()
	s.SetClaim(allocated("c", "1"))
	g := Grant{Claims: []Granted{{ResourceClaim: s.Claim(types.NamespacedName{Namespace: "default", Name: "c"}), Allocation: allocated("c", "", "x").Status.Allocation}}}
	s.Assume("pod", g)
	if !s.taken("x") {
		t.Error("the decision does not count")
	}
	s.Forget("another", g)
	if !s.taken("x") {
		t.Error("another pod gave it up")
	}
	s.Forget("pod", g)
	if s.taken("x") {
		t.Error("what was given up counts")
	}
	s.Assume("pod", g)
	s.SetClaim(allocated("c", "2", "x"))
	s.Forget("pod", g)
	if !s.taken("x") {
		t.Error("what was written does not count")
	}
	s.RemoveClaim(types.NamespacedName{Namespace: "default", Name: "c"})
	if s.taken("x") {
		t.Error("a claim that is gone counts")
	}
}

// TestUnchangedNodeIsNotAskedAgain, and a changed one is.
func TestUnchangedNodeIsNotAskedAgain(t *testing.T) {
	s := New()
	s.SetClass(class("any", 0, ""))
	slice := &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resource.ResourceSliceSpec{Driver: "d.io", NodeName: new("a"),
		Pool: resource.ResourcePool{Name: "p", ResourceSliceCount: 1}, Devices: []resource.Device{{Name: "x"}, {Name: "y"}}}}
	s.SetSlice(slice)
	ask := func(name string) string {
		o := allocated(name, "1")
		o.Spec.Devices.Requests = []resource.DeviceRequest{{Name: "r", Exactly: &resource.ExactDeviceRequest{DeviceClassName: "any", AllocationMode: resource.DeviceAllocationModeExactCount, Count: 1}}}
		s.SetClaim(o)
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: core.PodSpec{ResourceClaims: []core.PodResourceClaim{{Name: "r", ResourceClaimName: &name}}}}
		a, err := s.Attempt(p, nil)
		if err != nil {
			t.Fatal(err)
		}
		g, err := a.Grant(Node{Node: &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}})
		if err != nil {
			return err.Error()
		}
		return g.Claims[0].Allocation.Devices.Results[0].Device
	}
	answers := func() (at uint64) {
		for _, a := range s.nodes["a"].answers {
			at = a.at
		}
		return at
	}
	if got := ask("one"); got != "x" {
		t.Fatal(got)
	}
	at := answers()
	if ask("two"); answers() != at {
		t.Error("asked again though nothing changed")
	}
	s.SetClaim(allocated("holder", "1", "x"))
	if got := ask("three"); got != "y" {
		t.Errorf("after the first is taken: %s", got)
	}
	s.SetRule(&resource.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: resource.DeviceTaintRuleSpec{
		DeviceSelector: &resource.DeviceTaintSelector{Driver: new("d.io"), Device: new("y")}, Taint: resource.DeviceTaint{Key: "k", Effect: resource.DeviceTaintEffectNoSchedule}}})
	if got := ask("four"); got != "node a no longer fits: cannot allocate all claims" {
		t.Errorf("after the second is tainted: %s", got)
	}
	s.RemoveRule("r")
	s.RemoveSlice("s")
	if got := ask("five"); got != "node a no longer fits: cannot allocate all claims" {
		t.Errorf("without the slice: %s", got)
	}
}

func TestHoldingOfAPod(t *testing.T) {
	limits := core.ResourceList{"nvidia.com/gpu": quantity.MustParse("2")}
	p := core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Resources: core.ResourceRequirements{Limits: limits}}}}}
	for _, tc := range []struct {
		name                    string
		edit                    func(*core.Pod)
		units, unnamed, wanting int
	}{
		{"not bound", func(*core.Pod) {}, 0, 0, 2},
		{"bound by others", func(p *core.Pod) { p.Spec.NodeName = "a" }, 0, 2, 0},
		{"named by the binding", func(p *core.Pod) {
			p.Spec.NodeName = "a"
			p.Annotations = map[string]string{api.AnnotationDevices: Units{"c": {"nvidia.com/gpu": {"GPU-1", "GPU-2"}}}.Text()}
		}, 2, 0, 0},
		{"named by the node", func(p *core.Pod) {
			p.Spec.NodeName = "a"
			p.Status.ContainerStatuses = []core.ContainerStatus{{AllocatedResourcesStatus: []core.ResourceStatus{{Name: "nvidia.com/gpu", Resources: []core.ResourceHealth{{ResourceID: "GPU-1"}, {ResourceID: "GPU-2"}}}}}}
		}, 2, 0, 0},
	} {
		pod := p.DeepCopy()
		tc.edit(pod)
		h := HoldingOf(pod, LimitsOf(pod))
		if len(h.Units) != tc.units || h.Unnamed["nvidia.com/gpu"] != tc.unnamed || h.Wanted["nvidia.com/gpu"] != tc.wanting {
			t.Errorf("%s: %+v", tc.name, h)
		}
	}
}

func TestReady(t *testing.T) {
	now := time.Unix(1e9, 0)
	claim := func(since time.Duration, conditions ...string) *resource.ResourceClaim {
		o := allocated("c", "1", "x")
		o.Status.Allocation.AllocationTimestamp = new(metav1.NewTime(now.Add(-since)))
		r := &o.Status.Allocation.Devices.Results[0]
		r.BindingConditions, r.BindingFailureConditions = []string{"up", "cabled"}, []string{"broken"}
		d := resource.AllocatedDeviceStatus{Driver: "d.io", Pool: "p", Device: "x"}
		for _, c := range conditions {
			d.Conditions = append(d.Conditions, metav1.Condition{Type: c, Status: metav1.ConditionTrue, Reason: "R", Message: "m"})
		}
		o.Status.Devices = []resource.AllocatedDeviceStatus{d}
		return o
	}
	for _, tc := range []struct {
		name  string
		claim *resource.ResourceClaim
		ready bool
		says  string
	}{
		{"nothing to wait for", allocated("c", "1", "x"), true, ""},
		{"not allocated", allocated("c", "1"), false, "claim default/c got deallocated elsewhere in the meantime"},
		{"half", claim(0, "up"), false, ""},
		{"all", claim(time.Hour, "up", "cabled"), true, ""},
		{"broken", claim(0, "up", "cabled", "broken"), false, `device binding failed: claim=c, reason=R, message="m"`},
		{"too late", claim(time.Hour, "up"), false, "device binding timeout: claim=c"},
	} {
		ready, _, err := Ready(tc.claim, now)
		says := ""
		if err != nil {
			says = err.Error()
		}
		if ready != tc.ready || says != tc.says {
			t.Errorf("%s: %v %q", tc.name, ready, says)
		}
	}
}
