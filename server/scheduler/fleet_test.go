package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
	"orch/datastore"
	"orch/datastore/memory"
	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/share"
	gpu "orch/gpu/slices"
	"orch/server/controllers/resourceclaim"
	"orch/server/placement/devices"
)

// oracle watches pods and claims, and finds devices that two have at once.
type oracle struct {
	pools map[string]gpu.Pool // by node
	mu    sync.Mutex
	steps []step // guarded by mu
}

type step struct {
	revision int64
	pod      *core.Pod
	claim    *resource.ResourceClaim
	gone     bool
}

func (o *oracle) watch(t testing.TB, c *client.Client) {
	must[struct{}](t)(struct{}{}, c.Subscribe(t.Context(), api.Pods.Facts, func(ch client.Change) {
		if s := (step{revision: ch.Revision, gone: ch.New == nil}); ch.New != nil || ch.Old != nil {
			s.pod, _ = ch.New.(*core.Pod)
			if s.gone {
				s.pod = ch.Old.(*core.Pod)
			}
			o.note(s)
		}
	}))
	must[struct{}](t)(struct{}{}, c.Subscribe(t.Context(), api.ResourceClaims.Facts, func(ch client.Change) {
		if s := (step{revision: ch.Revision, gone: ch.New == nil}); ch.New != nil || ch.Old != nil {
			s.claim, _ = ch.New.(*resource.ResourceClaim)
			if s.gone {
				s.claim = ch.Old.(*resource.ResourceClaim)
			}
			o.note(s)
		}
	}))
}

func (o *oracle) note(s step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.steps = append(o.steps, s)
}

// hold is a device on a node.
type hold struct {
	node string
	gpu.Device
}

// verify goes through all revisions in order.
func (o *oracle) verify(t testing.TB) {
	t.Helper()
	o.mu.Lock()
	steps := slices.Clone(o.steps)
	o.mu.Unlock()
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.revision - b.revision) })
	held, live := map[string][]hold{}, map[types.UID]*resource.ResourceClaim{} // by holder
	bound := map[types.UID]bool{}
	for _, s := range steps {
		var who string
		var has []hold
		if s.claim != nil {
			who, has = "claim "+s.claim.Name, o.ofClaim(s)
			if live[s.claim.UID] = s.claim; s.gone {
				delete(live, s.claim.UID)
			}
		} else {
			who, has = "pod "+s.pod.Name, o.ofPod(t, s)
			if s.pod.Spec.NodeName != "" && !bound[s.pod.UID] {
				bound[s.pod.UID] = true
				o.ready(t, s.pod, live)
			}
		}
		who += " " + fmt.Sprint(s.uid())
		delete(held, who)
		for other, theirs := range held {
			for _, h := range has {
				if i := slices.IndexFunc(theirs, func(x hold) bool { return x.node == h.node && x.Conflicts(h.Device) }); i >= 0 {
					t.Fatalf("revision %d: %s has %s/%s, %s has %s", s.revision, who, h.node, h.Name, other, theirs[i].Name)
				}
			}
		}
		if len(has) > 0 {
			held[who] = has
		}
	}
}

func (s step) uid() types.UID {
	if s.claim != nil {
		return s.claim.UID
	}
	return s.pod.UID
}

func (o *oracle) ofClaim(s step) []hold {
	var out []hold
	if a := s.claim.Status.Allocation; a != nil && !s.gone {
		for _, r := range a.Devices.Results {
			p := o.pools[r.Pool]
			d, _ := p.Device(r.Device)
			out = append(out, hold{r.Pool, d})
		}
	}
	return out
}

func (o *oracle) ofPod(t testing.TB, s step) []hold {
	text := s.pod.Annotations[api.AnnotationDevices]
	if s.gone || text == "" || s.pod.Status.Phase == core.PodSucceeded || s.pod.Status.Phase == core.PodFailed {
		return nil
	}
	var u devices.Units
	if err := json.Unmarshal([]byte(text), &u); err != nil {
		t.Fatal(err)
	}
	var out []hold
	seen := map[string]bool{}
	for name, ids := range u["c"] {
		if want := s.pod.Spec.Containers[0].Resources.Limits[core.ResourceName(name)]; want.Value() != int64(len(ids)) {
			t.Fatalf("pod %s has %d of %s, wants %d", s.pod.Name, len(ids), name, want.Value())
		}
		for _, id := range ids {
			p := o.pools[s.pod.Spec.NodeName]
			d, ok := p.DeviceOf(id)
			if !ok || seen[id] {
				t.Fatalf("pod %s has %s, which is not there or twice", s.pod.Name, id)
			}
			seen[id] = true
			out = append(out, hold{s.pod.Spec.NodeName, d})
		}
	}
	return out
}

// ready: the claims of a pod are allocated and reserved when it is bound, its limits named.
func (o *oracle) ready(t testing.TB, p *core.Pod, claims map[types.UID]*resource.ResourceClaim) {
	users := 0
	for _, c := range claims {
		if c.Status.Allocation != nil && slices.ContainsFunc(c.Status.ReservedFor, func(r resource.ResourceClaimConsumerReference) bool { return r.UID == p.UID }) {
			users++
		}
	}
	if users < len(p.Spec.ResourceClaims) {
		t.Fatalf("pod %s was bound with %d claims of %d", p.Name, users, len(p.Spec.ResourceClaims))
	}
	if len(p.Spec.Containers[0].Resources.Limits) > 0 && p.Annotations[api.AnnotationDevices] == "" {
		t.Fatalf("pod %s was bound without names of its devices", p.Name)
	}
}

// fleet is a cluster with GPUs on its nodes, the controller of claims, and an oracle.
type fleet struct {
	*cluster
	oracle *oracle
	mu     sync.Mutex
	bound  map[string]chan struct{} // closed for pods that are bound or gone; guarded by mu
}

func newFleet(t testing.TB, store datastore.Store, nodes int, machine string, strategy share.Strategy) *fleet {
	t.Helper()
	c := newCluster(t, store)
	rec := must[device.Recording](t)(fakenvml.Load(machine))
	f := &fleet{cluster: c, oracle: &oracle{pools: map[string]gpu.Pool{}}, bound: map[string]chan struct{}{}}
	for i := range nodes {
		name := fmt.Sprintf("n%03d", i)
		c.node(name, "256")
		var list []*resource.ResourceSlice
		for k, spec := range gpu.Of(gpu.Node{Name: name, Machine: rec.Machine, Share: share.Config{MIG: strategy}, Dynamic: strategy == share.Mixed}) {
			o := &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", name, k)}, Spec: spec}
			list = append(list, must[*resource.ResourceSlice](t)(client.Create(t.Context(), c, api.ResourceSlices, o)))
		}
		f.oracle.pools[name] = gpu.Read(list)
	}
	c.class("gpu", gpuClass)
	c.class("mig", strings.ReplaceAll(gpuClass, `"gpu"`, `"mig"`))
	f.oracle.watch(t, c.Client)
	must[struct{}](t)(struct{}{}, c.Subscribe(t.Context(), api.Pods.Facts, f.follow))
	said := must[*events.Recorder](t)(events.New(events.Config{Client: c.Client, Component: "test"}))
	loop := must[*reconcile.Loop](t)(reconcile.New(c.Client, resourceclaim.Specs(resourceclaim.Deps{Client: c.Client, Events: said})...))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = said.Run(ctx) })
	wg.Go(func() { _ = loop.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return f
}

// follow notes which pods are bound.
func (f *fleet) follow(ch client.Change) {
	p, ok := ch.New.(*core.Pod)
	if ch.New == nil && ch.Old != nil {
		p, ok = ch.Old.(*core.Pod)
	}
	if ok && (ch.New == nil || p.Spec.NodeName != "") {
		f.mu.Lock()
		defer f.mu.Unlock()
		if done := f.bound[p.Name]; done != nil {
			close(done)
			delete(f.bound, p.Name)
		}
	}
}

// submit creates a pod that wants n cards by a claim from a template, or plainly.
func (f *fleet) submit(name string, n int, byClaim bool, edit ...func(*core.Pod)) (bound chan struct{}) {
	bound = make(chan struct{})
	f.mu.Lock()
	f.bound[name] = bound
	f.mu.Unlock()
	how := limit("nvidia.com/gpu", fmt.Sprint(n))
	if byClaim {
		how = template(fmt.Sprintf("gpu-%d", n))
	}
	f.pod(name, "1", append([]func(*core.Pod){how, now}, edit...)...)
	return bound
}

func now(p *core.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(0)) }

func template(name string) func(*core.Pod) {
	return func(p *core.Pod) {
		p.Spec.ResourceClaims = []core.PodResourceClaim{{Name: "r", ResourceClaimTemplateName: &name}}
	}
}

// template creates a template of claims for n devices.
func (f *fleet) template(name, class string, n int64, selectors ...string) {
	f.Helper()
	want := resource.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resource.DeviceAllocationModeExactCount, Count: n}
	for _, s := range selectors {
		want.Selectors = append(want.Selectors, resource.DeviceSelector{CEL: &resource.CELDeviceSelector{Expression: s}})
	}
	must[*resource.ResourceClaimTemplate](f)(client.Create(context.Background(), f, api.ResourceClaimTemplates, &resource.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       resource.ResourceClaimTemplateSpec{Spec: resource.ResourceClaimSpec{Devices: resource.DeviceClaim{Requests: []resource.DeviceRequest{{Name: "r", Exactly: &want}}}}}}))
}

func (f *fleet) end(name string) {
	err := client.Delete(context.Background(), f, api.Pods, "default", name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	if err != nil && !errors.IsNotFound(err) {
		f.Error(err)
	}
}

// churn lets workers submit pods, each as soon as its last one is bound, until there were
// n; a worker keeps few running and ends the oldest.
func (f *fleet) churn(n, workers, keep int) {
	for _, k := range []int64{1, 2, 4} {
		f.template(fmt.Sprintf("gpu-%d", k), "gpu", k)
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			var running []string
			for i := w; i < n; i += workers {
				name := fmt.Sprintf("p-%d", i)
				select {
				case <-f.submit(name, []int{1, 1, 2, 4}[i%4], i/4%2 == 0):
				case <-time.After(time.Minute):
					f.Errorf("pod %s is not bound", name)
					return
				}
				if running = append(running, name); len(running) > keep {
					f.end(running[0])
					running = running[1:]
				}
			}
			for _, name := range running {
				f.end(name)
			}
		})
	}
	wg.Wait()
}

// BenchmarkAllocate: pods that are bound with their cards a second, half by claims from
// templates and half by plain limits, on 128 simulated nodes of eight cards that are
// half full, through the API, the scheduler and the controller of claims.
func BenchmarkAllocate(b *testing.B) {
	f := newFleet(b, memory.New(), 128, "h200-8", share.None)
	b.ResetTimer()
	f.churn(b.N, 64, 3)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "allocated/s")
	f.oracle.verify(b)
}

func TestFleet(t *testing.T) {
	f := newFleet(t, memory.New(), 4, "h200-8", share.None)
	f.churn(300, 4, 2)
	f.oracle.verify(t)
}

// TestPreemptionTakesDevicesOfClaims: whoever is more important gets the card, whichever way
// the other one has it.
func TestPreemptionTakesDevicesOfClaims(t *testing.T) {
	for _, byClaim := range []bool{true, false} {
		t.Run(fmt.Sprint(byClaim), func(t *testing.T) {
			f := newFleet(t, memory.New(), 1, "h200", share.None)
			f.template("gpu-1", "gpu", 1)
			priority := func(v int32) func(*core.Pod) { return func(p *core.Pod) { p.Spec.Priority = &v } }
			f.submit("low", 1, byClaim, priority(1))
			f.until("low", "bound", bound)
			f.submit("high", 1, !byClaim, priority(100))
			f.until("high", "bound in the place of low", bound)
			if f.Lookup(api.Pods.Facts, "default", "low") != nil {
				t.Error("the victim is still there")
			}
			f.oracle.verify(t)
		})
	}
}
