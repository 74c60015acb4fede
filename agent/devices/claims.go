package devices

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Claim is a ResourceClaim that pods of this node use: one holding of several pods.
type Claim struct {
	UID       types.UID `json:"uid"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	// Pods are those that use it. Without any it is held until its drivers have let go.
	Pods map[types.UID]ClaimPod `json:"pods,omitempty"`
	// Last is the pod that left it without any: that is not off its claims before the drivers
	// have let go.
	Last types.UID `json:"last,omitempty"`
	// Drivers have its devices by the driver's name.
	Drivers map[string]ClaimDriver `json:"drivers"`
}

// ClaimPod is a pod that uses a claim.
type ClaimPod struct {
	Name string `json:"name"`
	// Containers are those that may use its devices, and of which requests; the empty
	// request is all of them.
	Containers map[string][]ClaimRequest `json:"containers,omitempty"`
}

// ClaimRequest is how a container refers to a claim, or to one request of it.
type ClaimRequest struct {
	// Claim is the name within the pod, empty for the claim of its extended resources.
	Claim   string `json:"claim,omitempty"`
	Request string `json:"request,omitempty"`
}

// ClaimDriver is what one driver has of a claim.
type ClaimDriver struct {
	Devices []ClaimDevice `json:"devices"`
	// Prepared is the boot in which the driver made the devices ready; another boot knows nothing of it.
	Prepared string `json:"prepared,omitempty"`
	// State is what the driver wants to be told again.
	State []byte `json:"state,omitempty"`
}

// ClaimDevice is one device of a claim.
type ClaimDevice struct {
	// Requests are the names of those that it was given for; none is all.
	Requests []string `json:"requests,omitempty"`
	Pool     string   `json:"pool"`
	Device   string   `json:"device"`
	ShareID  string   `json:"shareID,omitempty"`
	// Part is the physical thing behind it (Device.Part), empty where the driver keeps no
	// account here. Excludes are parts that cannot be held beside it.
	Part     string   `json:"part,omitempty"`
	Excludes []string `json:"excludes,omitempty"`
	// Admin: it is only watched, and others may hold it.
	Admin bool `json:"admin,omitempty"`
	// CDI are its names for container engines.
	CDI []string `json:"cdi,omitempty"`
}

// For tells whether the device belongs to a request, or to all ("").
func (d ClaimDevice) For(request string) bool {
	return request == "" || len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(r string) bool {
		base, _, _ := strings.Cut(r, "/")
		return base == request || r == request
	})
}

// clone copies what a change of the ledger may touch.
func (c Claim) clone() Claim {
	c.Pods, c.Drivers = maps.Clone(c.Pods), maps.Clone(c.Drivers)
	return c
}

// Claims are those that are held, by UID.
func (m *Manager) Claims() map[types.UID]Claim {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.ledger.Claims)
}

// ClaimsOf are those that a pod uses, in the order of their names.
func (m *Manager) ClaimsOf(pod types.UID) []Claim {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Claim
	for _, c := range m.ledger.Claims {
		if _, ok := c.Pods[pod]; ok {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Claim) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// HoldClaim takes the devices of a claim for the pods in it. One that is held already gets
// the pods, and keeps its devices unless anew: then it has those of c. It is on the disk when this
// returns; nothing is taken if somebody else holds a device.
func (m *Manager) HoldClaim(c Claim, anew bool) (Claim, error) {
	m.admitting.Lock()
	defer m.admitting.Unlock()
	offer := m.offer()
	m.mu.Lock()
	defer m.mu.Unlock()
	now, held := m.ledger.Claims[c.UID]
	next := now.clone()
	if !held || anew {
		others := m.ledger.withoutClaim(c.UID)
		if err := others.roomFor(c, others.busy(offer), m.reserved); err != nil {
			return c, err
		}
		next = c.clone()
		maps.Copy(next.Pods, now.Pods)
	}
	if next.Pods == nil {
		next.Pods = map[types.UID]ClaimPod{}
	}
	maps.Copy(next.Pods, c.Pods)
	return next, m.writeLocked(m.ledger.withClaim(next))
}

// roomFor says who is in the way of a claim.
func (l ledger) roomFor(c Claim, b busy, reserved map[string]int) error {
	for _, other := range l.Claims {
		if other.Namespace == c.Namespace && other.Name == c.Name && other.UID != c.UID {
			return fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", c.Name, other.UID)
		}
	}
	for _, driver := range sorted(c.Drivers) {
		for _, d := range c.Drivers[driver].Devices {
			if d.Part == "" || d.Admin {
				continue
			}
			if slices.ContainsFunc(append([]string{d.Part}, d.Excludes...), func(p string) bool { return reserved[p] > 0 }) {
				return fmt.Errorf("device %s is being altered", d.Device)
			}
			if b.barred[d.Part] || b.holds(d.Part) || slices.ContainsFunc(d.Excludes, b.holds) {
				return fmt.Errorf("device %s is in use by %s", d.Device, l.holderOf(append([]string{d.Part}, d.Excludes...)))
			}
		}
	}
	return nil
}

// holderOf names, for people, who holds one of the parts or bars the first of them.
func (l ledger) holderOf(parts []string) string {
	for _, h := range l.holdings() {
		if slices.ContainsFunc(h.IDs, func(id string) bool { return slices.Contains(parts, partOf(id)) }) {
			return h.Holder()
		}
	}
	for _, c := range l.Claims {
		for _, d := range c.devices() {
			if slices.Contains(d.Excludes, parts[0]) {
				return "ResourceClaim " + c.Namespace + "/" + c.Name
			}
		}
	}
	return "another"
}

// devices are those of all drivers.
func (c Claim) devices() []ClaimDevice {
	var out []ClaimDevice
	for _, driver := range sorted(c.Drivers) {
		out = append(out, c.Drivers[driver].Devices...)
	}
	return out
}

// ClaimPrepared notes what a driver made ready.
func (m *Manager) ClaimPrepared(uid types.UID, driver string, d ClaimDriver) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.ledger.Claims[uid]
	if !ok {
		return errors.New("the claim was given back meanwhile")
	}
	c = c.clone()
	c.Drivers[driver] = d
	return m.writeLocked(m.ledger.withClaim(c))
}

// LeaveClaims takes a pod, or all pods that gone tells of, off its claims. What it returns is used by
// nobody any more: it is held until ForgetClaim.
func (m *Manager) LeaveClaims(gone func(pod types.UID) bool) ([]Claim, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next, left, changed := m.ledger, []Claim{}, false
	for _, c := range m.ledger.Claims {
		n := len(c.Pods)
		c = c.clone()
		maps.DeleteFunc(c.Pods, func(uid types.UID, _ ClaimPod) bool {
			if !gone(uid) {
				return false
			}
			c.Last = uid
			return true
		})
		if len(c.Pods) < n {
			next, changed = next.withClaim(c), true
		}
		if len(c.Pods) == 0 {
			left = append(left, c)
		}
	}
	slices.SortFunc(left, func(a, b Claim) int { return strings.Compare(string(a.UID), string(b.UID)) })
	if !changed {
		return left, nil
	}
	return left, m.writeLocked(next)
}

// ForgetClaim gives the devices of a claim back that no pod uses. It does nothing if one came
// to use it meanwhile.
func (m *Manager) ForgetClaim(uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.ledger.Claims[uid]; !ok || len(c.Pods) > 0 {
		return nil
	}
	if err := m.writeLocked(m.ledger.withoutClaim(uid)); err != nil {
		return err
	}
	if m.config.Released != nil {
		m.config.Released()
	}
	return nil
}

func (l ledger) withClaim(c Claim) ledger {
	l.Claims = maps.Clone(l.Claims)
	if l.Claims == nil {
		l.Claims = map[types.UID]Claim{}
	}
	l.Claims[c.UID] = c
	return l
}

func (l ledger) withoutClaim(uid types.UID) ledger {
	l.Claims = maps.Clone(l.Claims)
	delete(l.Claims, uid)
	return l
}
