package fakenvml

import (
	"context"
	"maps"
	"slices"

	"orch/gpu/device"
)

// faults are what is wrong with the driver that is played.
type faults struct {
	whole    *device.Problem            // answers every call
	problems map[string]*device.Problem // by UUID of the card
	missing  map[device.Figure]bool     // figures that are not supported
	hangs    map[string]int             // op -> how many calls end in a hang
	released bool
}

// Fail makes one card answer every question with an error, as a lost one does; nil mends it.
func (p *Player) Fail(card string, problem *device.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults.problems == nil {
		p.faults.problems = map[string]*device.Problem{}
	}
	p.faults.problems[card] = problem
	if problem == nil {
		delete(p.faults.problems, card)
	}
}

// Break makes the whole driver answer with an error (version mismatch, not loaded); nil mends it.
func (p *Player) Break(problem *device.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults.whole = problem
}

// Hang makes the next n calls of an operation end as they do when the driver hangs and
// the helper is killed: with CodeHang, and without the time that takes.
func (p *Player) Hang(op string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults.hangs == nil {
		p.faults.hangs = map[string]int{}
	}
	p.faults.hangs[op] = n
}

// Unsupported takes figures away, as a consumer card or an old driver does.
func (p *Player) Unsupported(names ...device.Figure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults.missing == nil {
		p.faults.missing = map[device.Figure]bool{}
	}
	for _, n := range names {
		p.faults.missing[n] = true
	}
}

// Change alters the machine behind everyone's back: cards added or gone, instances made
// by nvidia-smi, a module loaded anew. No event is sent by it.
func (p *Player) Change(f func(*device.Machine)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.machine.Clone()
	f(&m)
	m.Sort()
	p.machine = m
}

// Set sets a figure of a card or MIG device.
func (p *Player) Set(uuid string, name device.Figure, value float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.figures[uuid]
	f.UUID, f.Values = uuid, maps.Clone(f.Values)
	if f.Values == nil {
		f.Values = map[device.Figure]float64{}
	}
	f.Values[name] = value
	p.figures[uuid] = f
}

// SetProcesses replaces the processes that hold memory.
func (p *Player) SetProcesses(processes ...device.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.processes = slices.Clone(processes)
}

// Send reports an event, as the driver or the kernel log would.
func (p *Player) Send(e device.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) >= maxWaiting {
		p.waiting = append(p.waiting[:0], device.Event{Kind: device.EventOverflow})
	}
	p.waiting = append(p.waiting, e)
	close(p.wake)
	p.wake = make(chan struct{})
}

// Calls is how often the player was asked.
func (p *Player) Calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

// enter counts a call and answers it with the fault that stands in its way.
func (p *Player) enter(ctx context.Context, op, card string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	switch f := &p.faults; {
	case f.released:
		return problem(op, device.CodeStopped, "the helper is stopped")
	case f.hangs[op] > 0:
		f.hangs[op]--
		return problem(op, device.CodeHang, "the call passed its limit")
	case f.whole != nil:
		return &device.Problem{Op: op, Code: f.whole.Code, Text: f.whole.Text}
	case card != "" && f.problems[card] != nil:
		return f.problems[card]
	}
	return nil
}

// applyLocked puts the problems of cards where a driver would: the card keeps its place
// on the bus and its UUID, and says nothing else.
func (f *faults) applyLocked(m *device.Machine) {
	for i, g := range m.GPUs {
		if bad := f.problems[g.UUID]; bad != nil {
			m.GPUs[i] = device.GPU{Index: g.Index, UUID: g.UUID, Minor: g.Minor, PCI: g.PCI, Name: g.Name, NUMANode: g.NUMANode, Problem: bad}
		}
	}
}

// supportedLocked are the figures that are not taken away.
func (f *faults) supportedLocked(values map[device.Figure]float64) map[device.Figure]float64 {
	out := maps.Clone(values)
	maps.DeleteFunc(out, func(n device.Figure, _ float64) bool { return f.missing[n] })
	return out
}

// Snapshot is the machine as it is, without its faults and without a call: what the
// kernel would say of it.
func (p *Player) Snapshot() device.Machine {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.machine.Clone()
}
