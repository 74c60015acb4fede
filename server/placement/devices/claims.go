package devices

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// claim is a claim as the API has it, and what was decided since.
type claim struct {
	*resource.ResourceClaim
	// pending was decided for pod and is not seen in the API yet.
	pending *resource.AllocationResult
	pod     types.UID
	// counted are the devices that count as taken now.
	counted []resource.DeviceRequestAllocationResult
	// without are pods that placement imagines gone.
	without map[types.UID]bool
	// where the allocation can be used; nil: everywhere, or not allocated.
	where *nodeaffinity.NodeSelector
	// wish is of the spec's content: equal for claims that ask for the same.
	wish string
}

func (c *claim) allocation() *resource.AllocationResult {
	if c.Status.Allocation != nil {
		return c.Status.Allocation
	}
	return c.pending
}

// count makes what is taken agree with the claim, and reports whether that frees devices.
func (s *State) count(c *claim) (freed bool) {
	var want []resource.DeviceRequestAllocationResult
	if a := c.allocation(); a != nil && !c.deserted() {
		want = a.Devices.Results
	}
	if len(want) == len(c.counted) && (len(want) == 0 || &want[0] == &c.counted[0]) {
		return false
	}
	had := c.counted
	c.counted = want
	s.take(want, 1)
	s.take(had, -1)
	return len(want) < len(had)
}

// deserted: every pod that it is reserved for is imagined gone.
func (c *claim) deserted() bool {
	return len(c.without) > 0 && c.pending == nil && len(c.Status.ReservedFor) > 0 &&
		!slices.ContainsFunc(c.Status.ReservedFor, func(r resource.ResourceClaimConsumerReference) bool { return !c.without[r.UID] })
}

// SetClaim notes a claim as the API has it. One that is older than what is known is not
// looked at: the answer to a write of ours may come before the cache shows it. It reports
// whether devices are free that were not.
func (s *State) SetClaim(o *resource.ResourceClaim) (freed bool) {
	key := types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
	c := s.claims[key]
	if c != nil && c.UID != o.UID {
		freed = s.RemoveClaim(key)
		c = nil
	}
	if c == nil {
		c = &claim{ResourceClaim: o, wish: wishOf(&o.Spec)}
		s.claims[key] = c
		if pod := owner(o); pod != "" {
			s.leftovers[pod] = c
		}
	} else if revision(o) < revision(c.ResourceClaim) {
		return false
	}
	s.reserve(c, o.Status.ReservedFor)
	c.ResourceClaim = o
	if o.Status.Allocation != nil {
		c.pending = nil
		s.bear(owner(o))
	}
	c.where = nil
	if a := c.allocation(); a != nil && a.NodeSelector != nil {
		// One that does not parse, which validation refuses, matches nothing.
		c.where, _ = nodeaffinity.NewNodeSelector(a.NodeSelector)
	}
	return s.count(c) || freed
}

// RemoveClaim forgets a claim that is gone, and reports whether that frees devices.
func (s *State) RemoveClaim(key types.NamespacedName) (freed bool) {
	c := s.claims[key]
	if c == nil {
		return false
	}
	delete(s.claims, key)
	if pod := owner(c.ResourceClaim); s.leftovers[pod] == c {
		delete(s.leftovers, pod)
	}
	s.reserve(c, nil)
	s.take(c.counted, -1)
	return len(c.counted) > 0
}

// reserve keeps the index of pods.
func (s *State) reserve(c *claim, now []resource.ResourceClaimConsumerReference) {
	for _, r := range c.Status.ReservedFor {
		if left := slices.DeleteFunc(s.reserved[r.UID], func(o *claim) bool { return o == c }); len(left) > 0 {
			s.reserved[r.UID] = left
		} else {
			delete(s.reserved, r.UID)
		}
	}
	for _, r := range now {
		s.reserved[r.UID] = append(s.reserved[r.UID], c)
	}
}

// Claim returns a claim as it is known, nil if it is not.
func (s *State) Claim(key types.NamespacedName) *resource.ResourceClaim {
	if c := s.claims[key]; c != nil {
		return c.ResourceClaim
	}
	return nil
}

// Suspend imagines that a pod is gone: claims that nobody else has reserved are free.
func (s *State) Suspend(pod types.UID) {
	for _, c := range s.reserved[pod] {
		if c.without == nil {
			c.without = map[types.UID]bool{}
		}
		c.without[pod] = true
		s.count(c)
	}
}

// Resume ends what Suspend began.
func (s *State) Resume(pod types.UID) {
	for _, c := range s.reserved[pod] {
		delete(c.without, pod)
		s.count(c)
	}
}

// claimsOf finds the claims that a pod names, or says why it cannot have them yet.
func (s *State) claimsOf(p *core.Pod) ([]*claim, error) {
	var out []*claim
	for i := range p.Spec.ResourceClaims {
		name, owned, err := resourceclaim.Name(p, &p.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue // none was needed
		}
		c := s.claims[types.NamespacedName{Namespace: p.Namespace, Name: *name}]
		switch {
		case c == nil:
			return nil, fmt.Errorf("could not find ResourceClaim %q", p.Namespace+"/"+*name)
		case c.DeletionTimestamp != nil:
			return nil, fmt.Errorf("resourceclaim %q is being deleted", c.Name)
		}
		if owned {
			if err := resourceclaim.IsForPod(p, c.ResourceClaim, false); err != nil {
				return nil, err
			}
		}
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}

// known says whether the classes of all requests exist.
func (s *State) known(c *resource.ResourceClaim) error {
	class := func(name, request string) error {
		if s.classes.byName[name] == nil {
			return fmt.Errorf("request %s: device class %s does not exist", request, name)
		}
		return nil
	}
	for _, r := range c.Spec.Devices.Requests {
		switch {
		case r.Exactly != nil:
			if err := class(r.Exactly.DeviceClassName, r.Name); err != nil {
				return err
			}
		case len(r.FirstAvailable) > 0:
			for _, sub := range r.FirstAvailable {
				if err := class(sub.DeviceClassName, resourceclaim.CreateSubRequestRef(r.Name, sub.Name)); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("resource claim %s/%s, request %s: unknown request type", c.Namespace, c.Name, r.Name)
		}
	}
	return nil
}

// wishOf is empty for a spec that cannot be written: it is then equal to no other.
func wishOf(spec *resource.ResourceClaimSpec) string {
	b, err := spec.Marshal()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return string(sum[:])
}

func revision(o *resource.ResourceClaim) int64 {
	n, _ := strconv.ParseInt(o.ResourceVersion, 10, 64) // objects of the API always have one
	return n
}
