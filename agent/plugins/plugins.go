// Package plugins is the kubelet's side of the device-plugin API v1beta1: programs of
// vendors register on a socket in a folder that they know, say which devices the node
// has, and what a container gets that holds some. It is a provider of devices
// (agent/devices), whose ledger alone decides who holds what. It owns the folder of the
// sockets and a file with the resources that it knows, so that after a restart those are
// not taken for mere numbers before their plugins are back. It refuses to wait for a
// plugin without a limit, and messages and lists beyond the bounds in limits.go.
//
// The life of a resource:
//
//	(unknown) --registers, lists--> served --last plugin gone--> lost --grace--> gone
//	                                  ^                            |               |
//	                                  +---------- registers, lists +---------------+
//
// A lost resource keeps its capacity, with nothing allocatable; one that is gone has a
// capacity of 0, unless another provider offers it. Start reading at Plugins, then
// resource.go (the states), registration.go (who comes in), connection.go (one plugin)
// and provider.go (what the ledger asks).
package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"orch/agent/devices"
	"orch/agent/host"
)

// Config of Plugins.
type Config struct {
	// Dir has the sockets: <root-dir>/device-plugins.
	Dir string
	// Path of the file with the resources that are known.
	Path string
	// Grace is how long a resource without a plugin stays; 0 is upstream's five minutes.
	Grace time.Duration
	// Native adds what the vendor's own container runtime would, for an answer that has
	// nothing but variables, meant for that runtime. It says false for resources that it
	// does not know. Nil: there is no such thing.
	Native func(ctx context.Context, c host.DeviceHolder, resource string, ids []string) (host.DeviceEdits, bool, error)
	// Served is told when plugins begin to serve a resource, and when they are gone for
	// good; not again after a restart. It must not block. Nil: nobody listens.
	Served func(resource string, serving bool)
	Log    *slog.Logger
}

// Plugins are the device plugins of others.
type Plugins struct {
	config Config
	limits limits

	mu        sync.Mutex // guards what follows; no plugin is called while it is held
	resources map[string]*resource
	changed   chan struct{}
	running   bool // Run has begun: timers may be set
}

var (
	_ devices.Provider = (*Plugins)(nil)
	_ devices.Preparer = (*Plugins)(nil)
	_ devices.Follower = (*Plugins)(nil)
)

// New reads which resources are known. Their plugins have to come back.
func New(c Config) (*Plugins, error) {
	if c.Dir == "" || c.Path == "" || c.Log == nil {
		return nil, errors.New("making the device plugins' side: a path or the log is missing")
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	p := &Plugins{config: c, limits: defaultLimits(), resources: map[string]*resource{}, changed: make(chan struct{})}
	p.recall()
	return p, nil
}

// Socket is where plugins register.
func (p *Plugins) Socket() string {
	return filepath.Join(p.config.Dir, filepath.Base(deviceplugin.KubeletSocket))
}

// Run serves the socket until ctx ends. A node whose folder cannot be used runs without
// plugins: all else on it has nothing to do with them.
func (p *Plugins) Run(ctx context.Context) error {
	listener, err := p.listen()
	if err != nil {
		p.config.Log.Error("device plugins cannot register", "err", err)
	}
	p.begin()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer p.end()
	defer cancel()
	if listener != nil {
		server := grpc.NewServer(grpc.MaxRecvMsgSize(maxRegistration), grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(p.limits.connect), grpc.WaitForHandlers(true))
		deviceplugin.RegisterRegistrationServer(server, &registration{Plugins: p, ctx: ctx, wg: &wg})
		wg.Go(func() {
			if err := server.Serve(listener); err != nil && ctx.Err() == nil {
				p.config.Log.Error("device plugins can register no more", "err", err)
			}
		})
		defer server.Stop()
	}
	<-ctx.Done()
	return nil
}

// listen makes the folder and the socket anew. Sockets of plugins go, as with upstream's
// CleanupPluginDirectory: plugins watch the folder, and begin again.
func (p *Plugins) listen() (net.Listener, error) {
	if err := os.MkdirAll(p.config.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the folder of device plugins: %w", err)
	}
	entries, err := os.ReadDir(p.config.Dir)
	if err != nil {
		return nil, fmt.Errorf("cleaning the folder of device plugins: %w", err)
	}
	for _, e := range entries {
		if e.Type() != fs.ModeSocket {
			continue
		}
		if err := os.Remove(filepath.Join(p.config.Dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cleaning the folder of device plugins: %w", err)
		}
	}
	l, err := net.Listen("unix", p.Socket())
	if err != nil {
		return nil, fmt.Errorf("listening for device plugins: %w", err)
	}
	return l, nil
}

// begin gives the plugins of known resources their time to come back.
func (p *Plugins) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = true
	for _, r := range p.resources {
		if r.state() == lost {
			p.expireLocked(r)
		}
	}
}

// end stops the timers.
func (p *Plugins) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	for _, r := range p.resources {
		if r.expiry != nil {
			r.expiry.Stop()
		}
	}
}

// Changed is closed when Offer may be another.
func (p *Plugins) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func (p *Plugins) tellLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}
