package fakenvml

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	"orch/gpu/device"
)

// maxWaiting bounds the events that wait for a watcher; one that does not read in time
// loses the oldest and is told so by an EventOverflow.
const maxWaiting = 256

// Player answers from a recording, as gpu/nvml.Client answers from a driver: the same
// methods, the same errors (*device.Problem). All methods may be called at once.
type Player struct {
	mu        sync.Mutex
	machine   device.Machine
	figures   map[string]device.Figures
	processes []device.Process
	faults    faults
	waiting   []device.Event
	wake      chan struct{} // closed and replaced when something waits
	calls     int
}

// New plays a recording.
func New(rec device.Recording) *Player {
	p := &Player{machine: rec.Machine.Clone(), processes: slices.Clone(rec.Processes), figures: map[string]device.Figures{},
		wake: make(chan struct{}), waiting: slices.Clone(rec.Events)}
	for _, f := range rec.Figures {
		p.figures[f.UUID] = f
	}
	return p
}

// Machine is what the driver says now.
func (p *Player) Machine(ctx context.Context) (device.Machine, error) {
	if err := p.enter(ctx, "machine", ""); err != nil {
		return device.Machine{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.machine.Clone()
	p.faults.applyLocked(&m)
	return m, nil
}

// Watch hands every event to each until ctx ends. One watcher at a time gets them.
func (p *Player) Watch(ctx context.Context, each func(device.Event)) error {
	for {
		p.mu.Lock()
		events, wake := p.waiting, p.wake
		p.waiting = nil
		p.mu.Unlock()
		for _, e := range events {
			each(e)
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
	}
}

// Figures are the numbers of these cards, each followed by those of its MIG devices. A
// card that does not answer has a Problem, the others their numbers.
func (p *Player) Figures(ctx context.Context, cards ...string) ([]device.Figures, error) {
	if err := p.enter(ctx, "figures", ""); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.machine.Clone()
	p.faults.applyLocked(&m)
	var out []device.Figures
	for _, id := range cards {
		g, ok := m.GPU(id)
		if !ok {
			out = append(out, device.Figures{UUID: id, Problem: problem("figures", device.CodeNotFound, "Not Found")})
			continue
		}
		f := p.figures[id]
		f.UUID, f.Values, f.Problem = id, p.faults.supportedLocked(f.Values), g.Problem
		if f.Problem != nil {
			f.Values = nil
		}
		out = append(out, f)
		for _, d := range g.MIGDevices() {
			f := p.figures[d.UUID]
			f.UUID, f.Values, f.Problem = d.UUID, p.faults.supportedLocked(f.Values), d.Problem
			out = append(out, f)
		}
	}
	return out, nil
}

// Processes are those that hold memory of these cards.
func (p *Player) Processes(ctx context.Context, cards ...string) ([]device.Process, error) {
	if err := p.enter(ctx, "processes", ""); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.processes), func(q device.Process) bool { return !slices.Contains(cards, q.UUID) }), nil
}

// SetMIGMode turns partitioning of a card on or off. The answer tells whether it took
// effect; where a process holds the card it waits for a reset.
func (p *Player) SetMIGMode(ctx context.Context, card string, on bool) (active bool, err error) {
	err = p.change(ctx, "SetMIGMode", card, func(g *device.GPU) error {
		if g.MIG == nil {
			return problem("SetMIGMode", device.CodeNotSupported, "Not Supported")
		}
		if !on && len(g.MIG.Instances) > 0 {
			return problem("SetMIGMode", device.CodeInUse, "In use by another client")
		}
		g.MIG.Mode.Pending = on
		if !slices.ContainsFunc(p.processes, func(q device.Process) bool { return q.UUID == card }) {
			g.MIG.Mode.Current = on
		}
		active = g.MIG.Mode.Current == on
		return nil
	})
	return active, err
}

// CreateInstance makes a GPU instance of the profile at that placement (nil: the first
// free one) with compute instances of so many slices; without parts, with one that takes all of it.
func (p *Player) CreateInstance(ctx context.Context, card string, profileID int, at *device.Placement, parts ...int) (made device.GPUInstance, err error) {
	err = p.change(ctx, "CreateInstance", card, func(g *device.GPU) error {
		kind, ok := g.MIG.Profile(profileID)
		if !g.MIG.Enabled() || !ok {
			return problem("CreateInstance", device.CodeNotSupported, "Not Supported")
		}
		free := slices.DeleteFunc(slices.Clone(kind.Placements), func(c device.Placement) bool {
			return at != nil && c != *at || slices.ContainsFunc(g.MIG.Instances, func(o device.GPUInstance) bool { return o.Placement.Overlaps(c) })
		})
		same, slicesUsed := 0, 0
		for _, o := range g.MIG.Instances {
			k, _ := g.MIG.Profile(o.ProfileID)
			slicesUsed += k.Slices
			if o.ProfileID == profileID {
				same++
			}
		}
		if len(free) == 0 || same >= kind.Instances || slicesUsed+kind.Slices > 7 {
			return problem("CreateInstance", device.CodeInsufficientResource, "Insufficient Resources")
		}
		if !divides(kind, parts) {
			return problem("CreateComputeInstance", device.CodeInsufficientResource, "Insufficient Resources")
		}
		minor := g.Index
		if g.Minor != nil {
			minor = *g.Minor
		}
		made = instance(g.UUID, minor, kind, free[0], parts...)
		g.MIG.Instances = append(g.MIG.Instances, made)
		renumber(g.MIG)
		for _, gi := range g.MIG.Instances {
			if gi.ID == made.ID {
				made = gi
			}
		}
		all := float64(kind.MemoryMiB << 20)
		for _, ci := range made.Compute {
			p.figures[ci.UUID] = device.Figures{UUID: ci.UUID, Values: map[device.Figure]float64{device.FBTotalBytes: all, device.FBFreeBytes: all, device.FBUsedBytes: 0, device.FBReservedBytes: 0}}
		}
		return nil
	})
	return made, err
}

// divides tells whether a GPU instance offers such compute instances beside each other.
func divides(kind device.Profile, parts []int) bool {
	sum, of := 0, map[int]int{}
	for _, n := range parts {
		sum += n
		of[n]++
		if !slices.ContainsFunc(kind.Compute, func(c device.ComputeProfile) bool { return c.Slices == n && of[n] <= c.Instances }) {
			return false
		}
	}
	return sum <= kind.Slices
}

// DestroyInstance removes a GPU instance and its compute instances; one that a process
// uses stays.
func (p *Player) DestroyInstance(ctx context.Context, card string, gi int) error {
	return p.change(ctx, "DestroyInstance", card, func(g *device.GPU) error {
		if !g.MIG.Enabled() {
			return problem("DestroyInstance", device.CodeNotSupported, "Not Supported")
		}
		i := slices.IndexFunc(g.MIG.Instances, func(o device.GPUInstance) bool { return o.ID == gi })
		if i < 0 {
			return problem("DestroyInstance", device.CodeNotFound, "Not Found")
		}
		if slices.ContainsFunc(p.processes, func(q device.Process) bool { return q.UUID == card && q.GI != nil && *q.GI == gi }) {
			return problem("DestroyInstance", device.CodeInUse, "In use by another client")
		}
		g.MIG.Instances = slices.Delete(g.MIG.Instances, i, i+1)
		renumber(g.MIG)
		return nil
	})
}

// SetComputeMode sets a card's mode: "Default", "Prohibited" or "ExclusiveProcess" (what MPS wants).
func (p *Player) SetComputeMode(ctx context.Context, card, mode string) error {
	return p.change(ctx, "SetComputeMode", card, func(g *device.GPU) error {
		if !slices.Contains([]string{"Default", "Prohibited", "ExclusiveProcess"}, mode) {
			return problem("SetComputeMode", device.CodeInvalidArgument, fmt.Sprintf("Invalid Argument %q", mode))
		}
		g.ComputeMode = mode
		return nil
	})
}

// SetMemoryLimits bounds what the processes of a cgroup may hold of a card; only drivers
// whose cards say MemoryLimits have it. The group's folder must be there.
func (p *Player) SetMemoryLimits(ctx context.Context, card, cgroup string, requestBytes, limitBytes uint64) error {
	return p.change(ctx, "SetMemoryLimits", card, func(g *device.GPU) error {
		if !g.MemoryLimits {
			return problem("SetMemoryLimits", device.CodeFunctionNotFound, "Function Not Found")
		}
		if requestBytes > limitBytes || g.MemoryBytes != nil && limitBytes > *g.MemoryBytes {
			return problem("SetMemoryLimits", device.CodeInvalidArgument, "Invalid Argument")
		}
		if st, err := os.Stat(cgroup); err != nil || !st.IsDir() {
			return problem("SetMemoryLimits", device.CodeOperatingSystem, "Operating System Error: the group "+cgroup+" cannot be opened")
		}
		return nil
	})
}

// Release lets go of all device nodes, so that the driver can be unloaded or a card
// reset; Resume takes them again. A player holds none and only refuses calls between.
func (p *Player) Release(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults.released = true
	return nil
}

// Resume ends what Release began.
func (p *Player) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults.released = false
}

// change lets f alter one card.
func (p *Player) change(ctx context.Context, op, card string, f func(*device.GPU) error) error {
	if err := p.enter(ctx, op, card); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.machine.GPUs, func(g device.GPU) bool { return g.UUID == card })
	if i < 0 {
		return problem(op, device.CodeNotFound, "Not Found")
	}
	if bad := p.faults.problems[card]; bad != nil {
		return bad
	}
	g := p.machine.GPUs[i].Clone()
	if err := f(&g); err != nil {
		return err
	}
	p.machine.GPUs[i] = g
	return nil
}

// renumber gives the MIG devices their indices, in the order of their instances.
func renumber(m *device.MIG) {
	slices.SortFunc(m.Instances, func(a, b device.GPUInstance) int { return a.ID - b.ID })
	n := 0
	for i := range m.Instances {
		compute := slices.Clone(m.Instances[i].Compute)
		for j := range compute {
			compute[j].Index = n
			n++
		}
		m.Instances[i].Compute = compute
	}
}

func problem(op string, code int, text string) *device.Problem {
	return &device.Problem{Op: op, Code: code, Text: text}
}
