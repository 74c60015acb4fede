package gpus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"orch/agent/devices"
	"orch/gpu/device"
	pool "orch/gpu/slices"
)

// Dynamic makes MIG devices for claims, on cards whose mode is on. The scheduler then sees
// every device that a card could have; claims get those that are not there made when their pod comes,
// and taken away after the last one.
type Dynamic struct {
	Driver MIGDriver
	// Refresh has the machine read again.
	Refresh func(ctx context.Context) error
}

// unmade is the part of a device that is not there: its name, which is no UUID.
func unmade(part string) bool { return strings.HasPrefix(part, "gpu-") }

// making are the names of devices that claims hold and that are being made, or were when orch ended.
func (g *GPUs) making() map[string]bool {
	if g.config.Dynamic == nil || g.config.Guard.Holdings == nil {
		return nil
	}
	var out map[string]bool
	for _, h := range g.config.Guard.Holdings() {
		if h.Claimed() && unmade(h.IDs[0]) {
			if out == nil {
				out = map[string]bool{}
			}
			out[h.IDs[0]] = true
		}
	}
	return out
}

// unborn are the UUIDs of devices that were made for a claim which does not know yet: the
// ledger bars them by name only, so they are offered to nobody.
func (g *GPUs) unborn(v View) map[string]bool {
	names := g.making()
	if len(names) == 0 {
		return nil
	}
	out := map[string]bool{}
	for _, d := range pool.PoolOf(g.pool(v, nil)).Devices {
		if names[d.Name] && d.UUID != "" {
			out[d.UUID] = true
		}
	}
	return out
}

// made has those of a claim's devices that are not there, and says which are its own work.
func (g Claims) made(ctx context.Context, list []devices.ClaimDevice) ([]devices.ClaimDevice, []string, error) {
	var own []string
	list = slices.Clone(list)
	for i, d := range list {
		if !unmade(d.Part) {
			continue
		}
		uuid, err := g.make(ctx, d)
		if err != nil {
			return nil, nil, fmt.Errorf("making MIG device %s: %w", d.Device, err)
		}
		list[i].Part = uuid
		own = append(own, d.Device)
	}
	return list, own, nil
}

// make takes idle devices out of the way, which the claim holds back from others, and makes one.
func (g Claims) make(ctx context.Context, d devices.ClaimDevice) (string, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	v := g.config.Look()
	all := pool.PoolOf(g.pool(v, nil))
	want, ok := all.Device(d.Device)
	card, here := v.Machine.GPU(want.Card)
	profile, known := card.MIG.ProfileNamed(want.Profile)
	switch {
	case ok && want.UUID != "":
		return want.UUID, nil // before orch was killed
	case !ok || !here || !known || g.config.Dynamic == nil:
		return "", errors.New("the card does not offer it any more")
	}
	processes, err := g.config.Dynamic.Driver.Processes(ctx, card.UUID)
	if err != nil {
		return "", err
	}
	for _, gi := range card.MIG.Instances {
		if !gi.Placement.Overlaps(want.At) {
			continue
		}
		for _, ci := range gi.Compute {
			if !slices.Contains(d.Excludes, ci.UUID) {
				return "", fmt.Errorf("MIG device %s came to its place meanwhile", ci.UUID)
			}
		}
		if i := slices.IndexFunc(processes, func(p device.Process) bool { return p.GI != nil && *p.GI == gi.ID }); i >= 0 {
			return "", fmt.Errorf("process %d uses the MIG device in its place", processes[i].PID)
		}
		if err := g.config.Dynamic.Driver.DestroyInstance(ctx, card.UUID, gi.ID); err != nil {
			return "", errors.Join(err, g.config.Dynamic.Refresh(ctx))
		}
	}
	made, err := g.config.Dynamic.Driver.CreateInstance(ctx, card.UUID, profile.ID, &want.At)
	if err = errors.Join(err, g.config.Dynamic.Refresh(ctx)); err != nil {
		return "", err
	}
	if len(made.Compute) == 0 || made.Compute[0].UUID == "" {
		return "", errors.New("the driver made it, and does not say its UUID")
	}
	return made.Compute[0].UUID, nil
}

// unmake takes away what was made for a claim; also what orch could not write down before it was killed.
func (g Claims) unmake(ctx context.Context, list []devices.ClaimDevice, own []string) error {
	g.changing.Lock()
	defer g.changing.Unlock()
	if g.config.Dynamic == nil {
		return nil
	}
	v := g.config.Look()
	all := pool.PoolOf(g.pool(v, nil))
	changed := false
	for _, d := range list {
		uuid := d.Part
		if unmade(uuid) {
			found, _ := all.Device(d.Device)
			uuid = found.UUID
		} else if !slices.Contains(own, d.Device) {
			continue
		}
		part, ok := v.Machine.MIGDevice(uuid)
		if !ok {
			continue
		}
		if err := g.config.Dynamic.Driver.DestroyInstance(ctx, part.Parent, part.GI); err != nil {
			return fmt.Errorf("taking MIG device %s away: %w", d.Device, err)
		}
		changed = true
	}
	if !changed {
		return nil
	}
	return g.config.Dynamic.Refresh(ctx)
}

// excludes are what cannot be had beside a device: by UUID what is there, by name what could be.
func excludes(all pool.Pool, d pool.Device) []string {
	var out []string
	for _, other := range all.Devices {
		switch {
		case other.Name == d.Name || !d.Conflicts(other):
		case other.UUID != "":
			out = append(out, other.UUID)
		default:
			out = append(out, other.Name)
		}
	}
	if d.MIG { // also where the card itself is no device: its mode must stay
		out = append(out, d.Card)
	}
	return out
}
