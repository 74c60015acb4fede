package inventory

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"orch/gpu/device"
	"orch/gpu/health"
)

// sighting is an error as one source tells it, to know it again when the other does.
type sighting struct {
	uuid string
	xid  uint64
}

type seenAt struct {
	at      time.Time
	fromLog bool
	pid     int
}

// visit is a unit's stay in a state: an answer to what was asked in it counts only there.
type visit struct {
	Key
	state    health.State
	attempts int
}

func (o *owner) visit(k Key) visit {
	u := o.unit(k)
	return visit{k, u.State, u.Attempts}
}

// event takes one event.
func (o *owner) event(e device.Event) {
	o.last = append(o.last, e)
	if len(o.last) > maxLast {
		o.last = slices.Clone(o.last[len(o.last)-maxLast:])
	}
	switch e.Kind {
	case device.EventChanged, device.EventOverflow, device.EventMIGConfig:
		o.read()
		return
	}
	g, ok := o.card(e)
	if !ok {
		o.config.Log.Warn("an event of a GPU that is not known; reading the machine again", "kind", e.Kind, "data", e.Data, "pci", e.PCI, "uuid", e.UUID)
		o.read()
		return
	}
	if o.repeated(g.UUID, e) {
		return
	}
	if e.Kind == device.EventXID {
		o.sight(g.UUID, e.Data)
	}
	k := Card(g.UUID)
	if e.GI != nil && g.MIG.Enabled() && (e.Kind != device.EventXID || health.Lookup(int(e.Data)).Contained) {
		k.GI = *e.GI
	}
	o.step(k, health.Input{Event: &e})
}

func (o *owner) card(e device.Event) (device.GPU, bool) {
	i := slices.IndexFunc(o.machine.GPUs, func(g device.GPU) bool {
		return g.UUID != "" && (g.UUID == e.UUID || e.UUID == "" && g.PCI.Address == e.PCI)
	})
	if i < 0 {
		return device.GPU{}, false
	}
	return o.machine.GPUs[i], true
}

// repeated tells whether the other source told of this error just now. The log knows
// whose process it was; if it comes second that is told alone.
func (o *owner) repeated(uuid string, e device.Event) bool {
	if e.Kind != device.EventXID {
		return false
	}
	now := time.Now()
	for s, at := range o.seen {
		if now.Sub(at.at) > sameError {
			delete(o.seen, s)
		}
	}
	s := sighting{uuid, e.Data}
	last, ok := o.seen[s]
	if !ok || last.fromLog == e.FromLog {
		o.seen[s] = seenAt{now, e.FromLog, e.PID}
		return false
	}
	if e.PID != 0 && last.pid == 0 {
		x := health.Lookup(int(e.Data))
		o.note(health.Notice{UUID: uuid, GI: e.GI, PID: e.PID, Type: "Warning", Reason: "GPUXid",
			Message: fmt.Sprintf("process %d (%s) is the one that met XID %d, %s", e.PID, e.Process, x.Number, x.Text)})
	}
	return true
}

func (o *owner) unit(k Key) health.Unit {
	if u, ok := o.units[k]; ok {
		return u
	}
	if k.GI >= 0 {
		return health.New(k.UUID, new(k.GI))
	}
	return health.New(k.UUID, nil)
}

// step feeds a unit and does what comes of it.
func (o *owner) step(k Key, in health.Input) {
	before := o.unit(k)
	u, d := health.Step(before, in, o.config.Policy, time.Now())
	for _, n := range d.Notices {
		o.note(n)
	}
	if !reflect.DeepEqual(before, u) {
		o.changed()
	}
	o.units[k] = u
	if before.State == health.Verifying && u.State == health.Healthy && k.GI < 0 {
		delete(o.xids, k.UUID) // of a card that is mended
	}
	if u.State == health.Healthy {
		delete(o.units, k)
		if before.State != health.Healthy {
			o.read() // what the machine says of it is of the time when it was ill
		}
	}
	switch d.Do {
	case health.DoCheck, health.DoVerify:
		var delay time.Duration
		if in.Found != nil {
			delay = checkDelay
		}
		o.check(k, d.Do == health.DoVerify, delay)
	case health.DoReset:
		o.reset(k)
	}
}

// check asks a unit how it is.
func (o *owner) check(k Key, idle bool, delay time.Duration) {
	g, _ := o.machine.GPU(k.UUID)
	about := o.visit(k)
	if o.checking[about] {
		return // the answer that is on its way will do
	}
	o.checking[about] = true
	o.task(func() func(*owner) {
		select {
		case <-time.After(delay):
		case <-o.ctx.Done():
		}
		r := o.ask(g, k, idle)
		return func(o *owner) {
			delete(o.checking, about)
			// What became of the unit meanwhile has been decided on newer facts.
			if o.visit(k) == about {
				o.step(k, health.Input{Checked: &r})
			}
		}
	})
}

// ask reads what a check needs. Without NVML nothing can be asked, and nothing is wrong.
func (o *owner) ask(g device.GPU, k Key, idle bool) health.Reading {
	r := health.Reading{Idle: idle}
	if o.config.Driver == nil {
		return r
	}
	figures, err := o.config.Driver.Figures(o.ctx, k.UUID)
	if err != nil {
		r.Problem = asProblem(err)
		return r
	}
	want := k.UUID
	for _, d := range g.MIGDevices() {
		if k.GI == d.GI {
			want = d.UUID
		}
	}
	for _, f := range figures {
		if f.UUID == want {
			r.Figures = f
		}
	}
	if !idle {
		return r
	}
	processes, err := o.config.Driver.Processes(o.ctx, k.UUID)
	if err != nil {
		r.Problem = asProblem(err)
	}
	r.Processes = health.Within(processes, k.GI)
	return r
}

// reset resets a card with the driver let go.
func (o *owner) reset(k Key) {
	o.resets++
	g, _ := o.machine.GPU(k.UUID)
	about := o.visit(k)
	var delay time.Duration
	if about.attempts > 1 { // what was in the way a moment ago still is
		delay = checkDelay
	}
	o.task(func() func(*owner) {
		select {
		case <-time.After(delay):
		case <-o.ctx.Done():
		}
		done := o.resetCard(o.ctx, g)
		return func(o *owner) {
			o.resets--
			if o.visit(k) == about {
				o.step(k, health.Input{Reset: &done})
			}
			o.poke()
			o.read()
		}
	})
}

func (i *Inventory) resetCard(ctx context.Context, g device.GPU) health.ResetDone {
	if i.config.Reset == nil {
		return health.ResetDone{Err: "this node has no way to reset a GPU", Unsupported: true}
	}
	if i.config.Driver != nil {
		i.lease.Lock()
		defer i.lease.Unlock()
		if !i.released {
			defer i.config.Driver.Resume()
		}
		if err := i.config.Driver.Release(ctx); err != nil {
			return health.ResetDone{Err: err.Error()}
		}
	}
	return i.config.Reset(ctx, g)
}

func (o *owner) note(n health.Notice) {
	o.seq++
	o.notices = append(o.notices, Notice{o.seq, n})
	if len(o.notices) > maxNotices {
		o.notices = slices.Clone(o.notices[len(o.notices)-maxNotices:])
	}
	o.dirty = true
}
