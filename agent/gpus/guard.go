package gpus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
	"orch/agent/host"
	"orch/api"
	"orch/gpu/alloc"
	"orch/gpu/device"
	"orch/gpu/metrics"
	"orch/gpu/mps"
	"orch/gpu/share"
	pool "orch/gpu/slices"
)

// Guard is by what means those who share a card are kept within their shares. What is nil
// is not there; the zero value has MIG devices alone.
type Guard struct {
	// MPS runs the control daemons of clients that share cards so.
	MPS *mps.Daemons
	// PartsByMPS has MPS keep parts of cards, where the driver cannot.
	PartsByMPS bool
	// Claims are the ledger's.
	Claims func() map[types.UID]devices.Claim
	// Limit bounds what the processes of a cgroup, given as a folder, may hold of a card.
	Limit func(ctx context.Context, card, cgroup string, bytes uint64) error
	// Processes lists who holds memory of cards.
	Processes func(ctx context.Context, cards ...string) ([]device.Process, error)
	// Holdings are the ledger's.
	Holdings func() []devices.Holding
}

// part is what one id gives of a device that others may have a part of too.
type part struct {
	Device string
	share.Amount
	// mig: the device is one of its own. cut: the part was asked for by amounts. Else it is
	// one of so many replicas.
	mig, cut bool
}

// String says how much it is; a claim does not say.
func (p part) String() string {
	if p.Amount == (share.Amount{}) {
		return "a share"
	}
	return p.Amount.String()
}

// parts are those of a container; ids of whole cards are none.
func (g *GPUs) parts(m device.Machine, ids []string) []part {
	units, _ := alloc.Offer(m, g.config.Share)
	var out []part
	for _, id := range ids {
		uuid := alloc.DeviceOf(id)
		s, cut := alloc.ParseShare(id)
		d, mig := m.MIGDevice(uuid)
		switch {
		case cut:
			out = append(out, part{Device: uuid, Amount: s.Amount, cut: true})
		case id != uuid:
			of, all := int64(0), int64(0)
			for _, u := range units {
				if u.Device() == uuid {
					of, all = of+1, u.MemoryMiB
				}
			}
			p := part{Device: uuid}
			if of > 0 {
				p.Amount = share.Amount{MemoryMiB: all / of, CorePercent: 100 / of}
			}
			out = append(out, p)
		case mig:
			out = append(out, part{Device: uuid, Amount: share.Amount{MemoryMiB: int64(d.Kind.MemoryMiB)}, mig: true})
		}
	}
	return out
}

// level is the strongest that all of a container's parts can have.
func (g *GPUs) level(m device.Machine, parts []part) share.Level {
	var worst share.Level
	for _, p := range parts {
		means := share.Means{MIG: p.mig}
		switch {
		case p.mig:
		case p.cut:
			means = share.Means{Driver: g.limits(m, p.Device), MPS: g.config.Guard.PartsByMPS && len(parts) == 1 && g.servesByMPS(m, p.Device), Watchdog: g.config.Guard.Processes != nil && m.Tier == device.TierNVML}
		default:
			means.MPS = g.config.Share.Method == share.MPS && g.config.Guard.MPS != nil
		}
		worst = share.Weaker(worst, means.Best())
	}
	return worst
}

// limits tells whether the driver can bound what a cgroup holds of a card.
func (g *GPUs) limits(m device.Machine, card string) bool {
	c, ok := m.GPU(card)
	_, refused := g.refused.Load(card)
	return ok && c.MemoryLimits && g.config.Guard.Limit != nil && !refused
}

// servesByMPS tells whether MPS serves a device, or could: a daemon that runs goes on while
// the driver's files are being replaced.
func (g *GPUs) servesByMPS(m device.Machine, uuid string) bool {
	return g.config.Guard.MPS != nil && (g.config.Guard.MPS.Serves(mpsKey(uuid)) || g.mpsHere(m) == nil)
}

// mpsHere says why MPS cannot run on this node; nil if it can.
func (g *GPUs) mpsHere(m device.Machine) error {
	if g.config.Guard.MPS == nil {
		return errors.New("this node does not run MPS")
	}
	_, err := g.mpsProgram(m)
	return err
}

// guard is what a container gets beside its devices, so that it stays within its parts.
func (g *GPUs) guard(ctx context.Context, c host.DeviceHolder, ids []string) (host.DeviceEdits, error) {
	m := g.config.Look().Machine
	parts := g.parts(m, ids)
	out := host.DeviceEdits{}
	defer g.pokeKeep()
	// For libraries that a container may bring; nothing here depends on them.
	for i, p := range parts {
		if !p.cut {
			continue
		}
		out.Env = append(out.Env, core.EnvVar{Name: fmt.Sprintf("CUDA_DEVICE_MEMORY_LIMIT_%d", i), Value: fmt.Sprintf("%dm", p.MemoryMiB)})
		if p.CorePercent > 0 && i == 0 {
			out.Env = append(out.Env, core.EnvVar{Name: "CUDA_DEVICE_SM_LIMIT", Value: fmt.Sprint(p.CorePercent)})
		}
	}
	switch g.level(m, parts) {
	case share.ByDriver:
		out.Made = append(out.Made, func(ctx context.Context, cgroup string) error { return g.limit(ctx, parts, cgroup) })
	case share.ByMPS:
		if err := g.wantMPS(); err != nil {
			return out, err
		}
		more, err := g.mpsClient(ctx, c.Container, mpsKey(parts[0].Device))
		if err != nil {
			return out, err
		}
		if p := parts[0]; p.cut { // no more than this, and less if the pod says so itself
			more.Env = append(more.Env, core.EnvVar{Name: "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", Value: fmt.Sprintf("0=%dM", p.MemoryMiB)})
			if p.CorePercent > 0 {
				more.Env = append(more.Env, core.EnvVar{Name: "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", Value: fmt.Sprint(p.CorePercent)})
			}
		}
		out.Add(more)
	}
	return out, nil
}

// limit has the driver bound a container's cgroup. A driver that has the function and
// refuses the card is not asked again: the watchdog takes over.
func (g *GPUs) limit(ctx context.Context, parts []part, cgroup string) error {
	for _, p := range parts {
		err := g.config.Guard.Limit(ctx, p.Device, cgroup, uint64(p.MemoryMiB)<<20)
		bad, ok := errors.AsType[*device.Problem](err)
		if ok && (bad.Code == device.CodeNotSupported || bad.Code == device.CodeFunctionNotFound) {
			g.refused.Store(p.Device, true)
			g.config.Log.Warn("the driver does not limit memory by cgroup on this GPU; a watchdog does", "gpu", p.Device, "err", err)
			g.Tell()
			continue
		}
		if err != nil {
			return fmt.Errorf("limiting the memory of GPU %s to %d MiB: %w", p.Device, p.MemoryMiB, err)
		}
	}
	return nil
}

// PodConditions says what keeps the pod and its neighbours within their shares.
func (g *GPUs) PodConditions(held []devices.Holding) []core.PodCondition {
	m := g.config.Look().Machine
	if m.Tier == "" {
		return nil // not looked yet: what the status said before stays
	}
	var worst share.Level
	var sentences []string
	for _, h := range held {
		parts, level := g.keptOf(m, h)
		if len(parts) == 0 {
			continue
		}
		worst = share.Weaker(worst, level)
		for _, p := range parts {
			sentences = append(sentences, fmt.Sprintf("%s has %s of %s: %s", h.Container, p, p.Device, level.Keeps(p.Amount)))
		}
	}
	if worst == "" {
		return nil
	}
	c := core.PodCondition{Type: api.ConditionGPUShare, Status: core.ConditionTrue, Reason: string(worst), Message: strings.Join(sentences, ". ")}
	if worst == share.ByNothing {
		c.Status = core.ConditionFalse
	}
	return []core.PodCondition{c}
}

// keptOf are the parts that a holding has, and what keeps it within them.
func (g *GPUs) keptOf(m device.Machine, h devices.Holding) ([]part, share.Level) {
	switch {
	case h.Claim.Driver == pool.Driver && !h.Claim.Admin:
		if g.claimedByMPS(h) {
			return []part{{Device: h.IDs[0]}}, share.ByMPS
		}
	case !strings.HasPrefix(h.Name, share.Prefix):
		return nil, ""
	}
	parts := g.parts(m, h.IDs)
	return parts, g.level(m, parts)
}

// levelOf says what keeps a container within its parts; empty for one that has none.
func (g *GPUs) levelOf(ids []string) share.Level {
	m := g.config.Look().Machine
	return g.level(m, g.parts(m, ids))
}

// told is what one of a container's ids gives it in words, and what keeps it within that.
func (g *GPUs) told(ids []string, id string) (amount, enforced string) {
	m := g.config.Look().Machine
	parts := g.parts(m, []string{id})
	if len(parts) == 0 {
		return "", ""
	}
	return parts[0].Amount.String(), string(g.level(m, g.parts(m, ids)))
}

// shares counts the containers that have parts of devices, and those that nothing keeps within them.
func (g *GPUs) shares(held []devices.Holding) metrics.Shares {
	var out metrics.Shares
	for _, h := range held {
		switch _, level := g.keptOf(g.config.Look().Machine, h); level {
		case "":
		case share.ByNothing:
			out.Unenforced++
			fallthrough
		default:
			out.All++
		}
	}
	return out
}

// cutOf are the amounts that a container has, by card.
func cutOf(ids []string) map[string]share.Amount {
	var out map[string]share.Amount
	for _, id := range ids {
		if s, ok := alloc.ParseShare(id); ok {
			if out == nil {
				out = map[string]share.Amount{}
			}
			out[s.Card] = s.Amount
		}
	}
	return out
}

// hasCut tells whether somebody has parts by amounts that a watchdog is to look at.
func (g *GPUs) hasCut() bool {
	return g.config.Guard.Holdings != nil && slices.ContainsFunc(g.config.Guard.Holdings(), func(h devices.Holding) bool {
		return cutOf(h.IDs) != nil && g.watched(h.IDs)
	})
}

// watched tells whether the watchdog is what keeps a container, or stands behind what does.
func (g *GPUs) watched(ids []string) bool {
	l := g.levelOf(ids)
	return l == share.ByWatchdog || l == share.ByMPS
}
