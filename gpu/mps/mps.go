// Package mps runs NVIDIA's Multi-Process Service for clients that share devices: a
// control daemon (nvidia-cuda-mps-control, of the driver's own files) for each set of
// devices that is shared so. It owns these processes and their folders: starts one when
// it is first wanted, sets and reads back its limits before anybody is told that it is
// ready, starts it again with back-off when it ends, and stops it when it is wanted no
// more. The daemons outlive orch, as their clients do; the next orch finds them by their
// pid files. It refuses to know who the clients are: what is wanted comes in as Services.
//
// The life of a daemon:
//
//	Want ──> starting ── answers, limits read back ──> ready ── Want without it ──> gone
//	            ^  │ fails: back-off                     │
//	            └──┴─────────────── it ended, Lost ──────┘
//
// Start reading at Daemons.Want; daemon.go is one daemon, process.go its process,
// control.go what is said to it.
package mps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Name of the control program, in the driver's files.
const Name = "nvidia-cuda-mps-control"

// Places in a container that is a client.
const (
	TargetPipe = "/mps/pipe"
	TargetLog  = "/mps/log"
	TargetShm  = "/dev/shm"
)

// Program is the control program, and what its environment needs to find the rest of
// the driver.
type Program struct {
	Path string
	Env  []string
}

// Service is what a daemon is to serve. Two with the same key are the same daemon; one
// that is wanted with other limits gets them while it runs.
type Service struct {
	// Key names the daemon's folder: a card's UUID, or a claim's.
	Key string
	// Devices are UUIDs of cards or MIG devices.
	Devices []string
	Limits
}

// Limits are what clients get that say nothing themselves.
type Limits struct {
	// ThreadPercent of the multiprocessors for each client; 0 sets none.
	ThreadPercent int
	// MemoryMiB that each client may pin of a device, in the order of Devices; nil, and
	// a 0 in it, set none.
	MemoryMiB []int64
}

// Config of Daemons.
type Config struct {
	// Program finds the control program; an error says what is missing.
	Program func() (Program, error)
	// Dir gets a folder for each daemon. It must not outlive a reboot.
	Dir string
	// Exclusive puts a device into the mode that only the daemon may use it, or back;
	// nil leaves the modes of cards as they are.
	Exclusive func(ctx context.Context, device string, on bool) error
	// Lost is told that a daemon ended that should not have: what its clients computed
	// is gone. It must not block; nil: nobody waits for it.
	Lost func(s Service, why string)
	// Changed is told that Status may answer anew, and must not block; nil likewise.
	Changed func()
	Log     *slog.Logger
}

// Places are a daemon's folders on the host.
type Places struct{ Pipe, Log, Shm string }

// Daemons are the control daemons of a node.
type Daemons struct {
	config Config

	mu      sync.Mutex // guards what follows; nothing is called while it is held
	daemons map[string]*daemon
	stopped bool
	wg      sync.WaitGroup
}

var keyForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// New checks the config. No process is started.
func New(c Config) (*Daemons, error) {
	if c.Program == nil || c.Dir == "" || c.Log == nil {
		return nil, errors.New("making the MPS daemons: the program, the directory or the log is missing")
	}
	return &Daemons{config: c, daemons: map[string]*daemon{}}, nil
}

// Run waits until ctx ends and lets go of the daemons; they go on.
func (d *Daemons) Run(ctx context.Context) error {
	<-ctx.Done()
	d.mu.Lock()
	d.stopped = true
	for _, one := range d.daemons {
		one.cancel()
	}
	d.mu.Unlock()
	d.wg.Wait()
	return nil
}

// Want makes these services the ones that run, and returns at once. Folders of daemons
// that a former orch started and that nobody wants are cleared too.
func (d *Daemons) Want(services []Service) error {
	for _, s := range services {
		if !keyForm.MatchString(s.Key) || len(s.Devices) == 0 {
			return fmt.Errorf("running MPS for %q: the name or the devices are missing", s.Key)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return context.Canceled
	}
	wanted := map[string]Service{}
	for _, s := range services {
		wanted[s.Key] = s
	}
	for key := range d.left() {
		if _, ok := wanted[key]; !ok && d.daemons[key] == nil {
			d.startLocked(Service{Key: key}).drop()
		}
	}
	for key, one := range d.daemons {
		if s, ok := wanted[key]; ok {
			one.want(s)
		} else {
			one.drop()
		}
	}
	for key, s := range wanted {
		if d.daemons[key] == nil {
			d.startLocked(s)
		}
	}
	return nil
}

// left are the keys of folders that are there.
func (d *Daemons) left() map[string]bool {
	entries, err := os.ReadDir(d.config.Dir)
	if err != nil {
		return nil
	}
	out := map[string]bool{}
	for _, e := range entries {
		if keyForm.MatchString(e.Name()) && e.IsDir() {
			out[e.Name()] = true
		}
	}
	return out
}

func (d *Daemons) startLocked(s Service) *daemon {
	ctx, cancel := context.WithCancel(context.Background())
	one := newDaemon(d.config, s, cancel)
	d.daemons[s.Key] = one
	d.wg.Go(func() {
		defer cancel()
		for one.run(ctx) {
			d.mu.Lock()
			over := one.over() // nobody asked for it again meanwhile
			if over {
				delete(d.daemons, s.Key)
			}
			d.mu.Unlock()
			if over {
				return
			}
		}
	})
	return one
}

// readyWait bounds how long Ready waits for a daemon to answer: driver and cards may
// have to wake up first.
const readyWait = 20 * time.Second

// Ready waits until the daemon answers and has its limits, and says where it is. The
// error says what it waits for.
func (d *Daemons) Ready(ctx context.Context, key string) (Places, error) {
	d.mu.Lock()
	one := d.daemons[key]
	d.mu.Unlock()
	if one == nil {
		return Places{}, fmt.Errorf("no MPS daemon is wanted for %s", key)
	}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		state, why, changed := one.look()
		if state == ready {
			if err := one.ping(ctx); err != nil {
				return Places{}, fmt.Errorf("the MPS daemon of %s does not answer: %w", key, err)
			}
			return one.places, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Places{}, fmt.Errorf("the MPS daemon of %s is not ready: %s", key, why)
		}
		if _, why, _ := one.look(); why != "" && why != notYet {
			return Places{}, fmt.Errorf("the MPS daemon of %s is not ready: %s", key, why)
		}
	}
}

// Serves tells whether a daemon is wanted under that key.
func (d *Daemons) Serves(key string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.daemons[key]
	return one != nil && !one.over()
}

// Status is one daemon's, for people.
type Status struct {
	Service
	Ready bool
	// Why says what is wrong with one that is not ready.
	Why string
}

// Status of all daemons that are wanted, in the order of their keys.
func (d *Daemons) Status() []Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Status
	for _, key := range slices.Sorted(maps.Keys(d.daemons)) {
		one := d.daemons[key]
		state, why, _ := one.look()
		if s, wanted := one.wanted(); wanted {
			out = append(out, Status{Service: s, Ready: state == ready, Why: why})
		}
	}
	return out
}

func (c Config) places(key string) Places {
	dir := filepath.Join(c.Dir, key)
	return Places{Pipe: filepath.Join(dir, "pipe"), Log: filepath.Join(dir, "log"), Shm: filepath.Join(dir, "shm")}
}
