package plugins

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"orch/agent/devices"
)

// state of a resource; the drawing is in the package comment.
type state int

const (
	coming state = iota // registered, and nothing listed yet
	served
	lost
	gone
)

// resource is one name that plugins serve or served.
type resource struct {
	name string
	// connections are the plugins of this name, the newest last.
	connections []*connection
	// devices are those of the newest plugin that listed some, or the last ones known.
	devices []devices.Device
	// expired: no plugin came back within the grace.
	expired bool
	expiry  *time.Timer
	// since tells timers of earlier losses from that of this one.
	since int
}

func (r *resource) state() state {
	switch {
	case r.current() != nil:
		return served
	case r.expired:
		return gone
	case len(r.connections) > 0 && r.devices == nil:
		return coming
	}
	return lost
}

// current is the plugin that is asked: the newest that has listed its devices.
func (r *resource) current() *connection {
	for _, c := range slices.Backward(r.connections) {
		if c.listed != nil {
			return c
		}
	}
	return nil
}

// add makes a plugin known, in place of one at the same socket.
func (p *Plugins) add(c *connection) (replaced *connection, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.resources[c.resource]
	if r == nil {
		if len(p.resources) >= maxResources {
			return nil, errors.New("too many resources are registered")
		}
		r = &resource{name: c.resource}
		p.resources[c.resource] = r
	}
	if i := slices.IndexFunc(r.connections, func(o *connection) bool { return o.endpoint == c.endpoint }); i >= 0 {
		replaced = r.connections[i]
		r.connections = slices.Delete(r.connections, i, i+1)
	}
	if len(r.connections) >= maxConnections {
		return replaced, errors.New("too many plugins are registered for the resource " + c.resource)
	}
	r.connections = append(r.connections, c)
	p.refreshLocked(r)
	return replaced, nil
}

// list takes over what a plugin says that there is.
func (p *Plugins) list(c *connection, list []devices.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.resources[c.resource]
	if r == nil || !slices.Contains(r.connections, c) {
		return // replaced meanwhile
	}
	c.listed = list
	p.refreshLocked(r)
}

// remove forgets a plugin that is gone.
func (p *Plugins) remove(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.resources[c.resource]
	if r == nil {
		return
	}
	i := slices.Index(r.connections, c)
	if i < 0 {
		return
	}
	r.connections = slices.Delete(r.connections, i, i+1)
	if len(r.connections) == 0 && r.devices == nil && !r.expired {
		delete(p.resources, r.name) // it never had anything
		return
	}
	p.refreshLocked(r)
}

// refreshLocked brings a resource to what its plugins say now.
func (p *Plugins) refreshLocked(r *resource) {
	before, wasGone := r.devices, r.expired
	isNew := r.devices == nil
	if c := r.current(); c != nil {
		r.devices, r.expired = c.listed, false
		r.since++
		if r.expiry != nil {
			r.expiry.Stop()
			r.expiry = nil
		}
		if (isNew || wasGone) && p.config.Served != nil {
			p.config.Served(r.name, true)
		}
	} else if r.devices != nil && !r.expired {
		r.devices = lostOf(r.devices)
		if r.expiry == nil {
			p.expireLocked(r)
		}
	}
	if slices.EqualFunc(before, r.devices, sameDevice) && isNew == (r.devices == nil) && wasGone == r.expired {
		return
	}
	if wasGone != r.expired || !slices.EqualFunc(before, r.devices, sameThing) || isNew {
		p.remember()
	}
	p.tellLocked()
}

// expireLocked ends a lost resource after the grace.
func (p *Plugins) expireLocked(r *resource) {
	if !p.running {
		return
	}
	r.since++
	since := r.since
	r.expiry = time.AfterFunc(p.config.Grace, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.running || r.since != since || r.current() != nil {
			return
		}
		r.expired, r.devices, r.expiry = true, []devices.Device{}, nil
		p.config.Log.Info("a device plugin did not come back, its resource is gone", "resource", r.name)
		p.remember()
		p.tellLocked()
		if p.config.Served != nil {
			p.config.Served(r.name, false)
		}
	})
}

func lostOf(list []devices.Device) []devices.Device {
	out := slices.Clone(list)
	for i := range out {
		out[i].Healthy, out[i].Lost = false, true
	}
	return out
}

func sameDevice(a, b devices.Device) bool {
	return sameThing(a, b) && a.Healthy == b.Healthy && a.Lost == b.Lost
}

func sameThing(a, b devices.Device) bool { return a.ID == b.ID && slices.Equal(a.NUMA, b.NUMA) }

// knownVersion goes up when an older orch would misread the file.
const knownVersion = 1

// known is the file's form: the devices by resource; none of a resource that is gone.
type known struct {
	Version   int                      `json:"version"`
	Resources map[string][]knownDevice `json:"resources"`
}

type knownDevice struct {
	ID   string  `json:"id"`
	NUMA []int64 `json:"numa,omitempty"`
}

// recall reads the file. It is no ledger: without it the resources are known once their
// plugins are back.
func (p *Plugins) recall() {
	b, err := os.ReadFile(p.config.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var k known
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil || k.Version != knownVersion || len(k.Resources) > maxResources {
		p.config.Log.Warn("the file of known device plugins cannot be used", "path", p.config.Path, "version", k.Version, "err", err)
		return
	}
	for name, list := range k.Resources {
		r := &resource{name: name, expired: len(list) == 0, devices: []devices.Device{}}
		for _, d := range list {
			r.devices = append(r.devices, deviceOf(name, d.ID, d.NUMA))
		}
		r.devices = lostOf(r.devices)
		p.resources[name] = r
	}
}

// remember writes the file; the caller holds mu. A failure costs what recall says.
func (p *Plugins) remember() {
	k := known{Version: knownVersion, Resources: map[string][]knownDevice{}}
	for name, r := range p.resources {
		if r.devices == nil {
			continue
		}
		list := []knownDevice{}
		for _, d := range r.devices {
			list = append(list, knownDevice{d.ID, d.NUMA})
		}
		k.Resources[name] = list
	}
	b, err := json.Marshal(k)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(p.config.Path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(p.config.Path+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(p.config.Path+".tmp", p.config.Path)
	}
	if err != nil {
		p.config.Log.Warn("writing the file of known device plugins failed", "err", err)
	}
}
