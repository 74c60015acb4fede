package inventory

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"orch/gpu/device"
	"orch/gpu/health"
)

// memoryVersion goes up when an older orch would misread the file.
const memoryVersion = 1

const (
	// maxMemory and maxRecalled bound what is believed of a file.
	maxMemory   = 1 << 20
	maxRecalled = 1024
	// maxSightings is how many errors of a card are remembered, the last ones.
	maxSightings = 64
	// lately is how long an error counts as one of late, as with NVIDIA's exporter.
	lately = 5 * time.Minute
	// saveDelay gathers errors that change nothing but their count; saveAgain is
	// the wait after a disk that took nothing.
	saveDelay = time.Second
	saveAgain = 10 * time.Second
)

// Sighting is an XID that a card reported.
type Sighting struct {
	XID uint64    `json:"xid"`
	At  time.Time `json:"at"`
}

// memory is what outlives orch, but not a reboot: that mends a card, or shows anew that it
// is ill. A unit that is not in it is healthy.
type memory struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"`
	// Driver is the identity of the module; another one is another chance.
	Driver string                `json:"driver"`
	Units  []health.Unit         `json:"units,omitempty"`
	XIDs   map[string][]Sighting `json:"xids,omitempty"`
}

// readMemory returns an empty memory where there is no file.
func readMemory(path string) (m memory, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return memory{}, nil
	}
	if err != nil {
		return memory{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMemory))
	if err != nil {
		return memory{}, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return memory{}, err
	}
	if m.Version != memoryVersion {
		return memory{}, fmt.Errorf("it has version %d, this orch knows %d", m.Version, memoryVersion)
	}
	return m, m.check()
}

// check refuses what no orch wrote.
func (m memory) check() error {
	states := []health.State{health.Suspect, health.Draining, health.Resetting, health.Verifying, health.Failed}
	if len(m.Units) > maxRecalled || len(m.XIDs) > maxRecalled {
		return errors.New("it has more GPUs than a machine can have")
	}
	for _, u := range m.Units {
		if u.UUID == "" || !slices.Contains(states, u.State) || u.Attempts < 0 {
			return fmt.Errorf("unit %q cannot be in state %q after %d attempts", u.UUID, u.State, u.Attempts)
		}
	}
	return nil
}

// write puts the memory on the disk: the file is whole and new, or whole and old.
func (m memory) write(path string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// recall takes up what was known before orch was started again. A file that cannot be
// read is said, and all cards begin as healthy: what ails them shows again.
func (o *owner) recall() {
	if o.config.Memory == "" {
		return
	}
	m, err := readMemory(o.config.Memory)
	if err != nil {
		o.config.Log.Error("what was known of the GPUs' health is lost: the file cannot be read, and is begun anew", "file", o.config.Memory, "err", err)
		return
	}
	if m.Version == 0 || m.Boot != o.config.Boot {
		return
	}
	for _, u := range m.Units {
		if u.State == health.Resetting {
			// Whether the reset came to its end nobody knows. It counts, so that a reset that
			// ends orch is not tried for ever.
			u.State = health.Draining
		}
		o.units[keyOf(u)] = u
	}
	for uuid, list := range m.XIDs {
		o.xids[uuid] = list[max(0, len(list)-maxSightings):]
	}
	o.recalled = &m
}

func keyOf(u health.Unit) Key {
	if u.GI != nil {
		return Key{u.UUID, *u.GI}
	}
	return Card(u.UUID)
}

// resume goes on with what was under way, once the machine is known for the first time.
func (o *owner) resume() {
	if o.recalled == nil || o.machine.Tier != device.TierNVML && o.config.Driver != nil {
		return
	}
	renewed := o.recalled.Driver != identity(o.machine)
	o.recalled = nil
	for _, k := range sortedKeys(o.units) {
		u := o.units[k]
		g, there := o.machine.GPU(k.UUID)
		if there && k.GI >= 0 {
			there = g.MIG.Enabled() && slices.ContainsFunc(g.MIG.Instances, func(i device.GPUInstance) bool { return i.ID == k.GI })
		}
		switch {
		case !there:
			delete(o.units, k)
			o.changed()
		case renewed:
			o.step(k, health.Input{Renewed: true})
		case u.State == health.Suspect || u.State == health.Verifying:
			o.check(k, u.State == health.Verifying, 0)
		}
	}
	for uuid := range o.xids {
		if _, ok := o.machine.GPU(uuid); !ok {
			delete(o.xids, uuid)
			o.dirty = true
		}
	}
}

func sortedKeys(units map[Key]health.Unit) []Key {
	return slices.SortedFunc(maps.Keys(units), func(a, b Key) int { return cmp.Or(cmp.Compare(a.UUID, b.UUID), a.GI-b.GI) })
}

// sight remembers an XID.
func (o *owner) sight(uuid string, xid uint64) {
	list := append(slices.Clone(o.xids[uuid]), Sighting{xid, time.Now()})
	o.xids[uuid] = list[max(0, len(list)-maxSightings):]
	o.dirty = true
	if o.save == nil {
		o.save = time.After(saveDelay)
	}
}

// changed notes that a unit is another one, which must be on the disk before it is told.
func (o *owner) changed() { o.dirty, o.urgent = true, true }

// keep writes what changed, if it is time.
func (o *owner) keep() {
	if o.urgent {
		o.write()
	}
}

func (o *owner) write() {
	o.urgent, o.save = false, nil
	if o.config.Memory == "" || !o.known {
		return
	}
	m := memory{Version: memoryVersion, Boot: o.config.Boot, Driver: identity(o.machine), XIDs: o.xids}
	if o.recalled != nil {
		m.Driver = o.recalled.Driver // nobody has compared yet
	}
	for _, k := range sortedKeys(o.units) {
		m.Units = append(m.Units, o.units[k])
	}
	if err := m.write(o.config.Memory); err != nil {
		o.config.Log.Error("the GPUs' health cannot be kept: orch will not know it after a restart", "file", o.config.Memory, "err", err)
		o.save = time.After(saveAgain)
	}
}

// Lately counts the XIDs of a card that are recent, by number, and returns the last of all.
func (s State) Lately(uuid string, now time.Time) (last uint64, counts map[uint64]int) {
	list := s.XIDs[uuid]
	for _, x := range list {
		last = x.XID
		if now.Sub(x.At) > lately {
			continue
		}
		if counts == nil {
			counts = map[uint64]int{}
		}
		counts[x.XID]++
	}
	return last, counts
}
