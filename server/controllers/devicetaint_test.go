package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

// gpuSlice lists one card of node n1, with the taints.
func gpuSlice(taints ...resource.DeviceTaint) *resource.ResourceSlice {
	uuid := "GPU-1"
	return &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "n1-gpus"}, Spec: resource.ResourceSliceSpec{Driver: api.GPUDriver, NodeName: new("n1"),
		Pool:    resource.ResourcePool{Name: "n1", Generation: 1, ResourceSliceCount: 1},
		Devices: []resource.Device{{Name: "gpu-0", Attributes: map[resource.QualifiedName]resource.DeviceAttribute{"uuid": {StringValue: &uuid}}, Taints: taints}}}}
}

func noExecute(key string) resource.DeviceTaint {
	now := metav1.Now()
	return resource.DeviceTaint{Key: key, Effect: resource.DeviceTaintEffectNoExecute, TimeAdded: &now}
}

func rule(name string, effect resource.DeviceTaintEffect) *resource.DeviceTaintRule {
	t := noExecute("admin.io/away")
	t.Effect = effect
	return &resource.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resource.DeviceTaintRuleSpec{DeviceSelector: &resource.DeviceTaintSelector{Driver: new(api.GPUDriver)}, Taint: t}}
}

// claimant is a running pod with the card by a claim that tolerates as given.
func (c *cluster) claimant(name string, tolerations ...resource.DeviceToleration) {
	c.t.Helper()
	make_(c, api.ResourceClaims, claimNamed(name))
	p := make_(c, api.Pods, podWithClaim(name, core.PodResourceClaim{ResourceClaimName: new(name)}))
	editStatus(c, api.ResourceClaims, "default", name, func(o *resource.ResourceClaim) {
		o.Status.Allocation = &resource.AllocationResult{Devices: resource.DeviceAllocationResult{
			Results: []resource.DeviceRequestAllocationResult{{Request: "r", Driver: api.GPUDriver, Pool: "n1", Device: "gpu-0", Tolerations: tolerations}}}}
		o.Status.ReservedFor = []resource.ResourceClaimConsumerReference{{Resource: "pods", Name: name, UID: p.UID}}
	})
	c.running(name)
}

func (c *cluster) running(name string) {
	c.t.Helper()
	c.await(func() string {
		if p := client.Cached(c, api.Pods, "default", name); p == nil || p.Status.Phase != core.PodRunning {
			return name + " does not run"
		}
		return ""
	})
}

// watchEvictions returns what waits until pods are gone, each with the condition that says why.
func (c *cluster) watchEvictions() func(names ...string) {
	c.t.Helper()
	type end struct{ marked, gone bool }
	seen := make(chan map[string]end, 1)
	seen <- map[string]end{}
	if err := c.Subscribe(c.ctx, api.Pods.Facts, func(ch client.Change) {
		m := <-seen
		defer func() { seen <- m }()
		if ch.New == nil {
			e := m[ch.Old.GetName()]
			e.gone = true
			m[ch.Old.GetName()] = e
			return
		}
		for _, cond := range ch.New.(*core.Pod).Status.Conditions {
			if cond.Type == core.DisruptionTarget && cond.Reason == "DeletionByDeviceTaintManager" && cond.Message == "Device Taint manager: deleting due to NoExecute taint" {
				m[ch.New.GetName()] = end{marked: true}
			}
		}
	}); err != nil {
		c.t.Fatal(err)
	}
	return func(names ...string) {
		c.t.Helper()
		for _, n := range names {
			c.await(func() string {
				m := <-seen
				defer func() { seen <- m }()
				if e := m[n]; !e.marked || !e.gone {
					return fmt.Sprintf("pod %s: %+v", n, e)
				}
				return ""
			})
		}
	}
}

func TestTaintOfADriverEvicts(t *testing.T) {
	c := start(t)
	make_(c, api.ResourceSlices, gpuSlice())
	gone := c.watchEvictions()
	c.claimant("plainly")
	c.claimant("tolerant", resource.DeviceToleration{Key: "gpu.nvidia.com/gpu-lost", Operator: resource.DeviceTolerationOpExists})
	c.claimant("patient", resource.DeviceToleration{Operator: resource.DeviceTolerationOpExists, TolerationSeconds: new(int64(3600))})
	for _, name := range []string{"chosen", "tolerating"} {
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{devicesAtBinding: `{"c":{"nvidia.com/gpu":["GPU-1"]}}`}},
			Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Image: "x"}}}}
		if name == "tolerating" { // nodes' taints, not devices'
			p.Spec.Tolerations = []core.Toleration{{Key: "gpu.nvidia.com/gpu-lost", Operator: core.TolerationOpExists, Effect: core.TaintEffectNoExecute}}
		}
		make_(c, api.Pods, p)
		c.running(name)
	}
	edit(c, api.ResourceSlices, "", "n1-gpus", func(s *resource.ResourceSlice) {
		s.Spec.Devices[0].Taints = []resource.DeviceTaint{noExecute("gpu.nvidia.com/gpu-lost")}
	})
	gone("plainly", "chosen", "tolerating")
	c.awaitEvent("DeviceTaintManagerEviction", "Marking for deletion")
	c.settle()
	for _, n := range []string{"tolerant", "patient"} {
		if p := client.Cached(c, api.Pods, "default", n); p == nil || p.DeletionTimestamp != nil {
			t.Errorf("%s was evicted", n)
		}
	}
	// The taint goes before the patience ends.
	edit(c, api.ResourceSlices, "", "n1-gpus", func(s *resource.ResourceSlice) { s.Spec.Devices[0].Taints = nil })
	c.awaitEvent("DeviceTaintManagerEviction", "Cancelling deletion")
}

func TestPatienceEnds(t *testing.T) {
	c := start(t)
	make_(c, api.ResourceSlices, gpuSlice(noExecute("k.io/x")))
	gone := c.watchEvictions()
	c.claimant("patient", resource.DeviceToleration{Key: "k.io/x", Operator: resource.DeviceTolerationOpExists, TolerationSeconds: new(int64(1))})
	gone("patient") // which waits a minute at most, not the hour of others' patience
}

func (c *cluster) ruleSays(name string, status metav1.ConditionStatus, reason, message string) {
	c.t.Helper()
	c.await(func() string {
		r := client.Cached(c, api.DeviceTaintRules, "", name)
		for _, x := range r.Status.Conditions {
			if x.Type == resource.DeviceTaintConditionEvictionInProgress && x.Status == status && x.Reason == reason && strings.HasPrefix(x.Message, message) && x.ObservedGeneration == r.Generation {
				return ""
			}
		}
		return fmt.Sprintf("%+v", r.Status.Conditions)
	})
}

func TestRuleEvictsAndSaysSo(t *testing.T) {
	c := start(t)
	make_(c, api.ResourceSlices, gpuSlice())
	gone := c.watchEvictions()
	c.claimant("a")
	c.claimant("b", resource.DeviceToleration{Key: "admin.io/away", Operator: resource.DeviceTolerationOpExists, TolerationSeconds: new(int64(3600))})
	make_(c, api.DeviceTaintRules, rule("away", resource.DeviceTaintEffectNone))
	c.ruleSays("away", metav1.ConditionFalse, "NoEffect", "1 published device selected. 2 allocated devices selected. 2 pods would be evicted in 1 namespace if the effect was NoExecute. ")
	edit(c, api.DeviceTaintRules, "", "away", func(r *resource.DeviceTaintRule) { r.Spec.Taint.Effect = resource.DeviceTaintEffectNoSchedule })
	c.ruleSays("away", metav1.ConditionFalse, "OtherEffect", "Eviction only happens for the NoExecute effect.")
	if p := client.Cached(c, api.Pods, "default", "a"); p == nil {
		t.Error("evicted by a rule that does not evict")
	}
	edit(c, api.DeviceTaintRules, "", "away", func(r *resource.DeviceTaintRule) { r.Spec.Taint.Effect = resource.DeviceTaintEffectNoExecute })
	gone("a")
	c.ruleSays("away", metav1.ConditionTrue, "PodsPendingEviction", "")
	make_(c, api.DeviceTaintRules, rule("nothing", resource.DeviceTaintEffectNoExecute))
	edit(c, api.DeviceTaintRules, "", "nothing", func(r *resource.DeviceTaintRule) { r.Spec.DeviceSelector.Driver = new("other.io") })
	c.ruleSays("nothing", metav1.ConditionFalse, "NotStarted", "")
}

// What comes after ten seconds comes after one change of the clock.
func TestRuleIsCompleted(t *testing.T) {
	c := start(t)
	make_(c, api.ResourceSlices, gpuSlice())
	gone := c.watchEvictions()
	c.claimant("a")
	make_(c, api.DeviceTaintRules, rule("away", resource.DeviceTaintEffectNoExecute))
	gone("a")
	c.mu.Lock()
	c.ahead = 11 * time.Second
	c.mu.Unlock()
	c.claimant("b", resource.DeviceToleration{Operator: resource.DeviceTolerationOpExists})
	c.ruleSays("away", metav1.ConditionFalse, "Completed", "1 pod evicted since starting the controller.")
}
