package scheduler

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/gpu/fakenvml"
	gpu "orch/gpu/slices"
	"orch/server/placement"
)

const gpuClass = `device.driver == "gpu.nvidia.com" && device.attributes["gpu.nvidia.com"].type == "gpu"`

// must stops the test on an error.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// gpus publishes a machine of the catalogue as the node's devices.
func (c *cluster) gpus(node, machine string) {
	c.Helper()
	rec, err := fakenvml.Load(machine)
	if err != nil {
		c.Fatal(err)
	}
	for i, spec := range gpu.Of(gpu.Node{Name: node, Machine: rec.Machine}) {
		o := &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", node, i)}, Spec: spec}
		must[*resource.ResourceSlice](c)(client.Create(context.Background(), c, api.ResourceSlices, o))
	}
}

func (c *cluster) class(name, expression string, edit ...func(*resource.DeviceClass)) {
	c.Helper()
	o := &resource.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resource.DeviceClassSpec{
		Selectors: []resource.DeviceSelector{{CEL: &resource.CELDeviceSelector{Expression: expression}}}}}
	for _, e := range edit {
		e(o)
	}
	must[*resource.DeviceClass](c)(client.Create(context.Background(), c, api.DeviceClasses, o))
}

// claim asks for n devices of the class.
func (c *cluster) claim(name, class string, n int64) *resource.ResourceClaim {
	c.Helper()
	o := &resource.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: resource.ResourceClaimSpec{Devices: resource.DeviceClaim{
		Requests: []resource.DeviceRequest{{Name: "r", Exactly: &resource.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resource.DeviceAllocationModeExactCount, Count: n}}}}}}
	return must[*resource.ResourceClaim](c)(client.Create(context.Background(), c, api.ResourceClaims, o))
}

func (c *cluster) getClaim(name string) *resource.ResourceClaim {
	c.Helper()
	return must[*resource.ResourceClaim](c)(client.Get(context.Background(), c, api.ResourceClaims, "default", name))
}

func claims(names ...string) func(*core.Pod) {
	return func(p *core.Pod) {
		for _, n := range names {
			p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, core.PodResourceClaim{Name: n, ResourceClaimName: &n})
		}
	}
}

func devicesOf(o *resource.ResourceClaim) []string {
	var out []string
	if o.Status.Allocation != nil {
		for _, r := range o.Status.Allocation.Devices.Results {
			out = append(out, r.Pool+"/"+r.Device)
		}
	}
	return out
}

func message(p *core.Pod) string {
	for _, k := range p.Status.Conditions {
		if k.Type == core.PodScheduled {
			return k.Message
		}
	}
	return ""
}

func saying(text string) func(*core.Pod) bool {
	return func(p *core.Pod) bool { return message(p) == text }
}

func TestClaimIsAllocatedBeforeItsPodIsBound(t *testing.T) {
	c := newCluster(t, memory.New())
	c.node("a", "8")
	c.pod("p", "1", claims("c"))
	c.until("p", "told that its claim is missing", saying(`0/1 nodes are available: could not find ResourceClaim "default/c". preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.`))
	c.claim("c", "gpu", 2)
	c.until("p", "told that the class is missing", saying(`0/1 nodes are available: request r: device class gpu does not exist. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.`))
	c.class("gpu", gpuClass)
	c.until("p", "told that there are no devices", saying(`0/1 nodes are available: 1 cannot allocate all claims. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.`))
	c.gpus("a", "h200-8")
	p := c.until("p", "bound", bound)
	o := c.getClaim("c")
	if got := devicesOf(o); !slices.Equal(got, []string{"a/gpu-0", "a/gpu-1"}) {
		t.Errorf("devices %v", got)
	}
	if !slices.Contains(o.Finalizers, resource.Finalizer) || o.Status.Allocation.AllocationTimestamp == nil || o.Status.Allocation.NodeSelector == nil {
		t.Errorf("claim %+v", o)
	}
	if want := []resource.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: p.UID}}; !slices.Equal(o.Status.ReservedFor, want) {
		t.Errorf("reserved for %v", o.Status.ReservedFor)
	}
	// A second user goes where the devices are, and they stay the same.
	c.node("b", "64")
	c.pod("q", "1", claims("c"))
	if q := c.until("q", "bound", bound); q.Spec.NodeName != "a" {
		t.Errorf("on %s", q.Spec.NodeName)
	}
	if o = c.getClaim("c"); len(o.Status.ReservedFor) != 2 {
		t.Errorf("reserved for %v", o.Status.ReservedFor)
	}
}

// TestClaimOfATemplate is found by the pod's status, and must be the pod's own.
func TestClaimOfATemplate(t *testing.T) {
	c := newCluster(t, memory.New())
	c.node("a", "8")
	c.gpus("a", "h200")
	c.class("gpu", gpuClass)
	c.pod("p", "1", func(p *core.Pod) {
		p.Spec.ResourceClaims = []core.PodResourceClaim{{Name: "x", ResourceClaimTemplateName: new("t")}}
	})
	p := must[*core.Pod](t)(client.Get(context.Background(), c, api.Pods, "default", "p"))
	foreign := c.claim("foreign", "gpu", 1)
	say := func(name string) {
		p = must[*core.Pod](t)(client.Get(context.Background(), c, api.Pods, "default", "p")).DeepCopy()
		p.Status.ResourceClaimStatuses = []core.PodResourceClaimStatus{{Name: "x", ResourceClaimName: &name}}
		must[*core.Pod](t)(client.UpdateStatus(context.Background(), c, api.Pods, p))
	}
	say(foreign.Name)
	c.until("p", "told that the claim is not its own", saying(`0/1 nodes are available: ResourceClaim default/foreign was not created for Pod default/p (Pod is not owner). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.`))
	own := foreign.DeepCopy()
	own.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: "own", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: p.UID, Controller: new(true)}}}
	must[*resource.ResourceClaim](t)(client.Create(context.Background(), c, api.ResourceClaims, own))
	say("own")
	c.until("p", "bound", bound)
	if got := devicesOf(c.getClaim("own")); len(got) != 1 {
		t.Errorf("devices %v", got)
	}
}

// TestDeviceThatBecomesFreeIsUsed by whoever waits, whichever way it was held.
func TestDeviceThatBecomesFreeIsUsed(t *testing.T) {
	ctx := context.Background()
	c := newCluster(t, memory.New())
	c.node("a", "8")
	c.gpus("a", "h200")
	c.class("gpu", gpuClass)
	c.claim("c", "gpu", 1)
	c.pod("first", "1", claims("c"))
	c.until("first", "bound", bound)
	c.pod("plain", "1", limit("nvidia.com/gpu", "1"))
	c.until("plain", "told why it waits", waiting)
	if err := client.Delete(ctx, c, api.Pods, "default", "first", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	// The claim still has the device: nobody has said that the pod's reservation is over.
	c.until("plain", "still waiting", waiting)
	o := c.getClaim("c").DeepCopy()
	o.Status = resource.ResourceClaimStatus{}
	must[*resource.ResourceClaim](t)(client.UpdateStatus(ctx, c, api.ResourceClaims, o))
	p := c.until("plain", "bound", bound)
	if p.Annotations[api.AnnotationDevices] == "" {
		t.Errorf("annotations %v", p.Annotations)
	}
	c.pod("second", "1", claims("c"))
	c.until("second", "told why it waits", waiting)
	if err := client.Delete(ctx, c, api.Pods, "default", "plain", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	c.until("second", "bound", bound)
}

func limit(name, n string) func(*core.Pod) {
	return func(p *core.Pod) {
		q := core.ResourceList{core.ResourceName(name): quantity(n)}
		r := &p.Spec.Containers[0].Resources
		r.Limits = q
		for k, v := range q {
			r.Requests[k] = v
		}
	}
}

// TestUnusedAllocationElsewhereIsGivenUp: the claim's devices are on a node that the pod
// cannot go to, and nobody uses them.
func TestUnusedAllocationElsewhereIsGivenUp(t *testing.T) {
	c := newCluster(t, memory.New())
	c.node("a", "8")
	c.node("b", "8")
	c.gpus("a", "h200")
	c.class("gpu", gpuClass)
	c.claim("c", "gpu", 1)
	c.pod("first", "1", claims("c"))
	c.until("first", "bound", bound)
	c.pod("second", "1", claims("c"), func(p *core.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "b"} })
	c.until("second", "told where its claim is", saying(`0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 resourceclaim not available on the node. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.`))
	if len(devicesOf(c.getClaim("c"))) == 0 {
		t.Fatal("a claim in use lost its devices")
	}
	o := c.getClaim("c").DeepCopy()
	o.Status.ReservedFor = nil
	must[*resource.ResourceClaim](t)(client.UpdateStatus(context.Background(), c, api.ResourceClaims, o))
	c.until("second", "told that there are no devices", saying(`0/2 nodes are available: 1 cannot allocate all claims, 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.`))
	c.gpus("b", "h200")
	c.until("second", "bound", bound)
	if got := devicesOf(c.getClaim("c")); !slices.Equal(got, []string{"b/gpu-0"}) {
		t.Errorf("devices %v", got)
	}
}

// TestPodThatCannotBeBoundGivesItsReservationBack and keeps nobody from the devices.
func TestPodThatCannotBeBoundGivesItsReservationBack(t *testing.T) {
	c := newCluster(t, memory.New())
	c.refusing(func(t client.Target) error {
		if t.Subresource == "binding" {
			return errors.NewForbidden(core.Resource("pods"), t.Name, fmt.Errorf("not today"))
		}
		return nil
	})
	c.node("a", "8")
	c.gpus("a", "h200")
	c.class("gpu", gpuClass)
	c.claim("c", "gpu", 1)
	c.pod("p", "1", claims("c"))
	eventually(t, func() bool {
		o := c.getClaim("c")
		return len(o.Finalizers) > 0 && o.Status.Allocation == nil && len(o.Status.ReservedFor) == 0
	})
	c.refusing(nil)
	c.until("p", "bound", bound)
	if o := c.getClaim("c"); len(o.Status.ReservedFor) != 1 {
		t.Errorf("reserved for %v", o.Status.ReservedFor)
	}
}

// TestManyPodsShareAClaim: those that come while it is being allocated, and all that
// reserve it at once.
func TestManyPodsShareAClaim(t *testing.T) {
	c := newCluster(t, memory.New())
	c.node("a", "500")
	c.gpus("a", "h200")
	c.class("gpu", gpuClass)
	c.claim("c", "gpu", 1)
	const n = 100
	for i := range n {
		c.pod(fmt.Sprintf("p-%d", i), "1", claims("c"))
	}
	for i := range n {
		c.until(fmt.Sprintf("p-%d", i), "bound", bound)
	}
	if o := c.getClaim("c"); len(o.Status.ReservedFor) != n {
		t.Errorf("reserved for %d", len(o.Status.ReservedFor))
	}
	if c.said("FailedScheduling") {
		t.Error("a pod was told that it cannot be placed")
	}
}

// TestLongSearchEnds: a claim whose devices only an exhaustive search would find, or not.
func TestLongSearchEnds(t *testing.T) {
	s := must[*Scheduler](t)(New(Config{Client: &client.Client{}, Events: &cluster{}}))
	s.cluster.Devices.MaxSearch = 20 * time.Millisecond
	s.cluster.SetNode(&core.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: core.NodeStatus{Allocatable: core.ResourceList{"pods": quantity("10")}}})
	slice := &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resource.ResourceSliceSpec{Driver: "d.io", NodeName: new("a"), Pool: resource.ResourcePool{Name: "a", ResourceSliceCount: 1}}}
	for i := range 60 {
		slice.Spec.Devices = append(slice.Spec.Devices, resource.Device{Name: fmt.Sprintf("d-%02d", i),
			Attributes: map[resource.QualifiedName]resource.DeviceAttribute{"half": {IntValue: new(int64(i / 15))}}})
	}
	s.cluster.Devices.SetSlice(slice)
	s.cluster.Devices.SetClass(&resource.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "c"}})
	// Sixteen that are alike, of which there are fifteen: only trying all sets of them shows that.
	half := resource.FullyQualifiedName("d.io/half")
	s.cluster.Devices.SetClaim(&resource.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c", UID: "c", ResourceVersion: "1"}, Spec: resource.ResourceClaimSpec{Devices: resource.DeviceClaim{
		Requests:    []resource.DeviceRequest{{Name: "r", Exactly: &resource.ExactDeviceRequest{DeviceClassName: "c", AllocationMode: resource.DeviceAllocationModeExactCount, Count: 16}}},
		Constraints: []resource.DeviceConstraint{{MatchAttribute: &half}}}}})
	p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p"}}
	claims("c")(p)
	s.queue.put(placement.NewPod(p), time.Now())
	e := s.queue.pop(time.Now())
	if d := s.place(e); d.Err == nil || d.Message() != `running "DynamicResources" filter plugin: node a: timed out trying to allocate devices` {
		t.Fatalf("%v", d.Message())
	}
}

// TestPodWaitsForDevicesToBecomeReady, counts on its node meanwhile, and gets others if they
// will not be.
func TestPodWaitsForDevicesToBecomeReady(t *testing.T) {
	ctx := context.Background()
	c := newCluster(t, memory.New())
	c.node("a", "2")
	slice := &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resource.ResourceSliceSpec{Driver: "d.io", NodeName: new("a"), Pool: resource.ResourcePool{Name: "a", ResourceSliceCount: 1},
		Devices: []resource.Device{{Name: "x", BindingConditions: []string{"d.io/attached"}, BindingFailureConditions: []string{"d.io/broken"}}}}}
	must[*resource.ResourceSlice](t)(client.Create(ctx, c, api.ResourceSlices, slice))
	c.class("any", `device.driver == "d.io"`)
	c.claim("c", "any", 1)
	c.pod("p", "2", claims("c"))
	eventually(t, func() bool {
		return c.said("BindingConditionsPending p: waiting for binding conditions for device on node a")
	})
	c.pod("late", "1")
	c.until("late", "told that the node is full", waiting)
	if p := client.Cached(c, api.Pods, "default", "p"); bound(p) {
		t.Fatal("bound before the device is ready")
	}
	must[struct{}](t)(struct{}{}, client.Delete(ctx, c, api.Pods, "default", "late", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	say := func(condition string) {
		o := c.getClaim("c").DeepCopy()
		o.Status.Devices = []resource.AllocatedDeviceStatus{{Driver: "d.io", Pool: "a", Device: "x", Conditions: []metav1.Condition{
			{Type: condition, Status: metav1.ConditionTrue, Reason: "Test", Message: "m", LastTransitionTime: metav1.Now()}}}}
		must[*resource.ResourceClaim](t)(client.UpdateStatus(ctx, c, api.ResourceClaims, o))
	}
	say("d.io/broken")
	eventually(t, func() bool { // taken back, and tried anew
		o := c.getClaim("c")
		return o.Status.Allocation != nil && o.Status.Devices == nil && len(o.Status.ReservedFor) == 1
	})
	// A scheduler that comes anew goes on waiting.
	c.stop()
	c.start()
	eventually(t, func() bool { return c.count("BindingConditionsPending") == 3 })
	say("d.io/attached")
	c.until("p", "bound", bound)
}

// TestDevicesArePromised to a pod that waits for a node: who is less important does not get
// them meanwhile.
func TestDevicesArePromised(t *testing.T) {
	s := must[*Scheduler](t)(New(Config{Client: &client.Client{}, Events: &cluster{}}))
	s.cluster.SetNode(&core.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: core.NodeStatus{Allocatable: core.ResourceList{"pods": quantity("10")}}})
	s.cluster.Devices.SetSlice(&resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resource.ResourceSliceSpec{Driver: "d.io", NodeName: new("a"),
		Pool: resource.ResourcePool{Name: "a", ResourceSliceCount: 1}, Devices: []resource.Device{{Name: "x"}}}})
	s.cluster.Devices.SetClass(&resource.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "c"}})
	pods := map[string]*placement.Pod{}
	for name, priority := range map[string]int32{"boss": 10, "low": 1} {
		s.cluster.Devices.SetClaim(&resource.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: "1"},
			Spec: resource.ResourceClaimSpec{Devices: resource.DeviceClaim{Requests: []resource.DeviceRequest{{Name: "r",
				Exactly: &resource.ExactDeviceRequest{DeviceClassName: "c", AllocationMode: resource.DeviceAllocationModeExactCount, Count: 1}}}}}})
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}, Spec: core.PodSpec{Priority: &priority}}
		claims(name)(p)
		pods[name] = placement.NewPod(p)
	}
	s.nominated["boss"] = nomination{pods["boss"], "a"}
	if d := s.place(&pending{Pod: pods["low"]}); d.Node != "" {
		t.Error("the device went to the less important pod")
	}
	if d := s.place(&pending{Pod: pods["boss"]}); d.Node != "a" {
		t.Errorf("the promise was not kept: %s", d.Message())
	}
}
