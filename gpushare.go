package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/cgroup"
	"orch/agent/devices"
	"orch/agent/gpus"
	"orch/agent/pods"
	"orch/api/events"
	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/mps"
)

// cardSettings are what sharing changes of a card.
type cardSettings interface {
	SetComputeMode(ctx context.Context, card, mode string) error
	SetMemoryLimits(ctx context.Context, card, cgroup string, requestBytes, limitBytes uint64) error
}

// maxLosses bounds the daemons whose end waits to be told.
const maxLosses = 16

// guard puts together what keeps containers within their shares of cards.
func (g *nodeGPUs) guard(runDir string) (gpus.Guard, error) {
	c := mps.Config{
		Program: func() (mps.Program, error) { return g.provider.MPSProgram() }, Dir: filepath.Join(runDir, "mps"), Log: g.log,
		Changed: func() { g.provider.Tell() },
		Lost: func(s mps.Service, why string) {
			select {
			case g.lost <- gpus.Loss{Service: s, Why: why}:
			default: // the log has it
			}
		},
	}
	if g.config.MPSExclusive {
		c.Exclusive = func(ctx context.Context, card string, on bool) error {
			mode := "Default"
			if on {
				mode = "ExclusiveProcess"
			}
			return g.cards.SetComputeMode(ctx, card, mode)
		}
	}
	var err error
	if g.mps, err = mps.New(c); err != nil {
		return gpus.Guard{}, err
	}
	return gpus.Guard{
		MPS: g.mps, PartsByMPS: g.config.PartsByMPS, Processes: g.driver.Processes,
		Holdings: func() []devices.Holding { return g.devices.Holdings() },
		Claims:   func() map[types.UID]devices.Claim { return g.devices.Claims() },
		Limit: func(ctx context.Context, card, cgroup string, bytes uint64) error {
			return g.cards.SetMemoryLimits(ctx, card, cgroup, bytes, bytes)
		},
	}, nil
}

// keep keeps containers within their shares.
func (g *nodeGPUs) keep(ctx context.Context, recorder *events.Recorder, p *pods.Pods) error {
	return g.provider.Keep(ctx, gpus.Keeping{
		Ready: g.inventory.Ready(), Lost: g.lost, Released: g.unshared, End: p.End,
		ContainerOf: func(pid int) string {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			if err != nil {
				return "" // it is gone
			}
			return cgroup.ContainerOf(string(b))
		},
		Container: func(id string) (types.UID, string, bool) {
			for _, s := range p.List() {
				for _, c := range s.Containers {
					if c.ID == id {
						return s.Pod.UID, c.Name, true
					}
				}
			}
			return "", "", false
		},
		Event: func(h devices.Holding, eventType, reason, message string) {
			recorder.EventAt(core.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: h.Namespace, Name: h.Pod, UID: h.UID}, eventType, reason, message)
		},
	})
}

// replay plays a recorded machine. Who holds memory is read from the file again when that
// has changed: a person who tries things out writes it.
type replay struct {
	*fakenvml.Player
	path string

	mu   sync.Mutex // guards seen
	seen time.Time
}

// Processes of these cards, as the file says now.
func (r *replay) Processes(ctx context.Context, cards ...string) ([]device.Process, error) {
	if err := r.reread(); err != nil {
		return nil, err
	}
	return r.Player.Processes(ctx, cards...)
}

func (r *replay) reread() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	st, err := os.Stat(r.path)
	if err != nil || st.ModTime().Equal(r.seen) {
		return nil // it plays what it has
	}
	f, err := os.Open(r.path)
	if err != nil {
		return fmt.Errorf("reading the machine of --gpu-recording again: %w", err)
	}
	defer f.Close()
	rec, err := device.ReadRecording(f)
	if err != nil {
		return err
	}
	if !r.seen.IsZero() {
		r.SetProcesses(rec.Processes...)
	}
	r.seen = st.ModTime()
	return nil
}
