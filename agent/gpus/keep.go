package gpus

import (
	"context"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
	"orch/gpu/device"
	"orch/gpu/mps"
	"orch/gpu/share"
)

// Keeping is what Keep does with those who share cards.
type Keeping struct {
	// Ready is closed once it is known what GPUs there are.
	Ready <-chan struct{}
	// Lost has the daemons of MPS that ended.
	Lost <-chan Loss
	// Released has something in it when a pod gave its devices back.
	Released <-chan struct{}
	// ContainerOf is the ID of the container that a process belongs to, empty for none.
	ContainerOf func(pid int) string
	// Container says whose a container is.
	Container func(id string) (uid types.UID, name string, ok bool)
	// End kills a container; its status has reason and message.
	End func(uid types.UID, id, reason, message string)
	// Event tells of a pod.
	Event func(h devices.Holding, eventType, reason, message string)
}

// Loss is a daemon of MPS that ended.
type Loss struct {
	Service mps.Service
	Why     string
}

const (
	// lookEvery is how often memory is compared with shares, while there are any.
	lookEvery = time.Second
	// ReasonOverLimit is why a container ended that used more memory of a card than its share.
	ReasonOverLimit = "GPUMemoryLimitExceeded"
	// strikes are how many looks in a row find a container over its share before it is
	// ended: memory may be on its way back.
	strikes = 2
)

// Keep keeps containers within their parts of cards until ctx ends: it has the daemons of
// MPS run that are wanted, and ends who uses more memory than its share.
func (g *GPUs) Keep(ctx context.Context, k Keeping) error {
	select {
	case <-k.Ready:
	case <-ctx.Done():
		return nil
	}
	w := watchdog{GPUs: g, Keeping: k, over: map[string]int{}}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	ticks := ticker.C
	for {
		changed := g.Changed()
		if err := g.wantMPS(); err != nil && ctx.Err() == nil {
			g.config.Log.Warn("running MPS failed", "err", err)
		}
		if g.hasCut() {
			ticks = ticker.C
		} else {
			ticks = nil // an idle node is idle
		}
	wait:
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticks:
				w.look(ctx)
				continue
			case l := <-k.Lost:
				w.lost(l)
				continue
			case <-changed:
			case <-k.Released:
			case <-g.keep:
			}
			break wait
		}
	}
}

// pokeKeep has Keep look anew.
func (g *GPUs) pokeKeep() {
	select {
	case g.keep <- struct{}{}:
	default:
	}
}

// watchdog compares what is used with what was given; it belongs to one goroutine.
type watchdog struct {
	*GPUs
	Keeping
	over map[string]int // looks in a row, by container and card
}

// place is a container on a card.
type place struct {
	uid             types.UID
	container, card string
}

// look samples once.
func (w *watchdog) look(ctx context.Context) {
	limits, cards := w.given()
	if len(limits) == 0 {
		clear(w.over)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, scrapeLimit)
	defer cancel()
	processes, err := w.config.Guard.Processes(ctx, cards...)
	if err != nil && ctx.Err() == nil {
		w.config.Log.Debug("reading who uses GPUs failed", "err", err) // health has been told
	}
	used, pids := w.used(processes)
	over := map[string]int{}
	for at, bytes := range used {
		uid, name, ok := w.Container(at.id)
		if !ok {
			continue
		}
		a, shares := limits[place{uid, name, at.card}]
		if !shares || bytes <= allowance(a) {
			continue
		}
		key := at.id + " " + at.card
		if over[key] = w.over[key] + 1; over[key] == strikes {
			w.End(uid, at.id, ReasonOverLimit, fmt.Sprintf("container %s used %d MiB of GPU %s, its share is %d MiB (process %d)", name, bytes>>20, at.card, a.MemoryMiB, pids[at]))
		}
	}
	w.over = over
}

// allowance is how much may be used before it counts as more: a driver's figures come
// rounded, and memory that is given back is seen a little later.
func allowance(a share.Amount) uint64 {
	limit := uint64(a.MemoryMiB) << 20
	return limit + max(limit/20, 64<<20)
}

// given are the amounts of containers that are to be watched, and their cards.
func (w *watchdog) given() (map[place]share.Amount, []string) {
	out, seen := map[place]share.Amount{}, map[string]bool{}
	var cards []string
	for _, h := range w.config.Guard.Holdings() {
		cut := cutOf(h.IDs)
		if cut == nil || !w.watched(h.IDs) {
			continue
		}
		for card, a := range cut {
			out[place{h.UID, h.Container, card}] = a
			if !seen[card] {
				seen[card] = true
				cards = append(cards, card)
			}
		}
	}
	return out, cards
}

// at is a container, by ID, on a card.
type at struct{ id, card string }

// used sums the memory of containers, and names their largest process.
func (w *watchdog) used(processes []device.Process) (map[at]uint64, map[at]int) {
	sum, largest, pids := map[at]uint64{}, map[at]uint64{}, map[at]int{}
	seen := map[[2]any]bool{} // a process can stand in several of the driver's lists
	for _, p := range processes {
		if p.UsedBytes == nil || seen[[2]any{p.PID, p.UUID}] {
			continue
		}
		seen[[2]any{p.PID, p.UUID}] = true
		id := w.ContainerOf(p.PID)
		if id == "" {
			continue // one of the host's, or gone
		}
		k := at{id, p.UUID}
		sum[k] += *p.UsedBytes
		if *p.UsedBytes >= largest[k] {
			largest[k], pids[k] = *p.UsedBytes, p.PID
		}
	}
	return sum, pids
}

// lost tells the clients of a daemon that they are without one.
func (w *watchdog) lost(l Loss) {
	for _, h := range w.clientsOf(l.Service) {
		w.Event(h, core.EventTypeWarning, "MPSDaemonFailed", fmt.Sprintf("The MPS daemon of %s ended: %s. CUDA in container %s fails until the container starts again", l.Service.Key, l.Why, h.Container))
	}
}
