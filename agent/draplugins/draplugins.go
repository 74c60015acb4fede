// Package draplugins is the kubelet's side of dynamic resource allocation for drivers of
// others: programs that put a socket into a folder which they know, say which driver they
// are, and prepare the devices of claims on this node when they are asked. It owns the list of
// drivers that are there, and takes a driver's ResourceSlices of this node out of the API when
// it has been away for long. It refuses to know which pod uses which claim: that is agent/claims' matter.
//
// The life of a driver:
//
//	socket appears --says who it is--> registered --its endpoint answers--> usable
//	                                       ^                                  |
//	                                       +------------- goes away ----------+
//	                                       |
//	                                30 s away: its slices go
//
// Several instances of one driver may be there at once, as while it is updated: the newest one
// that answers is asked. Start reading at Plugins, then registry.go (the folder), register.go (who
// comes in), driver.go (what is asked of a driver) and slices.go.
package draplugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"orch/api/client"
)

const (
	// defaultGrace is upstream's: how long a driver may be away before its slices go.
	defaultGrace = 30 * time.Second
	// callTimeout is for one call, unless the driver asks for another time; upstream's.
	callTimeout = 45 * time.Second
	// infoTimeout is for a socket to say who it is.
	infoTimeout = 10 * time.Second

	// maxSockets and maxFolders of the registry are looked at; maxInfo bounds what a socket
	// says of itself, maxMessage an answer about claims (gRPC's own bound, which drivers know).
	// looksPerSecond is how often the registry is read at most.
	maxSockets     = 256
	maxFolders     = 64
	looksPerSecond = 10
	maxInfo        = 64 << 10
	maxMessage     = 4 << 20
)

// Config of Plugins.
type Config struct {
	// Dir is the folder of the sockets: <root-dir>/plugins_registry.
	Dir string
	// Node is this node's name, Client acts as it.
	Node   string
	Client *client.Client
	// Own is the driver inside orch, whose slices are left alone.
	Own string
	// Grace is how long a driver may be away before its slices go; 0 is upstream's 30 s.
	Grace time.Duration
	Log   *slog.Logger
}

// Plugins are the drivers of others.
type Plugins struct {
	config Config

	mu sync.Mutex // guards what follows; no driver is called while it is held
	// drivers has the instances of each, the latest last.
	drivers map[string][]*instance
	changed chan struct{}
}

// New checks the config.
func New(c Config) (*Plugins, error) {
	if c.Dir == "" || c.Node == "" || c.Client == nil || c.Log == nil {
		return nil, errors.New("making the side of DRA drivers: the folder, the node, the client or the log is missing")
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	return &Plugins{config: c, drivers: map[string][]*instance{}, changed: make(chan struct{})}, nil
}

// Run follows the folder until ctx ends. A node whose folder cannot be used runs without
// drivers of others: all else on it has nothing to do with them.
func (p *Plugins) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { p.sweep(ctx) })
	if err := p.follow(ctx); err != nil && ctx.Err() == nil {
		p.config.Log.Error("DRA drivers cannot register", "err", err)
	}
	wg.Wait()
	return nil
}

// Changed is closed when other drivers may be there than before; ask for it first.
func (p *Plugins) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func (p *Plugins) tellLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Registered tells whether an instance of the driver is there, even if it does not answer now.
func (p *Plugins) Registered(driver string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.drivers[driver]) > 0
}

// add takes an instance up. One cannot take over the endpoint of another.
func (p *Plugins) add(i *instance) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.drivers[i.driver] {
		if o.endpoint == i.endpoint {
			return fmt.Errorf("endpoint %s already registered for DRA driver plugin %s", i.endpoint, i.driver)
		}
	}
	p.drivers[i.driver] = append(p.drivers[i.driver], i)
	p.tellLocked()
	return nil
}

func (p *Plugins) remove(i *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var left []*instance
	for _, o := range p.drivers[i.driver] {
		if o != i {
			left = append(left, o)
		}
	}
	if p.drivers[i.driver] = left; len(left) == 0 {
		delete(p.drivers, i.driver)
	}
	p.tellLocked()
}

// connected notes whether the instance can be reached.
func (p *Plugins) connected(i *instance, is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i.connected == is {
		return
	}
	i.connected = is
	p.tellLocked()
}

// usable are the drivers of which an instance can be reached.
func (p *Plugins) usable() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]bool{}
	for name, list := range p.drivers {
		for _, i := range list {
			out[name] = out[name] || i.connected
		}
	}
	return out
}

// get is the instance to ask: the latest that can be reached, else the latest.
func (p *Plugins) get(driver string) (*instance, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.drivers[driver]
	for n := len(list) - 1; n >= 0; n-- {
		if list[n].connected {
			return list[n], nil
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("DRA driver %s is not registered", driver)
	}
	return list[len(list)-1], nil
}
