package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"

	"orch/api"
)

// maxSearch bounds the search for devices of one attempt: a claim can ask for what only an
// exhaustive search finds. Upstream's bound, there for each node.
const maxSearch = 10 * time.Second

// ErrUnderWay says that a claim is being allocated for another pod.
var ErrUnderWay = errors.New("in the process of being allocated")

// maxAnswers bounds the answers that a node keeps.
const maxAnswers = 32

// features are those that upstream's 1.37 has on unless it is told otherwise.
var features = structured.Features{
	AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true,
	ConsumableCapacity: true, FractionalCapacityRange: true, DeviceBindingAndStatus: true,
}

// Attempt is what a pod asks for through claims, looked up for one try to place it.
type Attempt struct {
	s        *State
	pod      *core.Pod
	claims   []*claim
	missing  []*resource.ResourceClaim // those of claims without an allocation
	wish     string
	extended *extended // nil: nothing is asked for through a class's resource name
	// began is when the attempt did, deadline when the search ends.
	began, deadline time.Time
}

// Attempt looks up what p asks for; nil if that is nothing. The error says why no node
// will do now. scalars are the sums of what the pod requests.
func (s *State) Attempt(p *core.Pod, scalars map[core.ResourceName]int64) (*Attempt, error) {
	a := &Attempt{s: s, pod: p, extended: s.extendedOf(p, scalars)}
	if len(p.Spec.ResourceClaims) == 0 && a.extended == nil {
		return nil, nil
	}
	var err error
	if a.claims, err = s.claimsOf(p); err != nil {
		return nil, err
	}
	if len(a.claims) == 0 && a.extended == nil {
		return nil, nil
	}
	if c := s.leftovers[p.UID]; c != nil && a.extended != nil {
		return nil, &Leftover{c.ResourceClaim}
	}
	whole := true
	var wish strings.Builder
	for _, c := range a.claims {
		if c.Status.Allocation != nil {
			if len(c.Status.ReservedFor) >= resource.ResourceClaimReservedForMaxSize && !resourceclaim.IsReservedForPod(p, c.ResourceClaim, false) {
				return nil, errors.New("resourceclaim in use")
			}
			continue
		}
		if c.pending != nil {
			return nil, fmt.Errorf("resource claim %s/%s is %w", c.Namespace, c.Name, ErrUnderWay)
		}
		if err := s.known(c.ResourceClaim); err != nil {
			return nil, err
		}
		a.missing = append(a.missing, c.ResourceClaim)
		whole = whole && c.wish != ""
		wish.WriteString(c.wish)
	}
	if whole {
		a.wish = wish.String()
	}
	a.began = time.Now()
	a.deadline = a.began.Add(cmp.Or(s.MaxSearch, maxSearch))
	return a, nil
}

// Unavailable are claims that have an allocation which cannot be used on a node.
type Unavailable []*resource.ResourceClaim

// Node is a node as an attempt looks at it.
type Node struct {
	*core.Node
	// Allocatable of a resource, 0 for one that the node does not offer.
	Allocatable func(core.ResourceName) int64
}

// Fits says why the pod's claims cannot be had on the node, "" if they can. The error is
// one of the claim or of a class, which no other node would mend.
func (a *Attempt) Fits(n Node) (string, Unavailable, error) {
	var away Unavailable
	for _, c := range a.claims {
		if c.Status.Allocation == nil {
			continue
		}
		_, _, err := Ready(c.ResourceClaim, a.began) // devices that will not be ready are no good anywhere
		if err != nil || c.where != nil && !c.where.Match(n.Node) {
			away = append(away, c.ResourceClaim)
		}
	}
	if len(away) > 0 {
		return "resourceclaim not available on the node", away, nil
	}
	claims, wish, why := a.asked(n)
	if why != "" || len(claims) == 0 {
		return why, nil, nil
	}
	got, err := a.answer(n.Node, claims, wish)
	return got.why, nil, err
}

// asked are the claims to be allocated if the pod runs on the node, the one for extended
// resources last.
func (a *Attempt) asked(n Node) ([]*resource.ResourceClaim, string, string) {
	if a.extended == nil {
		return a.missing, a.wish, ""
	}
	claim, _, why := a.extended.on(n)
	if claim == nil {
		return a.missing, a.wish, why
	}
	wish := wishOf(&claim.Spec)
	if wish != "" && (a.wish != "" || len(a.missing) == 0) {
		wish = a.wish + wish
	} else {
		wish = ""
	}
	return append(a.missing[:len(a.missing):len(a.missing)], claim), wish, ""
}

// answer is what a node answers to a wish: what each claim would get, or why not.
type answer struct {
	at      uint64
	results []resource.AllocationResult
	why     string
}

// answer asks the allocator, unless the node has answered the same since it changed: of a
// large fleet only few nodes change from one pod to the next.
func (a *Attempt) answer(on *core.Node, claims []*resource.ResourceClaim, wish string) (answer, error) {
	s := a.s
	n := s.node(on.Name)
	if got, ok := n.answers[wish]; ok && wish != "" && got.at >= max(n.changed, s.everywhere) {
		return got, nil
	}
	got := answer{at: s.clock}
	var err error
	if got.results, err = a.allocate(on, claims); err != nil {
		if !errors.Is(err, structured.ErrFailedAllocationOnNode) {
			return answer{}, err
		}
		got.why = err.Error()
	} else if len(got.results) != len(claims) || len(s.look(n).unnamed) > 0 && fromBuiltin(got.results) {
		got.results, got.why = nil, "cannot allocate all claims"
	}
	if len(n.answers) >= maxAnswers {
		clear(n.answers)
	}
	if wish != "" {
		n.answers[wish] = got
	}
	return got, nil
}

// fromBuiltin tells whether any device is one that plain limits may hold.
func fromBuiltin(results []resource.AllocationResult) bool {
	for _, r := range results {
		for _, d := range r.Devices.Results {
			if d.Driver == api.GPUDriver {
				return true
			}
		}
	}
	return false
}

func (a *Attempt) allocate(on *core.Node, claims []*resource.ResourceClaim) ([]resource.AllocationResult, error) {
	ctx, cancel := context.WithDeadline(context.Background(), a.deadline)
	defer cancel()
	slices, state := a.s.near(a.s.node(on.Name))
	allocator, err := structured.NewAllocator(ctx, features, state, a.s.classes, slices, a.s.cel)
	if err != nil {
		return nil, err
	}
	results, err := allocator.Allocate(ctx, on, claims)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("node %s: timed out trying to allocate devices", on.Name)
	}
	return results, err
}

// Grant is what a pod gets of claims on a node.
type Grant struct {
	// Claims of the pod, those without an allocation with the one that they get.
	Claims []Granted
	// Extended is the claim to be made for the pod; nil for none.
	Extended *Extended
}

// Granted is one claim of a Grant.
type Granted struct {
	*resource.ResourceClaim
	// Allocation to be written; nil: it has one.
	Allocation *resource.AllocationResult
}

// Grant is what Fits found. The node must fit.
func (a *Attempt) Grant(n Node) (Grant, error) {
	var g Grant
	claims, wish, why := a.asked(n)
	var got answer
	if len(claims) > 0 {
		var err error
		if got, err = a.answer(n.Node, claims, wish); err != nil {
			return g, err
		}
		why = got.why
	}
	if why != "" {
		return g, fmt.Errorf("node %s no longer fits: %s", n.Name, why)
	}
	next := 0
	for _, c := range a.claims {
		granted := Granted{ResourceClaim: c.ResourceClaim}
		if c.Status.Allocation == nil {
			granted.Allocation = &got.results[next]
			next++
		}
		g.Claims = append(g.Claims, granted)
	}
	if next < len(got.results) {
		claim, requests, _ := a.extended.on(n)
		g.Extended = &Extended{Claim: claim, Allocation: &got.results[next], Requests: requests}
	}
	return g, nil
}

// Alternatives says how far ahead in the lists of alternatives the node's answer is:
// upstream's score, the first of eight counts eight.
func (a *Attempt) Alternatives(n Node) int64 {
	g, err := a.Grant(n)
	if err != nil {
		return 0
	}
	var score int64
	for _, c := range g.Claims {
		allocation := c.Allocation
		if allocation == nil {
			allocation = c.Status.Allocation
		}
		chosen := map[string]bool{}
		for _, r := range allocation.Devices.Results {
			chosen[r.Request] = true
		}
		for _, r := range c.Spec.Devices.Requests {
			for i, sub := range r.FirstAvailable {
				if chosen[resourceclaim.CreateSubRequestRef(r.Name, sub.Name)] {
					score += int64(resource.FirstAvailableDeviceRequestMaxSize - i)
				}
			}
		}
	}
	return score
}

// HasAlternatives tells whether any claim lists alternatives.
func (a *Attempt) HasAlternatives() bool {
	if a == nil {
		return false
	}
	for _, c := range a.claims {
		for _, r := range c.Spec.Devices.Requests {
			if len(r.FirstAvailable) > 0 {
				return true
			}
		}
	}
	return false
}

// Selects tells whether devices are to be found for a claim that has selectors of its own.
func (a *Attempt) Selects() bool {
	return a != nil && slices.ContainsFunc(a.missing, func(c *resource.ResourceClaim) bool {
		return slices.ContainsFunc(c.Spec.Devices.Requests, func(r resource.DeviceRequest) bool { return r.Exactly != nil && len(r.Exactly.Selectors) > 0 })
	})
}

// Assume counts what a pod was granted before the API shows it.
func (s *State) Assume(pod types.UID, g Grant) {
	for _, granted := range g.Claims {
		c := s.claims[types.NamespacedName{Namespace: granted.Namespace, Name: granted.Name}]
		if granted.Allocation == nil || c == nil || c.UID != granted.UID {
			continue
		}
		c.pending, c.pod = granted.Allocation, pod
		s.count(c)
	}
	if g.Extended != nil {
		s.unborn[pod] = g.Extended.Allocation.Devices.Results
		s.take(s.unborn[pod], 1)
	}
}

// Forget ends what Assume began. Tell the state of claims that were written first
// (SetClaim): what they got counts from then on by itself.
func (s *State) Forget(pod types.UID, g Grant) {
	for _, granted := range g.Claims {
		c := s.claims[types.NamespacedName{Namespace: granted.Namespace, Name: granted.Name}]
		if c != nil && c.UID == granted.UID && c.pending != nil && c.pod == pod {
			c.pending = nil
			s.count(c)
		}
	}
	s.bear(pod)
}
