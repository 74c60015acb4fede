package gpus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/devices"
	"orch/gpu/alloc"
	"orch/gpu/device"
	"orch/gpu/mig"
)

// Labels of a node by which its cards are partitioned, as NVIDIA's MIG manager has them.
const (
	LabelMIG      = "nvidia.com/mig.config"
	LabelMIGState = LabelMIG + ".state"
)

// States that LabelMIGState has.
const (
	MIGPending = "pending" // under way, or a pod is in the way
	MIGSuccess = "success"
	MIGFailed  = "failed" // nothing will happen before somebody changes something
)

// MIGDriver changes how cards are partitioned.
type MIGDriver interface {
	SetMIGMode(ctx context.Context, card string, on bool) (active bool, err error)
	CreateInstance(ctx context.Context, card string, profileID int, at *device.Placement, parts ...int) (device.GPUInstance, error)
	DestroyInstance(ctx context.Context, card string, gi int) error
	Processes(ctx context.Context, cards ...string) ([]device.Process, error)
}

// Partition is what MIG layouts need beside the provider.
type Partition struct {
	Driver MIGDriver
	File   mig.File
	// Ready is closed when the machine is known.
	Ready <-chan struct{}
	// Wish is the value of LabelMIG and the state that the node shows; wish is empty where
	// there is none. Wishes has something in it when that may be other.
	Wish   func() (wish, state string)
	Wishes <-chan struct{}
	// State sets LabelMIGState.
	State func(ctx context.Context, state string) error
	Event func(eventType, reason, message string)
	// Reserve keeps devices from being given, Holdings are those of the ledger, Promised those of
	// pods that were bound and are not in it yet.
	Reserve  func(parts []string) (release func(), held []devices.Holding)
	Holdings func() []devices.Holding
	Promised func() []devices.Holding
	// Refresh has the machine read again; Reset resets a card that nobody holds.
	Refresh func(ctx context.Context) error
	Reset   func(ctx context.Context, g device.GPU) error
	Planner Planner
}

// retryPartition is how long after a failure of the driver, or while a process that no pod
// accounts for is in the way, it is tried again.
const retryPartition = 30 * time.Second

// maxRounds bounds how often one card is planned anew: the mode, the instances, and a look.
const maxRounds = 4

// partitioner brings cards to the wished layout; it belongs to one goroutine.
type partitioner struct {
	*GPUs
	Partition
	// said is what was told last, so that it is told once.
	said string
	// vain is the wish and layout that the driver refused.
	vain string
	// told is what the planner said that the node could offer; shaped when it changed a card.
	told          map[string]int
	toldPotential bool
	shaped        map[string]time.Time
	// again: this is another try of what failed, and nothing else has changed.
	again bool
}

// outcome is what became of a wish.
type outcome struct {
	state, reason, message string
	retry                  bool
}

// Partition keeps the cards as the node's label wishes, until ctx ends: when the label or
// what is known changes, and when released has something in it.
func (g *GPUs) Partition(ctx context.Context, c Partition, released <-chan struct{}) error {
	p := partitioner{GPUs: g, Partition: c}
	select {
	case <-ctx.Done():
		return nil
	case <-c.Ready:
	}
	var again <-chan time.Time
	for {
		changed := g.Changed()
		retry, err := p.once(ctx)
		if err != nil && ctx.Err() == nil {
			g.config.Log.Warn("partitioning GPUs failed", "err", err)
		}
		again, p.again = nil, false
		if retry || err != nil {
			again = time.After(retryPartition)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-released:
		case <-c.Wishes:
		case <-again:
			p.vain, p.again = "", true
		}
	}
}

// once does what can be done now, and tells what became of it.
func (p *partitioner) once(ctx context.Context) (retry bool, err error) {
	wish, shown := p.Wish()
	if wish == "" {
		p.said, p.vain = "", ""
		return p.demanded(ctx)
	}
	if p.Planner.Demand != nil {
		if err := p.potential(ctx, nil); err != nil {
			return false, err
		}
	}
	key := p.key(wish)
	if key == p.vain {
		return true, nil // nothing is other than when the driver refused it
	}
	layouts, err := mig.Wish(p.File, wish, p.config.Look().Machine)
	o := outcome{state: MIGSuccess, reason: "MIGConfigured", message: "the GPUs are partitioned as " + wish}
	if err != nil {
		o = outcome{state: MIGFailed, reason: "MIGConfigInvalid", message: err.Error()}
	} else if len(p.todo(layouts)) > 0 {
		o = p.all(ctx, wish, layouts, &shown)
	}
	if ctx.Err() != nil {
		return false, nil
	}
	p.vain = ""
	if o.retry && o.state == MIGFailed {
		p.vain = p.key(wish)
	}
	return o.retry, p.tell(ctx, o, shown)
}

// key names a wish and what it meets.
func (p *partitioner) key(wish string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v", wish, p.Holdings())
	for _, g := range p.config.Look().Machine.GPUs {
		fmt.Fprintf(&b, " %s", g.UUID)
		if g.MIG != nil {
			fmt.Fprintf(&b, " %v", g.MIG.Mode)
			for _, i := range g.MIG.Instances {
				fmt.Fprintf(&b, " %d:%d:%v", i.ID, i.ProfileID, i.Placement)
			}
		}
	}
	return b.String()
}

// todo are the plans that are not empty.
func (p *partitioner) todo(layouts map[string]mig.Layout) (out []mig.Plan) {
	m := p.config.Look().Machine
	held := p.held()
	for _, g := range m.GPUs {
		want, ok := layouts[g.UUID]
		if !ok || g.Problem != nil {
			continue
		}
		plan, err := mig.For(g, want, held)
		if err != nil { // the card became another one meanwhile
			plan.Blocked = err.Error()
		}
		if plan.Blocked != "" || len(plan.Steps) > 0 {
			out = append(out, plan)
		}
	}
	return out
}

// held says of devices who holds them, or is about to.
func (p *partitioner) held() mig.Held {
	out := mig.Held{}
	for _, h := range slices.Concat(p.Promised(), p.Holdings()) {
		for _, id := range h.IDs {
			out[alloc.DeviceOf(id)] = h.Holder()
		}
	}
	return out
}

// all brings every card as far as it goes; one that is blocked or fails leaves the others.
func (p *partitioner) all(ctx context.Context, wish string, layouts map[string]mig.Layout, shown *string) outcome {
	if *shown != MIGPending && !(p.again && *shown == MIGFailed) { // a node's label does not flap while a driver refuses
		if err := p.State(ctx, MIGPending); err != nil {
			return outcome{state: MIGFailed, reason: "MIGConfigFailed", message: err.Error(), retry: true}
		}
		*shown = MIGPending
	}
	var blocked, failed []string
	retry := false
	for _, plan := range p.todo(layouts) {
		why, err := p.card(ctx, plan.Card, layouts)
		if err != nil {
			failed, retry = append(failed, err.Error()), true
		} else if why.text != "" {
			blocked, retry = append(blocked, why.text), retry || why.process
		}
	}
	switch {
	case len(failed) > 0:
		return outcome{MIGFailed, "MIGConfigFailed", "partitioning the GPUs as " + wish + ": " + strings.Join(append(failed, blocked...), "; "), true}
	case len(blocked) > 0:
		return outcome{MIGPending, "MIGConfigWaits", "partitioning the GPUs as " + wish + " waits: " + strings.Join(blocked, "; "), retry}
	}
	return outcome{state: MIGSuccess, reason: "MIGConfigured", message: "the GPUs are partitioned as " + wish}
}

// obstacle is what a card waits for; process: no pod's end will be told.
type obstacle struct {
	text    string
	process bool
}

// card does a card's plan, and plans anew, until nothing is left to do.
func (p *partitioner) card(ctx context.Context, uuid string, layouts map[string]mig.Layout) (obstacle, error) {
	for range maxRounds {
		plans := p.todo(map[string]mig.Layout{uuid: layouts[uuid]})
		if len(plans) == 0 || plans[0].Blocked != "" {
			if len(plans) == 0 {
				return obstacle{}, nil
			}
			return obstacle{text: plans[0].Blocked}, nil
		}
		release, holders := p.Reserve(plans[0].Parts)
		if release == nil {
			return obstacle{text: fmt.Sprintf("%s holds %s", holders[0].Holder(), strings.Join(holders[0].IDs, ", "))}, nil
		}
		why, err := p.steps(ctx, plans[0])
		// What was done counts only once it is known; the devices stay reserved until then.
		err = errors.Join(err, p.Refresh(ctx))
		release()
		if err != nil || why.text != "" {
			return why, err
		}
	}
	return obstacle{}, fmt.Errorf("GPU %s: the driver did what it was asked, and the card is not as it should be", uuid)
}

// steps does a plan.
func (p *partitioner) steps(ctx context.Context, plan mig.Plan) (obstacle, error) {
	processes, err := p.Driver.Processes(ctx, plan.Card)
	if err != nil {
		return obstacle{}, fmt.Errorf("GPU %s: %w", plan.Card, err)
	}
	for _, s := range plan.Steps {
		if i := slices.IndexFunc(processes, func(q device.Process) bool { return inTheWay(q, s) }); i >= 0 {
			return obstacle{fmt.Sprintf("process %d, which belongs to no pod that asked for it, uses GPU %s", processes[i].PID, plan.Card), true}, nil
		}
	}
	for _, s := range plan.Steps {
		if err := p.step(ctx, plan.Card, s); err != nil {
			return obstacle{}, fmt.Errorf("GPU %s: %s: %w", plan.Card, s, err)
		}
	}
	return obstacle{}, nil
}

func inTheWay(q device.Process, s mig.Step) bool {
	switch s.Op {
	case mig.Create:
		return false
	case mig.Destroy:
		return q.GI != nil && *q.GI == s.GI
	}
	return true
}

func (p *partitioner) step(ctx context.Context, card string, s mig.Step) error {
	switch s.Op {
	case mig.Destroy:
		return p.Driver.DestroyInstance(ctx, card, s.GI)
	case mig.Create:
		_, err := p.Driver.CreateInstance(ctx, card, s.Profile.ID, &s.At, s.Parts...)
		return err
	}
	active, err := p.Driver.SetMIGMode(ctx, card, s.Op == mig.Enable)
	if err != nil || active {
		return err
	}
	g, _ := p.config.Look().Machine.GPU(card)
	if err := p.Reset(ctx, g); err != nil {
		return fmt.Errorf("the mode changes with the next reset of the card, and that failed: %w; stop what uses the card (nvidia-persistenced, monitoring), or reboot the node", err)
	}
	return nil
}

// tell sets the node's state and says an event, if they are other than before.
func (p *partitioner) tell(ctx context.Context, o outcome, shown string) error {
	if o.state != shown {
		if err := p.State(ctx, o.state); err != nil {
			return fmt.Errorf("labelling the node %s=%s: %w", LabelMIGState, o.state, err)
		}
	}
	if text := o.state + o.message; text != p.said {
		if p.said != "" || o.state != MIGSuccess || shown != MIGSuccess { // all well since before the start: no news
			kind := core.EventTypeNormal
			if o.state == MIGFailed {
				kind = core.EventTypeWarning
			}
			p.Event(kind, o.reason, o.message)
		}
		p.said = text
	}
	return nil
}
