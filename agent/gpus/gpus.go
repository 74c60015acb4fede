// Package gpus makes the GPUs of this node usable by pods: it offers them to the device
// ledger (agent/devices), says what a container gets that holds some, and what they mean
// for the node's labels and conditions. What GPUs there are comes in as a View; this
// package owns only the files it makes for containers (loader caches), below Config.Dir.
// It refuses to give a card on while a process still holds memory of it.
//
// Start reading at View, then GPUs; edits.go is what a container gets.
package gpus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/devices"
	"orch/agent/node"
	"orch/gpu/alloc"
	"orch/gpu/cdi"
	"orch/gpu/device"
	"orch/gpu/labels"
	"orch/gpu/metrics"
	"orch/gpu/report"
	"orch/gpu/share"
	"orch/runtime/engine"
)

// View is what is known of the node's GPUs at one moment.
type View struct {
	Machine device.Machine
	// Allocatable tells whether a card or MIG device, by UUID, may be given out.
	Allocatable func(uuid string) bool
	Conditions  []core.NodeCondition
	// Findings are what is wrong with the driver as a whole.
	Findings []report.Finding
	// Units are those that are not healthy, Notices what became of them lately.
	Units   []Unit
	Notices []Notice
	XIDs    map[string]metrics.XIDs
}

// Config of GPUs.
type Config struct {
	// Node is the name of this node, and of its pool of devices.
	Node string
	// Look is what is known now, Changes has something in it when that may be other.
	Look    func() View
	Changes func(ctx context.Context) <-chan struct{}
	Share   share.Config
	// Files finds the driver's files for containers.
	Files func(m device.Machine) (cdi.Files, error)
	// Use is how much of a card and its MIG devices is in use, and by whom; nil where nobody can tell.
	Use func(ctx context.Context, card string) ([]device.Figures, []device.Process, error)
	// Dynamic makes MIG devices for claims; nil: claims get those that are there.
	Dynamic *Dynamic
	// Guard keeps those who share cards within their shares.
	Guard Guard
	// ImageCache reads the loader's cache of an image; engine.ErrNotFound if it has none.
	ImageCache func(ctx context.Context, i engine.Image) ([]byte, error)
	// DevRoot is where the device nodes of the host begin; empty is "/".
	DevRoot string
	// Dir gets the loader caches of containers. It need not outlive a reboot.
	Dir string
	Log *slog.Logger
}

// GPUs is the built-in provider of nvidia.com resources.
type GPUs struct {
	config Config
	now    func() time.Time

	// changing lets one claim at a time have MIG devices made or taken away.
	changing sync.Mutex

	files atomic.Pointer[found]

	mu      sync.Mutex // guards changed
	changed chan struct{}

	// refused are cards, by UUID, whose driver does not limit memory though it says so.
	refused sync.Map
	// keep has something in it when shares may be others.
	keep chan struct{}
}

// found are the files of one driver version.
type found struct {
	version string
	files   cdi.Files
	err     error
}

var (
	_ devices.Provider = (*GPUs)(nil)
	_ devices.Sharer   = (*GPUs)(nil)
	_ devices.Teller   = (*GPUs)(nil)
	_ node.Extra       = Extra{}
)

// New checks the config.
func New(c Config) (*GPUs, error) {
	if c.Look == nil || c.Changes == nil || c.Files == nil || c.ImageCache == nil || c.Dir == "" || c.Log == nil {
		return nil, errors.New("making the GPU provider: a dependency is missing")
	}
	return &GPUs{config: c, now: time.Now, changed: make(chan struct{}), keep: make(chan struct{}, 1)}, nil
}

// Run tells followers of changes until ctx ends.
func (g *GPUs) Run(ctx context.Context) error {
	if err := os.MkdirAll(g.config.Dir, 0o755); err != nil {
		return err
	}
	changes := g.config.Changes(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
			g.files.Store(nil) // libraries may have come with a driver of the same version
			g.Tell()
		}
	}
}

// Tell has followers look anew; those that the answers depend on call it too.
func (g *GPUs) Tell() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.changed)
	g.changed = make(chan struct{})
}

// Changed is closed when what the node's GPUs are may be other.
func (g *GPUs) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// Offer lists the units by resource.
func (g *GPUs) Offer() map[string][]devices.Device {
	v := g.config.Look()
	units, _ := alloc.Offer(v.Machine, g.config.Share)
	out, near, unborn := map[string][]devices.Device{}, numa(v.Machine), g.unborn(v)
	for _, u := range units {
		if unborn[u.Device()] {
			continue
		}
		out[u.Resource] = append(out[u.Resource], devices.Device{ID: u.ID, Part: u.Device(), Shared: u.Replica >= 0, Healthy: v.Allocatable(u.Device()), NUMA: near[u.Device()]})
	}
	return out
}

// numa has the memory node of each card and MIG device, where it is known.
func numa(m device.Machine) map[string][]int64 {
	out := map[string][]int64{}
	for _, card := range m.GPUs {
		if card.NUMANode == nil || *card.NUMANode < 0 {
			continue
		}
		out[card.UUID] = []int64{int64(*card.NUMANode)}
		for _, d := range card.MIGDevices() {
			out[d.UUID] = out[card.UUID]
		}
	}
	return out
}

// Choose picks the best of the free units.
func (g *GPUs) Choose(c devices.Choice) ([]string, error) {
	m := g.config.Look().Machine
	units, _ := alloc.Offer(m, g.config.Share)
	isFree := map[string]bool{}
	for _, id := range c.Free {
		isFree[id] = true
	}
	r := alloc.Request{Resource: c.Resource, Count: c.Count, Held: c.Held, OneOnly: g.config.Share.OneOnly}
	for _, u := range units {
		if isFree[u.ID] {
			r.Free = append(r.Free, u)
		}
	}
	picked, err := alloc.Choose(m, r)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, u := range picked {
		ids = append(ids, u.ID)
	}
	return ids, nil
}

// ChooseParts picks parts of cards, or looks at the scheduler's choice.
func (g *GPUs) ChooseParts(c devices.PartChoice) ([]string, error) {
	m := g.config.Look().Machine
	units, _ := alloc.Offer(m, g.config.Share)
	r := alloc.ShareRequest{Want: c.Want, Held: c.Held, Spare: c.Spare}
	for _, u := range units {
		if u.Resource != c.Resource {
			continue
		}
		r.All = append(r.All, u)
		if slices.Contains(c.Free, u.ID) {
			r.Free = append(r.Free, u)
		}
	}
	if c.Chosen == nil {
		return alloc.ChooseShares(m, r)
	}
	if err := alloc.CheckShares(r, c.Chosen); err != nil {
		return nil, fmt.Errorf("the scheduler's choice: %w", err)
	}
	return c.Chosen, nil
}

// Amounts are the sums of what can be held in parts: other schedulers, quota and people
// read them. A card that is offered in replicas has none.
func (g *GPUs) Amounts() (all, usable map[string]int64) {
	v := g.config.Look()
	units, _ := alloc.Offer(v.Machine, g.config.Share)
	all, usable = map[string]int64{}, map[string]int64{}
	for _, u := range units {
		if u.Resource != share.GPU || u.Replica >= 0 || u.MemoryMiB == 0 {
			continue
		}
		for name, n := range map[string]int64{share.Memory: u.MemoryMiB, share.Cores: 100, share.MemoryPercent: 100} {
			all[name] += n
			if v.Allocatable(u.Device()) {
				usable[name] += n
			}
		}
	}
	return all, usable
}

// Labels are those of the node. The time in them is left out: it would be the only
// thing that changes.
func (g *GPUs) Labels() map[string]string {
	return labels.Of(g.config.Look().Machine, labels.Options{Share: g.config.Share})
}

// Conditions of the node, with what keeps its layout from being offered.
func (g *GPUs) Conditions() []core.NodeCondition {
	v := g.config.Look()
	out := slices.Clone(v.Conditions)
	if _, why := alloc.Offer(v.Machine, g.config.Share); why != "" {
		out = append(out, core.NodeCondition{Type: "GPULayoutValid", Status: core.ConditionFalse, Reason: "MIGLayoutInvalid", Message: why})
	}
	return append(out, g.mpsCondition()...)
}

// Extra is what the node says of its devices: how many, from the ledger's owner, and
// what they are.
type Extra struct {
	*devices.Manager
	*GPUs
}

// Changed is closed when devices of any provider may be others.
func (e Extra) Changed() <-chan struct{} { return e.Manager.Changed() }

// Conditions are the node's; those of pods are the ledger's.
func (e Extra) Conditions() []core.NodeCondition { return e.GPUs.Conditions() }

// OwnsResource tells that NVIDIA's resources come and go with the cards.
func (Extra) OwnsResource(name core.ResourceName) bool {
	return strings.HasPrefix(string(name), share.Prefix)
}

// OwnsCondition tells that what was said of GPUs goes when it is not said any more: a layout
// that is in order again, the last MPS daemon, the last card.
func (Extra) OwnsCondition(kind core.NodeConditionType) bool {
	switch kind {
	case "GPUDriverReady", "GPUsHealthy", "GPULayoutValid", "GPUMPSReady":
		return true
	}
	return false
}

// OwnsLabel tells that the labels of GPUs come and go with them.
func (Extra) OwnsLabel(key string) bool { return labels.Owned(key) }
