// Package iptables is the one owner of orch's rules in the kernel's packet
// filter: it puts a rules.Ruleset there by the host's iptables-restore, and keeps
// it there. Only what differs is written, every table in one transaction, and
// nothing that belongs to others is touched. It decides no rule. Start reading
// at Owner.Run.
//
// What others delete is written again within a second: with iptables-nft the
// kernel tells us who deleted what, with iptables-legacy the sizes of the tables
// are watched.
package iptables

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"orch/network/link"
	"orch/network/rules"
)

// Config of an Owner.
type Config struct {
	// NetNS is the path of the network namespace; empty: the process's own.
	NetNS string
	// Stale lists how names of chains begin that come and go; leftovers of an
	// earlier run are removed by it.
	Stale []string
	Log   *slog.Logger
}

// Owner holds the rules of one network namespace.
type Owner struct {
	cfg  Config
	tool *tool
	wake chan struct{} // room for one: there is something to do
	// wrote tells the legacy watcher that the sizes changed because of us.
	wrote chan struct{}
	stats stats

	mu      sync.Mutex // guards all below
	want    *rules.Ruleset
	wantSeq uint64
	doneSeq uint64
	changed chan struct{} // closed and replaced when doneSeq moves
	damage  damage
	lastErr error
}

type stats struct{ writes, rules, repairs, failures, flows atomic.Int64 }

// Stats counts since the start.
type Stats struct{ Writes, Rules, Repairs, Failures, Flows int64 }

// Stats returns the counters: runs of the tool, rules written, repairs after
// others, failed runs, and flows forgotten.
func (o *Owner) Stats() Stats {
	s := &o.stats
	return Stats{s.writes.Load(), s.rules.Load(), s.repairs.Load(), s.failures.Load(), s.flows.Load()}
}

// New finds the host's iptables; ErrMissing when there is none.
func New(cfg Config) (*Owner, error) {
	t, err := newTool(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Owner{cfg: cfg, tool: t, wake: make(chan struct{}, 1), wrote: make(chan struct{}, 1), changed: make(chan struct{})}, nil
}

// Backend is "nft" or "legacy".
func (o *Owner) Backend() string {
	if o.tool.nft {
		return "nft"
	}
	return "legacy"
}

// Set says what shall be in the kernel. It returns at once; Sync waits. Nobody
// may change rs afterwards.
func (o *Owner) Set(rs *rules.Ruleset) {
	o.mu.Lock()
	o.want = rs
	o.wantSeq++
	o.mu.Unlock()
	o.poke()
}

// Sync waits until what was Set last is in the kernel. When ctx ends first, the
// error says why writing fails, if it does.
func (o *Owner) Sync(ctx context.Context) error {
	o.mu.Lock()
	seq := o.wantSeq
	o.mu.Unlock()
	for {
		o.mu.Lock()
		done, changed := o.doneSeq >= seq, o.changed
		o.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.lastErr != nil {
				return o.lastErr
			}
			return ctx.Err()
		}
	}
}

func (o *Owner) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *Owner) damaged(d damage) {
	o.mu.Lock()
	o.damage.all = o.damage.all || d.all
	if o.damage.chains == nil {
		o.damage.chains = map[rules.ID]bool{}
		o.damage.tables = map[rules.Table]bool{}
	}
	maps.Copy(o.damage.chains, d.chains)
	maps.Copy(o.damage.tables, d.tables)
	o.mu.Unlock()
	o.poke()
}

const (
	// settle is how long a change waits for others to come along.
	settle = 3 * time.Millisecond
	// repairPause is between two repairs, so that two owners of the same names
	// don't busy the machine with each other.
	repairPause = 300 * time.Millisecond
	// breather is the longest rest after a write.
	breather   = 250 * time.Millisecond
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// Run writes until ctx ends. The rules stay: pods and Services work on while
// orch is away.
func (o *Owner) Run(ctx context.Context) error {
	if err := link.Forwarding(o.cfg.NetNS); err != nil {
		o.cfg.Log.Error("this host does not forward packets of pods", "err", err)
	}
	if err := link.Sysctl(o.cfg.NetNS, "net/ipv4/conf/all/route_localnet", "1"); err != nil {
		o.cfg.Log.Warn("node ports do not work on localhost", "err", err)
	}
	watcher := make(chan struct{})
	defer func() { <-watcher }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(watcher)
		o.watch(ctx)
	}()
	w := &writer{Owner: o, applied: rules.New(), full: true}
	retry := retryFirst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		}
		if !pause(ctx, settle) {
			return nil
		}
		started := time.Now()
		if err := w.step(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			o.stats.failures.Add(1)
			o.failed(err)
			if !w.full {
				// Others changed something under our hands: write everything, at once.
				w.full = true
				o.poke()
				continue
			}
			o.cfg.Log.Error("packet filter rules are not up to date", "err", err, "retry", retry)
			o.pokeAfter(ctx, retry)
			retry = min(2*retry, retryMost)
			continue
		}
		retry = retryFirst
		// Under load the machine does other work for as long as it did ours.
		if !pause(ctx, min(time.Since(started), breather)) {
			return nil
		}
	}
}

func (o *Owner) pokeAfter(ctx context.Context, d time.Duration) {
	t := time.AfterFunc(d, o.poke)
	context.AfterFunc(ctx, func() { t.Stop() })
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (o *Owner) watch(ctx context.Context) {
	for {
		var err error
		if o.tool.nft {
			err = watchNFT(ctx, o.tool, o.damaged)
		} else {
			err = watchLegacy(ctx, o.cfg.NetNS, o.wrote, o.damaged)
		}
		if ctx.Err() != nil {
			return
		}
		o.cfg.Log.Error("rules that others delete may stay away for a while", "err", err)
		if !pause(ctx, retryMost) {
			return
		}
		o.damaged(damage{all: true})
	}
}

func (o *Owner) failed(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lastErr = err
}

// done moves doneSeq and wakes those who Sync.
func (o *Owner) done(seq uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.doneSeq, o.lastErr = seq, nil
	close(o.changed)
	o.changed = make(chan struct{})
}

// take returns what to do and forgets the damage.
func (o *Owner) take() (want *rules.Ruleset, seq uint64, d damage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d, o.damage = o.damage, damage{}
	return o.want, o.wantSeq, d
}
