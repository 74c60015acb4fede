package claims

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
	"orch/agent/host"
)

// driver notes what it is asked, and refuses when told so.
type driver struct {
	mu     sync.Mutex
	log    []string
	refuse error
	wait   chan struct{} // Unprepare waits for it
}

func (d *driver) note(format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, fmt.Sprintf(format, args...))
	return d.refuse
}

func (d *driver) asked() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := strings.Join(d.log, "; ")
	d.log = nil
	return out
}

func (d *driver) Prepare(_ context.Context, c *resource.ResourceClaim, known devices.ClaimDriver) (devices.ClaimDriver, error) {
	for i := range known.Devices {
		known.Devices[i].CDI = []string{"d.io/x=" + known.Devices[i].Device}
	}
	return known, d.note("prepare %s", c.Name)
}

func (d *driver) Unprepare(_ context.Context, c devices.Claim, _ devices.ClaimDriver) error {
	if d.wait != nil {
		<-d.wait
	}
	return d.note("unprepare %s", c.Name)
}

func (d *driver) ClaimHealth(devices.ClaimDevice) (core.ResourceHealthStatus, string) {
	return core.ResourceHealthStatusHealthy, "fine"
}

// rig is the claims of a node, and a server with some.
type rig struct {
	*Claims
	t      *testing.T
	path   string
	driver *driver
	boot   string
	ready  chan struct{}
	server map[string]*resource.ResourceClaim
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "ledger"), driver: &driver{}, boot: "boot", ready: make(chan struct{}), server: map[string]*resource.ResourceClaim{}}
	close(r.ready)
	r.restart()
	return r
}

func (r *rig) restart() {
	r.t.Helper()
	log := slog.New(slog.DiscardHandler)
	m, err := devices.New(devices.Config{Path: r.path, Log: log})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Claims, err = New(Config{Ledger: m, Ready: r.ready, Boot: r.boot, Log: log,
		Get: func(_ context.Context, _, name string) (*resource.ResourceClaim, error) {
			if c := r.server[name]; c != nil {
				return c, nil
			}
			return nil, errors.New("not found")
		},
		Driver: func(name string) (Driver, bool) { return r.driver, name == "d.io" && r.driver != nil }})
	if err != nil {
		r.t.Fatal(err)
	}
}

// claim is one in the server that has a device for each of its requests, and is reserved for pods.
func (r *rig) claim(name string, requests []string, pods ...string) *resource.ResourceClaim {
	c := &resource.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
	c.Status.Allocation = &resource.AllocationResult{}
	for i, q := range requests {
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, resource.DeviceRequestAllocationResult{Request: q, Driver: "d.io", Pool: "n1", Device: fmt.Sprintf("%s-%d", name, i)})
	}
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resource.ResourceClaimConsumerReference{Resource: "pods", Name: p, UID: types.UID(p)})
	}
	r.server[name] = c
	return c
}

// pod refers to claims as r0, r1, ...; each container lists what it may use as "r0" or "r0/request".
func pod(name string, claims []string, containers ...string) *core.Pod {
	p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	for i, c := range claims {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, core.PodResourceClaim{Name: fmt.Sprint("r", i), ResourceClaimName: &c})
	}
	for i, list := range containers {
		c := core.Container{Name: fmt.Sprint("c", i)}
		for _, l := range strings.Fields(list) {
			claim, request, _ := strings.Cut(l, "/")
			c.Resources.Claims = append(c.Resources.Claims, core.ResourceClaim{Name: claim, Request: request})
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

func (r *rig) edits(p *core.Pod) (out []string) {
	r.t.Helper()
	for i := range p.Spec.Containers {
		e, err := r.Edits(r.t.Context(), host.DeviceHolder{Pod: p, Container: &p.Spec.Containers[i]})
		if err != nil {
			r.t.Error(err)
		}
		out = append(out, strings.Join(e.CDI, "+"))
	}
	return out
}

func (r *rig) must(err error, asked string) {
	r.t.Helper()
	if got := r.driver.asked(); err != nil || got != asked {
		r.t.Fatalf("%v, the driver was asked %q, want %q", err, got, asked)
	}
}

// TestContainersGetWhatTheyList: by claim, and by request of it.
func TestContainersGetWhatTheyList(t *testing.T) {
	r := newRig(t)
	r.claim("a", []string{"x", "y/sub"}, "p")
	r.claim("b", []string{"x"}, "p")
	p := pod("p", []string{"a", "b"}, "r0", "r0/y r1", "", "r1/z")
	if err := r.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got, want := r.edits(p), []string{"d.io/x=a-0+d.io/x=a-1", "d.io/x=a-1+d.io/x=b-0", "", ""}; !reflect.DeepEqual(got, want) {
		t.Errorf("containers get %q, want %q", got, want)
	}
	s := r.Status("p")
	if len(s["c0"]) != 1 || s["c0"][0].Name != "claim:r0" || len(s["c0"][0].Resources) != 2 || len(s["c1"]) != 2 || s["c1"][0].Name != "claim:r0/y" ||
		s["c1"][0].Resources[0].ResourceID != "d.io/x=a-1" || s["c1"][0].Resources[0].Health != core.ResourceHealthStatusHealthy || *s["c1"][0].Resources[0].Message != "fine" || s["c2"] != nil {
		t.Errorf("the status is %+v", s)
	}
	extended := pod("q", nil, "", "")
	extended.Status.ExtendedResourceClaimStatus = &core.PodExtendedResourceClaimStatus{ResourceClaimName: "e",
		RequestMappings: []core.ContainerExtendedResourceRequest{{ContainerName: "c1", ResourceName: "d.io/x", RequestName: "container-1-request-0"}}}
	r.claim("e", []string{"container-1-request-0"}, "q")
	if err := r.Prepare(t.Context(), extended); err != nil {
		t.Fatal(err)
	}
	if got := r.edits(extended); !reflect.DeepEqual(got, []string{"", "d.io/x=e-0"}) || r.Status("q") != nil {
		t.Errorf("extended resources give %q", got)
	}
}

// TestWhyAPodWaits: sentences are upstream's, and nothing was taken.
func TestWhyAPodWaits(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(r *rig, p *core.Pod)
		want string
	}{
		{"it is not there", func(r *rig, _ *core.Pod) { delete(r.server, "a") }, "prepare dynamic resources: fetch ResourceClaim a: not found"},
		{"it is for others", func(r *rig, _ *core.Pod) { r.claim("a", []string{"x"}, "other") }, "prepare dynamic resources: pod p (p) is not allowed to use ResourceClaim a (uid-a)"},
		{"it has no devices", func(r *rig, _ *core.Pod) { r.server["a"].Status.Allocation = nil }, "prepare dynamic resources: ResourceClaim a: not allocated"},
		{"its driver is not here", func(r *rig, _ *core.Pod) { r.server["a"].Status.Allocation.Devices.Results[0].Driver = "e.io" }, "prepare dynamic resources: DRA driver e.io is not registered"},
		{"it is not made yet", func(_ *rig, p *core.Pod) {
			p.Spec.ResourceClaims[0] = core.PodResourceClaim{Name: "r0", ResourceClaimTemplateName: new("t")}
		}, `pod "ns/p": ResourceClaim not created yet`},
		{"it was made for another", func(_ *rig, p *core.Pod) {
			p.Spec.ResourceClaims[0] = core.PodResourceClaim{Name: "r0", ResourceClaimTemplateName: new("t")}
			p.Status.ResourceClaimStatuses = []core.PodResourceClaimStatus{{Name: "r0", ResourceClaimName: new("a")}}
		}, "prepare dynamic resources: ResourceClaim ns/a was not created for Pod ns/p (Pod is not owner)"},
	} {
		r := newRig(t)
		r.claim("a", []string{"x"}, "p")
		r.claim("b", []string{"x"}, "p")
		p := pod("p", []string{"a", "b"}, "r0")
		tc.do(r, p)
		if err := r.Prepare(t.Context(), p); err == nil || err.Error() != tc.want {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
		}
		if got := r.driver.asked(); got != "" || len(r.config.Ledger.Claims()) > 0 {
			t.Errorf("%s: the driver was asked %q", tc.name, got)
		}
	}
	r := newRig(t)
	r.claim("a", []string{"x"}, "p")
	r.driver.refuse = errors.New("no")
	p := pod("p", []string{"a"}, "r0")
	if err := r.Prepare(t.Context(), p); err == nil || err.Error() != "prepare dynamic resources: NodePrepareResources failed for ResourceClaim a: no" {
		t.Error(err)
	}
	r.driver.asked()
	r.driver.refuse = nil
	r.must(r.Prepare(t.Context(), p), "prepare a")
	none := pod("z", nil)
	none.Spec.ResourceClaims = []core.PodResourceClaim{{Name: "r0", ResourceClaimTemplateName: new("t")}}
	none.Status.ResourceClaimStatuses = []core.PodResourceClaimStatus{{Name: "r0"}} // decided not to be made
	r.must(r.Prepare(t.Context(), none), "")
}

// TestLifeOfAClaim: prepared once for all its pods, over restarts of orch but not of the machine, and let go after the last.
func TestLifeOfAClaim(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.claim("a", []string{"x"}, "p", "q")
	p, q := pod("p", []string{"a"}, "r0"), pod("q", []string{"a"}, "r0")
	r.must(r.Prepare(ctx, p), "prepare a")
	r.must(r.Prepare(ctx, p), "")
	r.must(r.Prepare(ctx, q), "")
	r.restart()
	r.server = nil // the server is away
	r.must(r.Prepare(ctx, p), "")
	if got := r.edits(q); !reflect.DeepEqual(got, []string{"d.io/x=a-0"}) {
		t.Errorf("after a restart %q", got)
	}
	r.server = map[string]*resource.ResourceClaim{}
	r.claim("a", []string{"x"}, "p", "q")
	r.boot = "another"
	r.restart()
	r.must(r.Prepare(ctx, p), "prepare a")
	r.must(r.Release(ctx, "p"), "")
	r.must(r.Release(ctx, "p"), "")
	r.driver.refuse = errors.New("busy")
	if err := r.Release(ctx, "q"); err == nil || err.Error() != "unprepare dynamic resources: NodeUnprepareResources failed for ResourceClaim a: busy" || len(r.config.Ledger.Claims()) != 1 {
		t.Errorf("%v, held %v", err, r.config.Ledger.Claims())
	}
	r.restart() // whose pod it was is known after that
	if err := r.Release(ctx, "q"); err == nil {
		t.Error("the pod is off its claims, and the driver has not let go")
	}
	r.must(r.Release(ctx, "p"), "unprepare a; unprepare a")
	r.driver.refuse = nil
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(running) }()
	for end := time.Now().Add(time.Minute); len(r.config.Ledger.Claims()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what failed was not tried again")
		}
	}
	stop()
	r.must(<-done, "unprepare a")
}

// TestClaimsWaitForTheMachine: while it is not known what devices there are, a claim does not fail.
func TestClaimsWaitForTheMachine(t *testing.T) {
	r := newRig(t)
	r.ready = make(chan struct{})
	r.restart()
	r.claim("a", []string{"x"}, "p")
	done := make(chan error, 1)
	go func() { done <- r.Prepare(t.Context(), pod("p", []string{"a"}, "r0")) }()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(r.ready)
	r.must(<-done, "prepare a")
}

// TestPodsThatAreGone: after a restart their claims are let go.
func TestPodsThatAreGone(t *testing.T) {
	r := newRig(t)
	r.claim("a", []string{"x"}, "p")
	r.claim("b", []string{"x"}, "q")
	for _, n := range []string{"p", "q"} {
		if err := r.Prepare(t.Context(), pod(n, []string{map[string]string{"p": "a", "q": "b"}[n]}, "r0")); err != nil {
			t.Fatal(err)
		}
	}
	r.restart()
	r.driver.asked()
	if err := r.Keep(map[types.UID]bool{"q": true}); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(running) }()
	for end := time.Now().Add(time.Minute); len(r.config.Ledger.Claims()) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the claim of a pod that is gone is held")
		}
	}
	stop()
	r.must(<-done, "unprepare a")
}

// TestAPodThatComesWhileADriverLetsGo waits for it, and has the claim prepared anew.
func TestAPodThatComesWhileADriverLetsGo(t *testing.T) {
	r := newRig(t)
	r.claim("a", []string{"x"}, "p", "q")
	r.must(r.Prepare(t.Context(), pod("p", []string{"a"}, "r0")), "prepare a")
	r.driver.wait = make(chan struct{})
	left, came := make(chan error, 1), make(chan error, 1)
	go func() { left <- r.Release(t.Context(), "p") }()
	for len(r.config.Ledger.ClaimsOf("p")) > 0 {
		time.Sleep(time.Millisecond)
	}
	go func() { came <- r.Prepare(t.Context(), pod("q", []string{"a"}, "r0")) }()
	time.Sleep(10 * time.Millisecond)
	close(r.driver.wait)
	if err := errors.Join(<-left, <-came); err != nil {
		t.Fatal(err)
	}
	// Who came first had it: either the driver kept the claim for the new pod, or it made it ready again.
	if got := r.driver.asked(); !slices.Contains([]string{"unprepare a; prepare a", ""}, got) || len(r.config.Ledger.ClaimsOf("q")) != 1 {
		t.Errorf("the driver was asked %q", got)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.at) > 0 {
		t.Errorf("%d claims are being worked at", len(r.at))
	}
}

// TestClaimOfTheSameNameWaitsForTheOldOne: a driver may know claims by their names.
func TestClaimOfTheSameNameWaitsForTheOldOne(t *testing.T) {
	r := newRig(t)
	r.claim("a", []string{"x"}, "p")
	r.must(r.Prepare(t.Context(), pod("p", []string{"a"}, "r0")), "prepare a")
	r.claim("a", []string{"x"}, "q").UID = "another"
	const want = "prepare dynamic resources: old ResourceClaim with same name a and different UID uid-a still exists (previous pod force-deleted?!)"
	if err := r.Prepare(t.Context(), pod("q", []string{"a"}, "r0")); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	r.must(r.Release(t.Context(), "p"), "unprepare a")
	r.must(r.Prepare(t.Context(), pod("q", []string{"a"}, "r0")), "prepare a")
}
