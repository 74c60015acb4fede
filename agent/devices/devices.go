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
	"fmt"
	"log/slog"
	"slices"
	"sync"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
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
}

// Provider offers devices. Its methods may be called from many goroutines.
type Provider interface {
	// Offer lists the devices by resource, also those that are not healthy now.
	Offer() map[string][]Device
	// Choose picks n of the free devices; held are the resource's ids in use.
	Choose(resource string, n int, free, held []string) ([]string, error)
	// Edits are what a container gets that holds ids of one of the provider's resources.
	Edits(ctx context.Context, c host.DeviceHolder, resource string, ids []string) (host.DeviceEdits, error)
}

// Config of a Manager.
type Config struct {
	// Path of the ledger, on a disk that outlives a reboot.
	Path      string
	Providers []Provider
	// Released is called after devices were taken back and must not block; nil: nobody waits for it.
	Released func()
	Log      *slog.Logger
}

// Manager is the owner of the ledger.
type Manager struct {
	config Config

	mu     sync.Mutex
	ledger ledger
	// reserved counts, by part, who alters it now: nobody is given it.
	reserved map[string]int
}

var _ host.Devices = (*Manager)(nil)

// New reads the ledger. One that cannot be read is an error: what it says may be in use.
func New(c Config) (*Manager, error) {
	if c.Path == "" || c.Log == nil {
		return nil, errors.New("making the device manager: the ledger's path or the log is missing")
	}
	l, err := readLedger(c.Path)
	if err != nil {
		return nil, err
	}
	return &Manager{config: c, ledger: l}, nil
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
	}
	return capacity, allocatable
}

// Holding is what one container holds of one resource.
type Holding struct {
	UID                             types.UID
	Namespace, Pod, Container, Name string
	IDs                             []string
}

// Holdings lists all that is held, in a stable order; Name is the resource's.
func (m *Manager) Holdings() []Holding {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ledger.holdings()
}

// Edits asks the provider of each resource that the container holds.
func (m *Manager) Edits(ctx context.Context, c host.DeviceHolder) (host.DeviceEdits, error) {
	m.mu.Lock()
	held := m.ledger.Pods[c.Pod.UID].Containers[c.Container.Name]
	m.mu.Unlock()
	out := host.DeviceEdits{}
	if len(held) == 0 {
		return out, nil
	}
	offer := m.offer()
	for _, name := range sorted(held) {
		o, ok := offer[name]
		if !ok {
			return out, fmt.Errorf("nothing offers %s on this node any more", name)
		}
		e, err := o.provider.Edits(ctx, c, name, held[name])
		if err != nil {
			return out, fmt.Errorf("preparing %s: %w", name, err)
		}
		out.Devices, out.Mounts, out.Env = append(out.Devices, e.Devices...), append(out.Mounts, e.Mounts...), append(out.Env, e.Env...)
		if out.Held == nil {
			out.Held = map[string][]string{}
		}
		out.Held[name] = held[name]
	}
	return out, nil
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
