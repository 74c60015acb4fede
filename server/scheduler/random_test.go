package scheduler

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/gpu/share"
)

var seed = flag.Uint64("seed", 0, "of the random test; 0: a new one")

// TestNoDeviceIsGivenTwice does at random what clusters see: pods that want cards, MIG
// devices or claims on either come, are preempted, end and go; devices are tainted and
// slices written anew; the scheduler's writes fail, and it dies at any of them and comes
// again. At no revision has a device two holders, and in the end everything is free.
func TestNoDeviceIsGivenTwice(t *testing.T) {
	t.Run("cards", func(t *testing.T) { random(t, "h200-8", share.None) })
	t.Run("partitions", func(t *testing.T) { random(t, "h200-mig", share.Mixed) })
}

type randomRun struct {
	*fleet
	rand *rand.Rand
	pods []string
	n    int
}

func random(t *testing.T, machine string, strategy share.Strategy) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("run again with -seed %d", s)
		}
	})
	f := newFleet(t, memory.New(), 3, machine, strategy)
	class := "gpu"
	if strategy == share.Mixed {
		class = "mig"
	}
	for n := range int64(3) {
		f.template(fmt.Sprintf("t-%d", n+1), class, n+1)
	}
	f.template("t-big", class, 1, `device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("60Gi")) > 0`)
	r := &randomRun{fleet: f, rand: rand.New(rand.NewPCG(s, 1))}
	for range 300 {
		r.step()
	}
	f.refusing(nil)
	for _, name := range r.pods {
		f.end(name)
	}
	eventually(t, func() bool {
		for _, c := range client.CachedList(f, api.ResourceClaims, "default", nil) {
			if c.Status.Allocation != nil {
				return false
			}
		}
		return true
	})
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range client.CachedList(f, api.Pods, "default", nil) {
				t.Logf("pod %s on %s %s %v %v", p.Name, p.Spec.NodeName, p.Status.Phase, p.Annotations, p.DeletionTimestamp)
			}
		}
	})
	r.untaint()
	// Whatever was leaked is missing now.
	all := []string{"nvidia.com/gpu", "8"}
	if strategy == share.Mixed {
		all = []string{"nvidia.com/mig-1g.18gb", fmt.Sprint(r.count("nvidia.com/mig-1g.18gb"))}
	}
	for i := range 3 {
		f.pod(fmt.Sprintf("last-%d", i), "1", limit(all[0], all[1]))
	}
	for i := range 3 {
		f.until(fmt.Sprintf("last-%d", i), "bound", bound)
	}
	f.oracle.verify(t)
}

// count is how many units a node has of a resource.
func (r *randomRun) count(resource string) (n int) {
	p := r.oracle.pools["n000"]
	for _, u := range p.Units {
		if u.Resource == resource {
			n++
		}
	}
	return n
}

func (r *randomRun) step() {
	switch k := r.rand.IntN(100); {
	case k < 50:
		r.come()
	case k < 75:
		r.leave()
	case k < 80:
		r.taint()
	case k < 85:
		r.untaint()
	case k < 88:
		r.rewrite()
	case k < 92:
		r.crash()
	case k < 96: // some writes fail
		r.refusing(failing(r.rand.Int64N(8)))
	default:
		r.refusing(nil)
	}
	if r.rand.IntN(4) == 0 { // let the scheduler come to something
		time.Sleep(time.Duration(r.rand.IntN(8)) * time.Millisecond)
	}
}

var errInjected = errors.New("injected by the test")

// failing lets n writes through and fails those after it.
func failing(n int64) func(client.Target) error {
	left := &atomic.Int64{}
	left.Store(n)
	return func(client.Target) error {
		if left.Add(-1) < 0 {
			return errInjected
		}
		return nil
	}
}

func (r *randomRun) come() {
	r.n++
	name := fmt.Sprintf("r-%d", r.n)
	var how func(*core.Pod)
	mixed := r.count("nvidia.com/gpu") == 0
	switch k := r.rand.IntN(10); {
	case k < 4 && mixed:
		how = limit("nvidia.com/mig-1g.18gb", fmt.Sprint(1+r.rand.IntN(2)))
	case k < 4:
		how = limit("nvidia.com/gpu", fmt.Sprint(1+r.rand.IntN(4)))
	case k < 6:
		how = template("t-big")
	case k < 9:
		how = template(fmt.Sprintf("t-%d", 1+r.rand.IntN(3)))
	default: // several pods use one claim
		class := "gpu"
		if mixed {
			class = "mig"
		}
		shared := fmt.Sprintf("shared-%d", r.n/20)
		if r.Lookup(api.ResourceClaims.Facts, "default", shared) == nil {
			r.claim(shared, class, 1)
		}
		how = claims(shared)
	}
	r.pods = append(r.pods, name)
	r.pod(name, "1", how, now, func(p *core.Pod) { p.Spec.Priority = new(int32(r.rand.IntN(3))) })
}

// leave deletes a pod, or ends it first.
func (r *randomRun) leave() {
	if len(r.pods) == 0 {
		return
	}
	i := r.rand.IntN(len(r.pods))
	name := r.pods[i]
	if p := client.Cached(r, api.Pods, "default", name); p != nil && p.Spec.NodeName != "" && r.rand.IntN(2) == 0 {
		patch := fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"phase":"Succeeded"}}`, p.UID)
		_, _ = r.Patch(context.Background(), client.Target{Kind: api.Pods.Facts, Namespace: "default", Name: name, Subresource: "status"}, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return // the pod may have been preempted: then it is gone either way
	}
	r.end(name)
	r.pods = append(r.pods[:i], r.pods[i+1:]...)
}

func (r *randomRun) taint() {
	o := &resource.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "rule"}, Spec: resource.DeviceTaintRuleSpec{
		DeviceSelector: &resource.DeviceTaintSelector{Device: new(fmt.Sprintf("gpu-%d", r.rand.IntN(8)))},
		Taint:          resource.DeviceTaint{Key: "example.com/ill", Effect: resource.DeviceTaintEffectNoSchedule}}}
	if r.Lookup(api.DeviceTaintRules.Facts, "", "rule") == nil {
		must[*resource.DeviceTaintRule](r)(client.Create(context.Background(), r, api.DeviceTaintRules, o))
	}
}

func (r *randomRun) untaint() {
	if r.Lookup(api.DeviceTaintRules.Facts, "", "rule") != nil {
		must[struct{}](r)(struct{}{}, client.Delete(context.Background(), r, api.DeviceTaintRules, "", "rule", metav1.DeleteOptions{}))
	}
}

// rewrite takes a node's slices away and publishes them again.
func (r *randomRun) rewrite() {
	node := fmt.Sprintf("n%03d", r.rand.IntN(3))
	for _, o := range client.CachedList(r, api.ResourceSlices, "", nil) {
		if *o.Spec.NodeName == node {
			must[struct{}](r)(struct{}{}, client.Delete(context.Background(), r, api.ResourceSlices, "", o.Name, metav1.DeleteOptions{}))
			fresh := &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: o.Name}, Spec: *o.Spec.DeepCopy()}
			must[*resource.ResourceSlice](r)(client.Create(context.Background(), r, api.ResourceSlices, fresh))
		}
	}
}

// crash stops the scheduler in the midst of its writes: those after the next few never
// happen.
func (r *randomRun) crash() {
	r.refusing(failing(r.rand.Int64N(6)))
	time.Sleep(time.Duration(r.rand.IntN(3)) * time.Millisecond)
	r.stop()
	r.refusing(nil)
	r.start()
}
