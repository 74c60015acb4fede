// Package inventory owns what this node knows of its GPUs: one State with the Machine
// and the health of its units, kept current by events (the driver's, the bus's, the
// kernel log's), not by polling. It finds nothing itself: Sources do (gpu/nvml,
// gpu/sysfs, gpu/fakenvml). It gives nothing out: allocation, labels, metrics and
// injection read State, wait by Subscribe, and tell it when a unit is Drained. It
// refuses to let one card's error reach another card.
//
// Start reading at Config and Inventory.Run; the owner's steps are in owner.go (readings)
// and care.go (events, health, resets). Pure parts: merge.go (two tiers into one Machine), diagnose.go (what is wrong with a
// driver, and the node conditions). memory.go is what outlives a restart.
package inventory

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"orch/gpu/device"
	"orch/gpu/health"
)

// Source is who can say what GPUs a machine has. An error is a *device.Problem where
// the driver answered with one.
type Source interface {
	// Machine reads everything. A card that does not answer is in it, with its Problem.
	Machine(ctx context.Context) (device.Machine, error)
	// Watch hands events to each, one after the other, until ctx ends (nil) or events
	// cannot be had any more (an error; then the source is asked again later).
	Watch(ctx context.Context, each func(device.Event)) error
}

// Driver is a Source that can be asked how cards are, and let go.
type Driver interface {
	Source
	Figures(ctx context.Context, cards ...string) ([]device.Figures, error)
	Processes(ctx context.Context, cards ...string) ([]device.Process, error)
	// Release lets go of every device node until Resume.
	Release(ctx context.Context) error
	Resume()
}

// Config of an Inventory. Host alone gives the second tier.
type Config struct {
	Host   Source // bus and kernel; required
	Driver Driver // NVML; nil where the build has none
	// Prepare, if set, makes the kernel module and device nodes where they are missing;
	// it runs before each reading that follows a change, and tells whether it changed anything.
	Prepare func(ctx context.Context, m device.Machine) (changed bool, err error)
	// Reset, if set, resets a card that nobody holds; the driver is released meanwhile.
	Reset  func(ctx context.Context, g device.GPU) health.ResetDone
	Policy health.Policy
	// Memory, if set, is the file that keeps the health of units and their XIDs over a
	// restart; what it says counts within one Boot of the machine only.
	Memory, Boot string
	Log          *slog.Logger
}

// Bounds. Events beyond maxEvents are dropped, and the machine is read again for it;
// of notices the last maxNotices are kept, numbered, so that a reader knows what it missed.
const (
	maxEvents  = 256
	maxNotices = 128
	// maxLast is how many events a recording carries.
	maxLast = 64
	// checkDelay is how long a card that did not answer is left alone before it is asked again.
	checkDelay = 10 * time.Second
	// sameError is how far apart the driver and the kernel log tell of one error.
	sameError = 2 * time.Second
	// retryMin and retryMax bound the waits before events are asked for again.
	retryMin, retryMax = time.Second, time.Minute
)

// State is what is known at one moment. It is shared: nobody changes it.
type State struct {
	Revision uint64
	Machine  device.Machine
	// Units are those that are not Healthy, by card and GPU instance (-1 for the card).
	Units map[Key]health.Unit
	// XIDs of each card by UUID, oldest first, since the boot or since it was mended; the last 64.
	XIDs map[string][]Sighting
	// Findings say what is wrong with the driver as a whole; empty if nothing is.
	Findings []Finding
	// Notices are Kubernetes events to emit, oldest first. Seq goes up by one each.
	Notices []Notice
}

// Key names a unit.
type Key struct {
	UUID string
	GI   int // -1 for the card itself
}

// Card is the key of a card.
func Card(uuid string) Key { return Key{uuid, -1} }

// Notice is a health.Notice with its number.
type Notice struct {
	Seq uint64
	health.Notice
}

// Allocatable tells whether a card or MIG device, by UUID, may be given to new pods: the
// driver is Usable, it is there and answers, and neither it nor the card it lies on is in
// trouble.
func (s State) Allocatable(uuid string) bool {
	if !s.Usable() {
		return false
	}
	if g, ok := s.Machine.GPU(uuid); ok {
		_, ill := s.Units[Card(uuid)]
		return g.Problem == nil && !ill
	}
	d, ok := s.Machine.MIGDevice(uuid)
	if !ok || d.Problem != nil || !s.Allocatable(d.Parent) {
		return false
	}
	_, ill := s.Units[Key{d.Parent, d.GI}]
	return !ill
}

// Inventory is the owner.
type Inventory struct {
	config   Config
	events   chan device.Event
	dropped  atomic.Bool
	commands chan func(*owner)
	kick     chan struct{} // the driver may be watched anew
	state    atomic.Pointer[State]
	ready    chan struct{}

	// lease is held by who lets the driver go and takes it again; released says that
	// somebody outside has it.
	lease    sync.Mutex
	released bool

	mu          sync.Mutex // guards subscribers
	subscribers map[chan struct{}]bool
}

// New makes an inventory that knows nothing yet.
func New(config Config) (*Inventory, error) {
	if config.Host == nil {
		return nil, errors.New("making the GPU inventory: no host source")
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	i := &Inventory{config: config, events: make(chan device.Event, maxEvents), commands: make(chan func(*owner)),
		kick: make(chan struct{}, 1), ready: make(chan struct{}), subscribers: map[chan struct{}]bool{}}
	i.state.Store(&State{})
	return i, nil
}

// Ready is closed when the machine has been read for the first time.
func (i *Inventory) Ready() <-chan struct{} { return i.ready }

// State is what is known now.
func (i *Inventory) State() State { return *i.state.Load() }

// Subscribe returns a channel that has something in it whenever State has changed since
// the last receive. Changes coalesce; nothing blocks on a slow reader.
func (i *Inventory) Subscribe(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	c <- struct{}{}
	i.mu.Lock()
	i.subscribers[c] = true
	i.mu.Unlock()
	context.AfterFunc(ctx, func() {
		i.mu.Lock()
		delete(i.subscribers, c)
		i.mu.Unlock()
	})
	return c
}

// Run keeps the state current until ctx ends.
func (i *Inventory) Run(ctx context.Context) error {
	o := &owner{Inventory: i, ctx: ctx, units: map[Key]health.Unit{}, xids: map[string][]Sighting{}, seen: map[sighting]seenAt{}, checking: map[visit]bool{}}
	o.recall()
	o.tasks.Go(func() {
		if err := i.config.Host.Watch(ctx, i.push); err != nil && ctx.Err() == nil {
			i.config.Log.Error("the bus and the kernel log are not watched: hot-plug and XIDs may go unnoticed", "err", err)
		}
	})
	if i.config.Driver != nil {
		o.tasks.Go(func() { i.watchDriver(ctx) })
	}
	o.read()
	for {
		select {
		case <-ctx.Done():
			o.tasks.Wait()
			o.write()
			return nil
		case e := <-i.events:
			o.event(e)
		case f := <-i.commands:
			f(o)
		case <-o.save:
			o.write()
		}
		if i.dropped.Swap(false) {
			o.read()
		}
		o.keep()
		o.publish()
	}
}

// push takes an event from a source; when the queue is full the machine is read instead.
func (i *Inventory) push(e device.Event) {
	select {
	case i.events <- e:
	default:
		i.dropped.Store(true)
	}
}

// watchDriver keeps the driver's events coming, once it has answered. A driver that has
// none, or does not work, is left alone until something changed: a node without GPUs
// starts no helper for them.
func (i *Inventory) watchDriver(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-i.kick:
	}
	wait := retryMin
	for ctx.Err() == nil {
		err := i.config.Driver.Watch(ctx, i.push)
		if ctx.Err() != nil {
			return
		}
		var later <-chan time.Time
		if again(err) {
			i.push(device.Event{Kind: device.EventChanged})
			later = time.After(wait)
			wait = min(2*wait, retryMax)
		}
		select {
		case <-ctx.Done():
		case <-later:
		case <-i.kick:
			wait = retryMin
		}
	}
}

// again tells whether events may come back by themselves.
func again(err error) bool {
	p, ok := errors.AsType[*device.Problem](err)
	return ok && (p.Code == device.CodeCrash || p.Code == device.CodeHang)
}

// do runs f in the owner and waits for it.
func (i *Inventory) do(ctx context.Context, f func(*owner)) error {
	done := make(chan struct{})
	select {
	case i.commands <- func(o *owner) { f(o); close(done) }:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// Refresh has the machine read again: before a decision that must not rest on what was
// changed behind our back (a MIG device given out, a container started). It returns when
// the state is at least as new as the call.
func (i *Inventory) Refresh(ctx context.Context) error {
	read := make(chan struct{})
	if err := i.do(ctx, func(o *owner) {
		o.waiters = append(o.waiters, read)
		o.read()
	}); err != nil {
		return err
	}
	select {
	case <-read:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Drained tells that no container holds a unit any more; it means something while the
// unit is Draining.
func (i *Inventory) Drained(ctx context.Context, k Key) error {
	return i.do(ctx, func(o *owner) { o.step(k, health.Input{Drained: true}) })
}

// Observe takes figures that were read for other reasons (a scrape), so that a remap that
// waits or a recovery action is noticed without asking for it.
func (i *Inventory) Observe(ctx context.Context, figures []device.Figures) error {
	return i.do(ctx, func(o *owner) {
		for _, f := range figures {
			if _, ok := o.machine.GPU(f.UUID); ok && f.Problem == nil && o.unit(Card(f.UUID)).State == health.Healthy {
				o.step(Card(f.UUID), health.Input{Checked: &health.Reading{Figures: f}})
			}
		}
	})
}

// Release lets go of the driver's device nodes (for a driver upgrade), Resume takes them
// again and reads the machine anew.
func (i *Inventory) Release(ctx context.Context) error {
	if i.config.Driver == nil {
		return nil
	}
	i.lease.Lock()
	defer i.lease.Unlock()
	i.released = true
	return i.config.Driver.Release(ctx)
}

// ResetCard resets a card that nobody holds, for a MIG mode that waits for it. The driver is
// let go meanwhile, and its events are asked for anew.
func (i *Inventory) ResetCard(ctx context.Context, g device.GPU) error {
	done := i.resetCard(ctx, g)
	i.poke()
	if done.Err != "" {
		return errors.New(done.Err)
	}
	return nil
}

// Resume ends what Release began.
func (i *Inventory) Resume(ctx context.Context) error {
	if i.config.Driver == nil {
		return nil
	}
	i.lease.Lock()
	i.released = false
	i.config.Driver.Resume()
	i.lease.Unlock()
	i.poke()
	return i.Refresh(ctx)
}

// Record writes down all that the machine answers now, with the last events: what
// `orch gpu record` saves. What a card does not say is left out.
func (i *Inventory) Record(ctx context.Context) (device.Recording, error) {
	if err := i.Refresh(ctx); err != nil {
		return device.Recording{}, err
	}
	rec := device.Recording{Version: device.RecordingVersion, Machine: i.State().Machine}
	if err := i.do(ctx, func(o *owner) { rec.Events = slices.Clone(o.last) }); err != nil {
		return rec, err
	}
	var cards []string
	for _, g := range rec.Machine.GPUs {
		if g.UUID != "" && g.Problem == nil {
			cards = append(cards, g.UUID)
		}
	}
	if i.config.Driver == nil || len(cards) == 0 {
		return rec, nil
	}
	var err error
	if rec.Figures, err = i.config.Driver.Figures(ctx, cards...); err != nil {
		return rec, err
	}
	rec.Processes, err = i.config.Driver.Processes(ctx, cards...)
	return rec, err
}

// poke lets watchDriver try again.
func (i *Inventory) poke() {
	select {
	case i.kick <- struct{}{}:
	default: // it will
	}
}

// clone copies a map of units for a State.
func clone(units map[Key]health.Unit) map[Key]health.Unit {
	out := maps.Clone(units)
	maps.DeleteFunc(out, func(_ Key, u health.Unit) bool { return u.State == health.Healthy })
	return out
}
