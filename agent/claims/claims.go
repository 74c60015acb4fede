// Package claims makes the ResourceClaims of this node's pods usable: it finds a pod's claims,
// checks that the pod may use them, takes their devices in the ledger (agent/devices), has the
// drivers prepare them before a container starts, and has them let go when the last pod has ended.
// What it must remember is in the ledger, so it outlives orch. It refuses to choose devices: the
// scheduler has done that, in the claim's status. What a driver is, it does not know.
//
// Start reading at Driver, then Claims.Prepare and Claims.Release.
package claims

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/agent/devices"
	"orch/agent/host"
)

// Driver makes devices of claims ready on this node: the GPUs inside orch, or somebody's
// plugin. Its methods may be called from many goroutines, for one claim one after the other.
type Driver interface {
	// Prepare makes the claim's devices ready that were allocated from this driver, and says
	// what there is to know of each. Asked again it says the same. It may take long. known is
	// what the ledger has: what Resolve said, and an earlier State.
	Prepare(ctx context.Context, claim *resource.ResourceClaim, known devices.ClaimDriver) (devices.ClaimDriver, error)
	// Unprepare undoes it; a claim that is not prepared is no error.
	Unprepare(ctx context.Context, claim devices.Claim, known devices.ClaimDriver) error
}

// Resolver is a Driver that keeps account of its devices in the ledger: it says before
// Prepare which parts they are.
type Resolver interface {
	Resolve(claim *resource.ResourceClaim, list []devices.ClaimDevice) ([]devices.ClaimDevice, error)
}

// Editor is a Driver that says what a container gets; that of others are the names for
// container engines (ClaimDevice.CDI).
type Editor interface {
	ClaimEdits(ctx context.Context, c host.DeviceHolder, claim devices.Claim, list []devices.ClaimDevice, state []byte) (host.DeviceEdits, error)
}

// Nurse is a Driver that knows how its devices are.
type Nurse interface {
	ClaimHealth(d devices.ClaimDevice) (core.ResourceHealthStatus, string)
}

// Ledger is who remembers (devices.Manager).
type Ledger interface {
	HoldClaim(c devices.Claim, anew bool) (devices.Claim, error)
	ClaimPrepared(claim types.UID, driver string, d devices.ClaimDriver) error
	Claims() map[types.UID]devices.Claim
	ClaimsOf(pod types.UID) []devices.Claim
	LeaveClaims(gone func(pod types.UID) bool) ([]devices.Claim, error)
	ForgetClaim(claim types.UID) error
}

// Config of Claims.
type Config struct {
	Ledger Ledger
	// Get reads a claim from the server.
	Get func(ctx context.Context, namespace, name string) (*resource.ResourceClaim, error)
	// Say replaces in a claim's status what one driver says of its devices; nil: nothing is said.
	Say func(ctx context.Context, w Words) error
	// Driver finds a driver by its name; ok is false where it is not on this node now.
	Driver func(name string) (d Driver, ok bool)
	// Ready is closed once it is known what devices the node has: claims wait for it, rather than
	// fail because orch has just been started.
	Ready <-chan struct{}
	// Boot names this run of the machine: what was prepared in another is not any more.
	Boot string
	Log  *slog.Logger
}

// Claims is the owner of what pods of this node have of their claims.
type Claims struct {
	config Config
	// wake has something in it when claims may be left that nobody uses.
	wake  chan struct{}
	voice *voice

	mu sync.Mutex // guards at
	// at has a token for each claim that is worked at, by UID, and how many wait for it.
	at map[types.UID]*turn
}

type turn struct {
	token chan struct{}
	users int
}

// New checks the config.
func New(c Config) (*Claims, error) {
	if c.Ledger == nil || c.Get == nil || c.Driver == nil || c.Ready == nil || c.Boot == "" || c.Log == nil {
		return nil, errors.New("making the claims of a node: a dependency is missing")
	}
	return &Claims{config: c, wake: make(chan struct{}, 1), voice: newVoice(c.Say), at: map[types.UID]*turn{}}, nil
}

// alone waits until nobody else works at the claim.
func (c *Claims) alone(ctx context.Context, uid types.UID) (done func(), err error) {
	c.mu.Lock()
	t := c.at[uid]
	if t == nil {
		t = &turn{token: make(chan struct{}, 1)}
		c.at[uid] = t
	}
	t.users++
	c.mu.Unlock()
	leave := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(c.at, uid)
		}
	}
	select {
	case t.token <- struct{}{}:
		return func() { <-t.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// use is a claim that a pod refers to.
type use struct {
	claim *resource.ResourceClaim
	pod   devices.ClaimPod
}

// Prepare makes all claims of a pod usable. Asked again it does what is missing. The error
// reads as upstream's FailedPrepareDynamicResources.
func (c *Claims) Prepare(ctx context.Context, pod *core.Pod) error {
	refs, err := references(pod)
	if err != nil || len(refs) == 0 || c.prepared(pod.UID, refs) {
		return err
	}
	select {
	case <-c.config.Ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	// All is looked at before anything is taken: a pod that fails can go without the drivers.
	uses := make([]use, 0, len(refs))
	for _, r := range refs {
		u, err := c.look(ctx, pod, r)
		if err != nil {
			return fmt.Errorf("prepare dynamic resources: %w", err)
		}
		uses = append(uses, u)
	}
	for _, u := range uses {
		if err := c.prepare(ctx, pod.UID, u); err != nil {
			return fmt.Errorf("prepare dynamic resources: %w", err)
		}
	}
	return nil
}

// prepared tells that the ledger has all of them ready: the server need not be asked, which
// may be away while the node starts.
func (c *Claims) prepared(pod types.UID, refs []reference) bool {
	held := c.config.Ledger.ClaimsOf(pod)
	for _, r := range refs {
		i := slices.IndexFunc(held, func(h devices.Claim) bool { return h.Name == r.claim })
		if i < 0 {
			return false
		}
		for _, d := range held[i].Drivers {
			if d.Prepared != c.config.Boot {
				return false
			}
		}
	}
	return true
}

// look reads a claim and checks that the pod may use it.
func (c *Claims) look(ctx context.Context, pod *core.Pod, r reference) (use, error) {
	claim, err := c.config.Get(ctx, pod.Namespace, r.claim)
	if err != nil {
		return use{}, fmt.Errorf("fetch ResourceClaim %s: %w", r.claim, err)
	}
	if r.owned {
		if err := resourceclaim.IsForPod(pod, claim, true); err != nil {
			return use{}, err
		}
	}
	switch {
	case !resourceclaim.IsReservedForPod(pod, claim, true):
		return use{}, fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", pod.Name, pod.UID, claim.Name, claim.UID)
	case claim.Status.Allocation == nil:
		return use{}, fmt.Errorf("ResourceClaim %s: not allocated", claim.Name)
	}
	for uid, held := range c.config.Ledger.Claims() { // drivers may know claims by their names
		if held.Namespace == claim.Namespace && held.Name == claim.Name && uid != claim.UID {
			return use{}, fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", claim.Name, uid)
		}
	}
	for name := range allocated(claim) {
		if _, ok := c.config.Driver(name); !ok {
			return use{}, fmt.Errorf("DRA driver %s is not registered", name)
		}
	}
	return use{claim, devices.ClaimPod{Name: pod.Name, Containers: r.containers}}, nil
}

// allocated are the devices of a claim by driver, but those whose driver wants nothing done on the node.
func allocated(claim *resource.ResourceClaim) map[string][]devices.ClaimDevice {
	out := map[string][]devices.ClaimDevice{}
	for _, r := range claim.Status.Allocation.Devices.Results {
		if slices.Contains(r.SkipNodeOperations, resource.SkipNodeOperationAll) || slices.Contains(r.SkipNodeOperations, resource.SkipNodeOperationNodePrepareResources) {
			continue
		}
		d := devices.ClaimDevice{Requests: []string{r.Request}, Pool: r.Pool, Device: r.Device, Admin: r.AdminAccess != nil && *r.AdminAccess}
		if r.ShareID != nil {
			d.ShareID = string(*r.ShareID)
		}
		out[r.Driver] = append(out[r.Driver], d)
	}
	return out
}

// prepare takes a claim for a pod and has its drivers make it ready; which way it went is
// said in the claim. What others use already stays ready.
func (c *Claims) prepare(ctx context.Context, pod types.UID, u use) error {
	done, err := c.alone(ctx, u.claim.UID)
	if err != nil {
		return err
	}
	defer done()
	anew := true
	for _, d := range c.config.Ledger.Claims()[u.claim.UID].Drivers {
		anew = anew && d.Prepared != c.config.Boot
	}
	err = c.take(ctx, pod, u, anew)
	switch {
	case err == nil:
		c.tellReady(c.config.Ledger.Claims()[u.claim.UID])
	case anew && ctx.Err() == nil:
		c.tellFailed(pod, u, err)
	}
	return err
}

// take holds a claim in the ledger and has its drivers make it ready. anew: no driver has in
// this boot, so its devices may be known by other names now.
func (c *Claims) take(ctx context.Context, pod types.UID, u use, anew bool) (err error) {
	held := devices.Claim{UID: u.claim.UID, Namespace: u.claim.Namespace, Name: u.claim.Name,
		Pods: map[types.UID]devices.ClaimPod{pod: u.pod}, Drivers: map[string]devices.ClaimDriver{}}
	for name, list := range allocated(u.claim) {
		driver, ok := c.config.Driver(name)
		if !ok {
			return fmt.Errorf("DRA driver %s is not registered", name)
		}
		if r, ok := driver.(Resolver); ok {
			if list, err = r.Resolve(u.claim, list); err != nil {
				return fmt.Errorf("ResourceClaim %s: %w", u.claim.Name, err)
			}
		}
		held.Drivers[name] = devices.ClaimDriver{Devices: list}
	}
	if held, err = c.config.Ledger.HoldClaim(held, anew); err != nil {
		return fmt.Errorf("ResourceClaim %s: %w", u.claim.Name, err)
	}
	for name, known := range held.Drivers {
		driver, ok := c.config.Driver(name)
		if known.Prepared == c.config.Boot {
			continue
		}
		if !ok {
			return fmt.Errorf("DRA driver %s is not registered", name)
		}
		ready, err := driver.Prepare(ctx, u.claim, known)
		if err != nil {
			return fmt.Errorf("NodePrepareResources failed for ResourceClaim %s: %w", u.claim.Name, err)
		}
		ready.Prepared = c.config.Boot
		if err := c.config.Ledger.ClaimPrepared(u.claim.UID, name, ready); err != nil {
			return fmt.Errorf("ResourceClaim %s: %w", u.claim.Name, err)
		}
	}
	return nil
}

// Release takes a pod off its claims. It fails until the drivers of those that nobody else uses
// have let go, which is also tried by itself: before, the pod must not be reported as ended, or
// its devices would be given to others who find them in use.
func (c *Claims) Release(ctx context.Context, pod types.UID) error {
	c.voice.giveUp(func(uid types.UID) bool { return uid == pod })
	if !c.concerned(pod) {
		return nil
	}
	left, err := c.config.Ledger.LeaveClaims(func(uid types.UID) bool { return uid == pod })
	if err == nil {
		err = c.letGo(ctx, slices.DeleteFunc(left, func(d devices.Claim) bool { return d.Last != pod }))
	}
	if err != nil {
		c.poke()
		return fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	return nil
}

// concerned tells that the pod uses a claim, or was the last to use one that is held still.
func (c *Claims) concerned(pod types.UID) bool {
	for _, d := range c.config.Ledger.Claims() {
		if _, uses := d.Pods[pod]; uses || len(d.Pods) == 0 && d.Last == pod {
			return true
		}
	}
	return false
}

// Keep takes pods off their claims that are not live. The drivers let go in the background.
func (c *Claims) Keep(live map[types.UID]bool) error {
	c.voice.giveUp(func(uid types.UID) bool { return !live[uid] })
	_, err := c.config.Ledger.LeaveClaims(func(uid types.UID) bool { return !live[uid] })
	c.poke()
	return err
}

// letGo has the drivers let go of claims without pods.
func (c *Claims) letGo(ctx context.Context, left []devices.Claim) error {
	var errs []error
	for _, claim := range left {
		errs = append(errs, c.unprepare(ctx, claim.UID))
	}
	return errors.Join(errs...)
}

func (c *Claims) unprepare(ctx context.Context, uid types.UID) error {
	done, err := c.alone(ctx, uid)
	if err != nil {
		return err
	}
	defer done()
	claim, ok := c.config.Ledger.Claims()[uid] // a pod may have come while we waited
	if !ok || len(claim.Pods) > 0 {
		return nil
	}
	for name, known := range claim.Drivers {
		driver, ok := c.config.Driver(name)
		if !ok {
			return fmt.Errorf("DRA driver %s is not registered", name)
		}
		if err := driver.Unprepare(ctx, claim, known); err != nil {
			return fmt.Errorf("NodeUnprepareResources failed for ResourceClaim %s: %w", claim.Name, err)
		}
		if _, ok := driver.(Speaker); ok {
			if err := c.voice.takeBack(ctx, Words{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, Driver: name}); err != nil {
				c.config.Log.Debug("what was said of a claim's devices stays until its allocation goes", "claim", claim.Name, "err", err)
			}
		}
	}
	return c.config.Ledger.ForgetClaim(uid)
}

func (c *Claims) poke() {
	select {
	case c.wake <- struct{}{}:
	default: // it has not looked yet
	}
}

// Retry times of letting go.
const (
	firstRetry = time.Second
	maxRetry   = time.Minute
)

// Run lets go of claims that nobody uses and whose drivers did not let go at once, and says in the
// claims how their devices are, until ctx ends.
func (c *Claims) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.runVoice(ctx) })
	retry := firstRetry
	for {
		var again <-chan time.Time
		left, err := c.config.Ledger.LeaveClaims(func(types.UID) bool { return false })
		if err == nil {
			err = c.letGo(ctx, left)
		}
		if err != nil && ctx.Err() == nil {
			c.config.Log.Warn("giving claims back failed, it is tried again", "err", err)
			again, retry = time.After(retry), min(2*retry, maxRetry)
		} else {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-again:
		}
	}
}

// Edits are what a container gets of the claims that it lists.
func (c *Claims) Edits(ctx context.Context, holder host.DeviceHolder) (host.DeviceEdits, error) {
	var out host.DeviceEdits
	for _, claim := range c.config.Ledger.ClaimsOf(holder.Pod.UID) {
		requests := claim.Pods[holder.Pod.UID].Containers[holder.Container.Name]
		for name, known := range claim.Drivers {
			list := slices.DeleteFunc(slices.Clone(known.Devices), func(d devices.ClaimDevice) bool {
				return !slices.ContainsFunc(requests, func(r devices.ClaimRequest) bool { return d.For(r.Request) })
			})
			if len(list) == 0 {
				continue
			}
			e, err := c.edits(ctx, holder, claim, name, devices.ClaimDriver{Devices: list, State: known.State})
			if err != nil {
				return out, fmt.Errorf("ResourceClaim %s: %w", claim.Name, err)
			}
			out.Add(e)
		}
	}
	return out, nil
}

func (c *Claims) edits(ctx context.Context, holder host.DeviceHolder, claim devices.Claim, name string, d devices.ClaimDriver) (host.DeviceEdits, error) {
	driver, ok := c.config.Driver(name)
	if editor, is := driver.(Editor); ok && is {
		return editor.ClaimEdits(ctx, holder, claim, d.Devices, d.State)
	}
	var out host.DeviceEdits // a plugin that is away has said all that is needed
	for _, one := range d.Devices {
		for _, id := range one.CDI {
			if !slices.Contains(out.CDI, id) {
				out.CDI = append(out.CDI, id)
			}
		}
	}
	return out, nil
}
