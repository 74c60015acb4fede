package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"orch/gpu/device"
	"orch/gpu/health"
)

// owner is what only the goroutine of Run touches. Readings, checks and resets take
// time: they are tasks that hand their result back as a command.
type owner struct {
	*Inventory
	ctx      context.Context
	tasks    sync.WaitGroup
	machine  device.Machine
	findings []Finding
	units    map[Key]health.Unit
	xids     map[string][]Sighting
	notices  []Notice
	last     []device.Event
	seq      uint64
	seen     map[sighting]seenAt

	checking map[visit]bool
	resets   int    // under way
	session  string // what the driver was opened for; gather's own

	known          bool // the machine was read once
	reading, again bool
	waiters, next  []chan struct{} // of the reading under way, of the one after it
	dirty          bool

	recalled *memory // what the file said, until the machine is known
	urgent   bool    // the file must be written before anything is told
	save     <-chan time.Time
}

// task runs f beside the owner and its result in it.
func (o *owner) task(f func() func(*owner)) {
	o.tasks.Go(func() {
		result := f()
		select {
		case o.commands <- result:
		case <-o.ctx.Done():
		}
	})
}

// read starts a reading, or notes that another one must follow the one under way: what
// caused it may have come too late for that.
func (o *owner) read() {
	if o.reading {
		o.again = true
		return
	}
	o.reading = true
	o.next, o.waiters = o.waiters, nil
	o.task(func() func(*owner) {
		host, driver := o.gather()
		return func(o *owner) { o.took(host, driver) }
	})
}

// gather asks both tiers. One gathers at a time.
func (o *owner) gather() (host, driver device.Machine) {
	host = o.prepare(o.host())
	if o.config.Driver == nil {
		return host, device.Machine{Problem: &device.Problem{Op: "start", Code: device.CodeNoHelper, Text: "this build carries no NVML helper"}}
	}
	if len(host.GPUs) == 0 && host.Module.State != device.ModuleLoaded && host.Driver.Library == "" {
		return host, device.Machine{Problem: &device.Problem{Code: device.CodeNoDevices}}
	}
	o.renew(host)
	m, err := o.config.Driver.Machine(o.ctx)
	if err != nil {
		m = device.Machine{Problem: asProblem(err)}
	}
	return host, m
}

// maxPrepare bounds how often one preparation may ask for the next: two modules, the nodes.
const maxPrepare = 4

// prepare makes what is missing, until nothing more is.
func (o *owner) prepare(host device.Machine) device.Machine {
	if o.config.Prepare == nil {
		return host
	}
	for range maxPrepare {
		changed, err := o.config.Prepare(o.ctx, host)
		if err != nil {
			o.config.Log.Error("preparing the NVIDIA driver failed", "err", err)
		}
		if !changed {
			break
		}
		host = o.host()
	}
	return host
}

// renew opens the driver anew when it, or the cards that it holds, are others than when
// it was opened: NVML counts cards once.
func (o *owner) renew(host device.Machine) {
	session := identity(host)
	for _, g := range host.GPUs {
		session += " " + g.PCI.Address + g.PCI.Driver
	}
	before := o.session
	o.session = session
	if before == "" || before == session {
		return
	}
	o.lease.Lock()
	defer o.lease.Unlock()
	if o.released {
		return
	}
	if err := o.config.Driver.Release(o.ctx); err != nil {
		o.config.Log.Error("closing the NVIDIA driver to open it anew failed", "err", err)
	}
	o.config.Driver.Resume()
}

func (o *owner) host() device.Machine {
	m, err := o.config.Host.Machine(o.ctx)
	if err != nil {
		m.Problem = asProblem(err)
	}
	return m
}

func asProblem(err error) *device.Problem {
	if p, ok := errors.AsType[*device.Problem](err); ok {
		return p
	}
	return &device.Problem{Code: device.CodeUnknown, Text: err.Error()}
}

// took takes a reading over. While the driver does not answer and is still the same one,
// what it said before stands: only that it does not answer is new.
func (o *owner) took(host, driver device.Machine) {
	o.reading = false
	silent := driver.Problem != nil && len(driver.GPUs) == 0
	if silent && o.resets > 0 && driver.Problem.Code == device.CodeStopped && o.known {
		o.waiters = append(o.waiters, o.next...)
		o.next = nil
		return // a card is being reset; the machine is read when that is over
	}
	m := Merge(host, driver)
	if silent && o.machine.Tier == device.TierNVML && identity(o.machine) == identity(host) {
		m = Merge(host, stale(o.machine, host))
		m.Problem = driver.Problem
	}
	remember(&m, o.machine)
	before := o.machine
	first := !o.known
	o.machine, o.known = m, true
	if first || !reflect.DeepEqual(before, m) {
		o.dirty = true
	}
	o.findings = Diagnose(m)
	if !first {
		o.compare(before, m)
	}
	if m.Tier == device.TierNVML && (first || identity(before) != identity(m) || len(before.GPUs) != len(m.GPUs) || before.Tier != m.Tier) {
		o.poke()
	}
	for _, g := range m.GPUs {
		if g.Problem != nil && g.UUID != "" {
			o.step(Card(g.UUID), health.Input{Found: g.Problem})
		}
	}
	o.resume()
	o.keep()
	o.publish()
	if first {
		close(o.Inventory.ready)
	}
	for _, w := range o.next {
		close(w)
	}
	o.next = nil
	if o.again {
		o.again = false
		o.read()
	}
}

// identity is what changes when a driver is loaded anew.
func identity(m device.Machine) string {
	return fmt.Sprint(m.Module.State, m.Module.Version, m.Module.Majors["nvidia-uvm"])
}

// compare tells of what came, went and changed between two readings.
func (o *owner) compare(before, now device.Machine) {
	if identity(before) != identity(now) && now.Module.State == device.ModuleLoaded {
		o.note(health.Notice{Type: "Normal", Reason: "GPUDriverChanged", Message: driverChanged(before, now)})
		for _, k := range sortedKeys(o.units) {
			o.step(k, health.Input{Renewed: true})
		}
	}
	for _, g := range before.GPUs {
		if _, ok := now.GPU(g.UUID); !ok && g.UUID != "" {
			o.note(health.Notice{UUID: g.UUID, Type: "Warning", Reason: "GPURemoved", Message: fmt.Sprintf("GPU %s (%s at %s) is gone", g.UUID, g.Name, g.PCI.Address)})
			o.forget(g.UUID)
		}
	}
	for _, g := range now.GPUs {
		old, ok := before.GPU(g.UUID)
		if !ok && g.UUID != "" {
			o.note(health.Notice{UUID: g.UUID, Type: "Normal", Reason: "GPUAdded", Message: fmt.Sprintf("GPU %s (%s at %s) is new", g.UUID, g.Name, g.PCI.Address)})
		}
		if ok && g.Problem == nil && old.Problem == nil && layout(old) != layout(g) {
			o.note(health.Notice{UUID: g.UUID, Type: "Normal", Reason: "MIGChanged", Message: fmt.Sprintf("GPU %s is partitioned as %s (was %s)", g.UUID, layout(g), layout(old))})
			o.forgetSlices(g)
		}
	}
}

func driverChanged(before, now device.Machine) string {
	s := fmt.Sprintf("NVIDIA driver %s is loaded", now.Module.Version)
	if before.Module.State == device.ModuleLoaded {
		s += fmt.Sprintf(" (was %s)", before.Module.Version)
	}
	if major := now.Module.Majors["nvidia-uvm"]; major != 0 && before.Module.Majors["nvidia-uvm"] != 0 && major != before.Module.Majors["nvidia-uvm"] {
		s += fmt.Sprintf("; the major of nvidia-uvm is %d (was %d)", major, before.Module.Majors["nvidia-uvm"])
	}
	return s
}

// layout is a card's partition in a word.
func layout(g device.GPU) string {
	if !g.MIG.Enabled() {
		return "one whole"
	}
	s := ""
	for _, d := range g.MIGDevices() {
		s += fmt.Sprintf(" %s@%d", d.Profile, d.Placement.Start)
	}
	if s == "" {
		return "nothing yet"
	}
	return s[1:]
}

// forget drops the units of a card that is gone.
func (o *owner) forget(uuid string) {
	for k := range o.units {
		if k.UUID == uuid {
			delete(o.units, k)
		}
	}
	delete(o.xids, uuid)
	o.changed()
}

// forgetSlices drops the units of GPU instances that are gone.
func (o *owner) forgetSlices(g device.GPU) {
	for k := range o.units {
		gone := func() bool {
			return g.MIG == nil || !slices.ContainsFunc(g.MIG.Instances, func(i device.GPUInstance) bool { return i.ID == k.GI })
		}
		if k.UUID == g.UUID && k.GI >= 0 && gone() {
			delete(o.units, k)
			o.changed()
		}
	}
}

// publish makes the state known if it changed.
func (o *owner) publish() {
	if !o.dirty {
		return
	}
	o.dirty = false
	old := o.state.Load()
	o.state.Store(&State{Revision: old.Revision + 1, Machine: o.machine, Units: clone(o.units), XIDs: maps.Clone(o.xids), Findings: o.findings, Notices: slices.Clone(o.notices)})
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.subscribers {
		select {
		case c <- struct{}{}:
		default: // it has not looked yet, and will see this too
		}
	}
}
