package iptables

import (
	"context"
	"fmt"
	"time"

	"orch/network/conntrack"
	"orch/network/rules"
)

// writer is the state of Run.
type writer struct {
	*Owner
	applied *rules.Ruleset // what we know to be in the kernel
	// full: we know nothing; write everything and clear leftovers.
	full     bool
	repaired time.Time
}

// step brings the kernel up to date once.
func (w *writer) step(ctx context.Context) error {
	want, seq, d := w.take()
	if want == nil {
		return nil
	}
	var b batch
	var err error
	switch {
	case w.full:
		b, err = w.everything(ctx, want)
	case d.none():
		b = diff(w.applied, want)
	default:
		if !pause(ctx, repairPause-time.Since(w.repaired)) {
			return nil
		}
		b, err = w.mend(ctx, want, d)
		w.repaired = time.Now()
	}
	if err != nil {
		return err
	}
	if err := w.write(ctx, b); err != nil {
		return err
	}
	if w.full {
		w.sweep(ctx, want)
	}
	first := w.full
	old := w.applied
	w.applied, w.full = want, false
	w.done(seq)
	w.forgetFlows(old, want, first)
	return nil
}

func (w *writer) write(ctx context.Context, b batch) error {
	if b.empty() {
		return nil
	}
	w.stats.writes.Add(1)
	for _, c := range b.write {
		w.stats.rules.Add(int64(len(c.Rules)))
	}
	if err := w.tool.apply(ctx, b.text()); err != nil {
		return err
	}
	select {
	case w.wrote <- struct{}{}:
	default:
	}
	return nil
}

// everything writes all chains and the jumps that are missing.
func (w *writer) everything(ctx context.Context, want *rules.Ruleset) (batch, error) {
	save, err := w.tool.dump(ctx)
	if err != nil {
		return batch{}, err
	}
	b := diff(rules.New(), want)
	b.jumps = parseState(save).missingJumps(want)
	return b, nil
}

// sweep removes chains of an earlier run, one run of the tool for all of them.
// A chain that somebody else still jumps to stays.
func (w *writer) sweep(ctx context.Context, want *rules.Ruleset) {
	save, err := w.tool.dump(ctx)
	if err == nil {
		err = w.write(ctx, batch{remove: parseState(save).stale(want, w.cfg.Stale)})
	}
	if err != nil && ctx.Err() == nil {
		w.cfg.Log.Warn("chains of an earlier run stay in the packet filter", "err", err)
	}
}

// mend is the batch for a change together with a repair. Chains that lost
// something are written as a whole.
func (w *writer) mend(ctx context.Context, want *rules.Ruleset, d damage) (batch, error) {
	b := diff(w.applied, want)
	written := make(map[rules.ID]bool, len(b.write))
	for _, c := range b.write {
		written[c.ID] = true
	}
	again := func(id rules.ID) {
		if c := want.Chains[id]; c != nil && !written[id] {
			written[id] = true
			b.write = append(b.write, c)
		}
	}
	for id := range d.chains {
		again(id)
	}
	for id := range want.Chains {
		if d.tables[id.Table] {
			again(id)
		}
	}
	// Jumps may be gone, and so may chains that nobody told us of; what is to be
	// removed may be gone too.
	if d.all || len(d.tables) > 0 || d.touchesJumps(want) || len(b.remove) > 0 {
		save, err := w.tool.dump(ctx)
		if err != nil {
			return batch{}, err
		}
		s := parseState(save)
		fix := s.repair(want)
		b.jumps = fix.jumps
		for _, c := range fix.write {
			again(c.ID)
		}
		kept := b.remove[:0]
		for _, id := range b.remove {
			if _, is := s.chains[id]; is {
				kept = append(kept, id)
			}
		}
		b.remove = kept
	}
	if !b.empty() {
		w.stats.repairs.Add(1)
		w.cfg.Log.Info("packet filter rules were deleted by others and are written again", "chains", len(b.write), "jumps", len(b.jumps))
	}
	return b, nil
}

func (d damage) touchesJumps(rs *rules.Ruleset) bool {
	for _, j := range rs.Jumps {
		if d.chains[rules.ID{Table: j.Table, Name: j.From}] {
			return true
		}
	}
	return false
}

// forgetFlows deletes tracked UDP flows to frontends whose backends changed and
// no longer have the one that the flow goes to. Everything is looked at after
// the first write: much may have happened while we were away.
func (w *writer) forgetFlows(old, now *rules.Ruleset, all bool) {
	changed := map[rules.Frontend]*rules.Backends{}
	for f, b := range now.UDP {
		if was, had := old.UDP[f]; all || !had || was != b {
			changed[f] = b
		}
	}
	for f := range old.UDP {
		if _, stays := now.UDP[f]; !stays {
			changed[f] = &rules.Backends{}
		}
	}
	if len(changed) == 0 {
		return
	}
	n, err := conntrack.Forget(w.cfg.NetNS, changed)
	w.stats.flows.Add(int64(n))
	if err != nil {
		w.cfg.Log.Warn("UDP clients may go on talking to endpoints that are gone", "err", fmt.Errorf("forgetting flows: %w", err))
	}
}
