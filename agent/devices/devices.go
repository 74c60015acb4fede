// Package devices owns who holds which device of this node: one ledger over all
// resources that Providers offer, the GPUs inside orch and device plugins of others
// alike. It decides by the ledger alone and writes it to the disk before a pod is told
// that it may run, so no crash gives a device twice or loses one. It refuses to know
// what a device is: that is the provider's matter, as is what a container gets for it.
//
// Start reading at Provider, then Manager.Admit (admit.go); ledger.go is the file.
package devices

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
	"orch/gpu/share"
)

// Device is one unit of a resource.
type Device struct {
	// ID is unique among the resource's devices.
	ID string
	// Part is the physical thing behind it, unique among all providers. Two devices with
	// the same part are shares of it if both are Shared; else only one can be held.
	Part    string
	Shared  bool
	Healthy bool
	// Lost: its provider cannot tell how it is. It is not Healthy then.
	Lost bool
	// NUMA are the nodes of memory that it is near to, if that is known.
	NUMA []int64
}

// Provider offers devices. Its methods may be called from many goroutines.
type Provider interface {
	// Offer lists the devices by resource, also those that are not healthy now. Nobody
	// changes the lists afterwards.
	Offer() map[string][]Device
	// Choose picks devices. Fewer than asked for leave the rest to the caller.
	Choose(c Choice) ([]string, error)
	// Edits are what a container gets that holds ids of one of the provider's resources.
	Edits(ctx context.Context, c host.DeviceHolder, resource string, ids []string) (host.DeviceEdits, error)
}

// Choice is what a provider is asked to choose.
type Choice struct {
	Resource string
	// Count devices of Free, beside those of Must, which the container has already.
	Count      int
	Free, Must []string
	// Held are the resource's ids in use.
	Held []string
}

// Sharer is a Provider whose devices can be held in parts too, by amounts. The ids of
// parts (alloc.Share) are not among those that it offers.
type Sharer interface {
	// ChooseParts picks parts, or looks at those that are chosen already, if any. Its error says
	// what is short.
	ChooseParts(c PartChoice) ([]string, error)
	// Amounts are what the node has in all, and what of it can be used, by resource.
	Amounts() (all, usable map[string]int64)
}

// PartChoice is what a Sharer is asked to choose.
type PartChoice struct {
	Resource string
	Want     share.Request
	// Chosen is the scheduler's choice; nil if there is none.
	Chosen []string
	// Free are devices that nobody holds but in parts, Held the resource's ids in use, Spare
	// the parts that the pod's containers that have ended pass on.
	Free, Held, Spare []string
}

// Teller is a Provider that says in a pod's conditions how what it holds is shared.
type Teller interface {
	PodConditions(held []Holding) []core.PodCondition
}

// Preparer is a Provider that is asked once about the devices of a container, before its
// pod may run. The ledger keeps its answer, which is in DeviceHolder.Prepared whenever
// Edits is called: a container that starts again needs the provider no more than that.
type Preparer interface {
	Prepare(ctx context.Context, resource string, ids []string) ([]byte, error)
}

// Follower is a Provider whose offer changes.
type Follower interface {
	// Changed is closed when the offer may be another; ask for it before asking for that.
	Changed() <-chan struct{}
}

// Config of a Manager.
type Config struct {
	// Path of the ledger, on a disk that outlives a reboot.
	Path      string
	Providers []Provider
	// Released is called after devices were taken back and must not block; nil: nobody waits for it.
	Released func()
	// Bound are the pods that are bound to this node, admitted or not; nil: nobody says. It must not
	// call back.
	Bound func() []*core.Pod
	Log   *slog.Logger
}

// Manager is the owner of the ledger.
type Manager struct {
	config Config

	// admitting lets one pod choose, or one owner reserve, at a time. It is taken before mu.
	admitting sync.Mutex

	mu      sync.Mutex // guards what follows; no provider is called while it is held
	ledger  ledger
	changed chan struct{}
	// reserved counts, by part, who alters it now: nobody is given it.
	reserved map[string]int
}

// New reads the ledger. One that cannot be read is an error: what it says may be in use.
func New(c Config) (*Manager, error) {
	if c.Path == "" || c.Log == nil {
		return nil, errors.New("making the device manager: the ledger's path or the log is missing")
	}
	l, err := readLedger(c.Path)
	if err != nil {
		return nil, err
	}
	return &Manager{config: c, ledger: l, changed: make(chan struct{})}, nil
}

// Run tells followers of changed offers until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, p := range m.config.Providers {
		f, ok := p.(Follower)
		if !ok {
			continue
		}
		wg.Go(func() {
			for {
				changed := f.Changed()
				m.tell()
				select {
				case <-ctx.Done():
					return
				case <-changed:
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func (m *Manager) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// Changed is closed when the devices of the node may be others.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// offer joins what the providers offer; the first that offers a resource has it, so a
// device plugin that is put before the built-in provider takes its place.
func (m *Manager) offer() map[string]offered {
	out := map[string]offered{}
	for _, p := range m.config.Providers {
		for name, devices := range p.Offer() {
			if _, ok := out[name]; !ok {
				out[name] = offered{p, devices}
			}
		}
	}
	return out
}

type offered struct {
	provider Provider
	devices  []Device
}

// Resources are what the node has of each resource, and what of it may be used.
func (m *Manager) Resources() (capacity, allocatable core.ResourceList) {
	capacity, allocatable = core.ResourceList{}, core.ResourceList{}
	for name, o := range m.offer() {
		healthy := 0
		for _, d := range o.devices {
			if d.Healthy {
				healthy++
			}
		}
		capacity[core.ResourceName(name)] = *resource.NewQuantity(int64(len(o.devices)), resource.DecimalSI)
		allocatable[core.ResourceName(name)] = *resource.NewQuantity(int64(healthy), resource.DecimalSI)
		s, ok := o.provider.(Sharer)
		if !ok || name != share.GPU {
			continue
		}
		all, usable := s.Amounts()
		for name, n := range all {
			capacity[core.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
			allocatable[core.ResourceName(name)] = *resource.NewQuantity(usable[name], resource.DecimalSI)
		}
	}
	return capacity, allocatable
}

// Holding is what one container holds of one resource, or of one device of a claim.
type Holding struct {
	UID                             types.UID
	Namespace, Pod, Container, Name string
	IDs                             []string
	// Claim is set where it is held by a claim: then Name is empty, the same device is in the
	// holding of every container that uses it, and the pod is missing while the claim is given back.
	Claim ClaimHolding
}

// ClaimHolding says by which claim something is held.
type ClaimHolding struct {
	UID                        types.UID
	Name, Driver, Pool, Device string
	// Admin: it is only watched, and others may hold it.
	Admin bool
}

// Claimed tells that it is held by a claim.
func (h Holding) Claimed() bool { return h.Claim.UID != "" }

// Holder names who holds it, for people.
func (h Holding) Holder() string {
	if h.Claimed() {
		return "ResourceClaim " + h.Namespace + "/" + h.Claim.Name
	}
	return "pod " + h.Namespace + "/" + h.Pod
}

// Holdings lists all that is held, in a stable order; Name is the resource's.
func (m *Manager) Holdings() []Holding {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ledger.holdings()
}

// Release takes a pod's devices back.
func (m *Manager) Release(uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.ledger.Pods[uid]; !ok {
		return nil
	}
	return m.writeLocked(m.ledger.without(func(u types.UID) bool { return u == uid }))
}

// Keep releases what pods hold that are not live.
func (m *Manager) Keep(live map[types.UID]bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.ledger.without(func(u types.UID) bool { return !live[u] })
	if len(next.Pods) == len(m.ledger.Pods) {
		return nil
	}
	return m.writeLocked(next)
}

// writeLocked makes next the ledger once it is on the disk.
func (m *Manager) writeLocked(next ledger) error {
	if err := next.write(m.config.Path); err != nil {
		return err
	}
	released := len(next.Pods) < len(m.ledger.Pods)
	m.ledger = next
	if released && m.config.Released != nil {
		m.config.Released()
	}
	return nil
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
