package nvml

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"orch/gpu/device"
	"orch/gpu/nvml/wire"
)

// Machine reads everything the driver says. Each card is a call of its own, so that
// one that hangs or crashes the helper costs only itself.
func (c *Client) Machine(ctx context.Context) (device.Machine, error) {
	m := device.Machine{Tier: device.TierNVML}
	var s wire.System
	if err := c.call(ctx, "", wire.Request{Op: wire.OpSystem}, &s); err != nil {
		return m, err
	}
	m.Driver, m.Missing = s.Driver, s.Missing
	m.Driver.Root = c.config.Root
	c.mu.Lock()
	m.Driver.Library = c.library
	c.mu.Unlock()
	for i := range s.Count {
		g, err := c.card(ctx, i)
		if err != nil {
			return m, err
		}
		m.GPUs = append(m.GPUs, g)
	}
	for i := range m.GPUs {
		if len(m.GPUs) < 2 || m.GPUs[i].Problem != nil {
			continue
		}
		// A card that cannot say where it lies is still a card.
		if err := c.call(ctx, slot(i), wire.Request{Op: wire.OpPeers, Index: i}, &m.GPUs[i].Peers); err != nil && !isProblem(err) {
			return m, err
		}
	}
	m.Sort()
	return m, nil
}

// slot names a card before its UUID is known.
func slot(i int) string { return fmt.Sprintf("index %d", i) }

func isProblem(err error) bool {
	_, ok := errors.AsType[*device.Problem](err)
	return ok
}

// card asks one card. Its own problem is part of the answer; the driver's is an error.
func (c *Client) card(ctx context.Context, i int) (device.GPU, error) {
	var g device.GPU
	err := c.call(ctx, slot(i), wire.Request{Op: wire.OpCard, Index: i}, &g)
	if err == nil {
		return g, nil
	}
	bad, ok := errors.AsType[*device.Problem](err)
	if !ok || bad.Code == device.CodeStopped || bad.Code == device.CodeNoHelper {
		return g, err
	}
	return device.GPU{Index: i, Problem: bad}, nil
}

// Watch asks for events and hands them to each until ctx ends; an error says that
// events are over (the helper ended, or no card has any). One watcher at a time.
func (c *Client) Watch(ctx context.Context, each func(device.Event)) error {
	c.mu.Lock()
	c.each = each
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.each = nil
		c.mu.Unlock()
	}()
	var ok bool
	if err := c.call(ctx, "", wire.Request{Op: wire.OpWatch}, &ok); err != nil {
		return err
	}
	c.mu.Lock()
	p := c.proc
	c.mu.Unlock()
	if p == nil {
		return problem("watch", device.CodeCrash, "the helper ended")
	}
	select {
	case <-ctx.Done():
		return nil
	case <-p.done:
		return problem("watch", device.CodeCrash, "the helper ended")
	}
}

// Figures are the numbers of these cards, each followed by those of its MIG devices. A
// card that does not answer has a Problem.
func (c *Client) Figures(ctx context.Context, cards ...string) ([]device.Figures, error) {
	var out []device.Figures
	for _, card := range cards {
		var f []device.Figures
		err := c.call(ctx, card, wire.Request{Op: wire.OpFigures, UUID: card}, &f)
		if bad, ok := errors.AsType[*device.Problem](err); ok {
			f = []device.Figures{{UUID: card, Problem: bad}}
		} else if err != nil {
			return out, err
		}
		out = append(out, f...)
	}
	return out, nil
}

// Processes are those that hold memory of these cards. Cards that do not answer are
// left out, and their problems joined into the error beside what the others said.
func (c *Client) Processes(ctx context.Context, cards ...string) ([]device.Process, error) {
	var out []device.Process
	var problems error
	for _, card := range cards {
		var p []device.Process
		if err := c.call(ctx, card, wire.Request{Op: wire.OpProcesses, UUID: card}, &p); err != nil {
			problems = errors.Join(problems, fmt.Errorf("reading the processes of %s: %w", card, err))
			continue
		}
		out = append(out, p...)
	}
	return out, problems
}

// SetMIGMode turns partitioning of a card on or off; active tells whether it took
// effect at once or waits for a reset.
func (c *Client) SetMIGMode(ctx context.Context, card string, on bool) (active bool, err error) {
	err = c.call(ctx, card, wire.Request{Op: wire.OpMIGMode, UUID: card, On: on}, &active)
	return active, err
}

// CreateInstance makes a GPU instance of the profile at that placement (nil: where the
// driver likes) with compute instances of so many slices; without parts, with one that takes all of it.
func (c *Client) CreateInstance(ctx context.Context, card string, profileID int, at *device.Placement, parts ...int) (device.GPUInstance, error) {
	var gi device.GPUInstance
	err := c.call(ctx, card, wire.Request{Op: wire.OpCreate, UUID: card, Profile: profileID, At: at, Parts: parts}, &gi)
	return gi, err
}

// DestroyInstance removes a GPU instance and what is in it; one in use stays.
func (c *Client) DestroyInstance(ctx context.Context, card string, gi int) error {
	var ok bool
	return c.call(ctx, card, wire.Request{Op: wire.OpDestroy, UUID: card, GI: gi}, &ok)
}

// SetComputeMode sets a card's mode: "Default", "Prohibited" or "ExclusiveProcess" (what MPS wants).
func (c *Client) SetComputeMode(ctx context.Context, card, mode string) error {
	var ok bool
	return c.call(ctx, card, wire.Request{Op: wire.OpComputeMode, UUID: card, Mode: mode}, &ok)
}

// SetMemoryLimits bounds what the processes of a cgroup may hold of a card, where the
// driver can: GPU.MemoryLimits says so.
func (c *Client) SetMemoryLimits(ctx context.Context, card, cgroup string, requestBytes, limitBytes uint64) error {
	if strings.ContainsRune(cgroup, 0) {
		return problem("memory-limits", device.CodeInvalidArgument, "the name has a zero byte")
	}
	var ok bool
	return c.call(ctx, card, wire.Request{Op: wire.OpMemoryLimits, UUID: card, Namespace: cgroup, RequestBytes: requestBytes, LimitBytes: limitBytes}, &ok)
}
