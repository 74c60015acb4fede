// Package flow is API Priority and Fairness: it decides which requests run at once,
// which wait and which are refused, so that no client can starve another. It reads
// FlowSchemas (which request belongs to which level and which flow) and
// PriorityLevelConfigurations (how many seats a level has, what happens when they are
// taken), and keeps the objects that every cluster has of both. It refuses to know HTTP:
// the gate in server/rest asks Enter and calls Leave.
//
// The algorithm is in fair, pure; match.go finds the schema, plan.go turns objects into
// what Enter reads without a lock, borrow.go moves seats between levels, keep.go is the
// controller. Start reading at Control.Enter.
package flow

import (
	"context"
	"hash/maphash"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	flowcontrol "k8s.io/api/flowcontrol/v1"

	"orch/api/histogram"
	"orch/server/flow/fair"
)

// Seats of the whole server unless Config says else: upstream's 400 reads and 200 writes.
const defaultSeats = 600

// Waiting in a queue is bounded by a quarter of what the request has left, and by these.
const (
	longestWait = time.Minute
	usualWait   = 15 * time.Second // of requests without a deadline: watches
)

// Config of a Control. It is not changed after New.
type Config struct {
	// Seats are shared out among the levels; 0 means 600.
	Seats int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Control decides. Make it with New; until Spec's controller has run, everybody is
// under the two mandatory levels.
type Control struct {
	cfg  Config
	now  func() time.Time
	seed maphash.Seed
	// plan is replaced whole; what it points to of levels goes on.
	plan    atomic.Pointer[plan]
	watches watchers
	gauges  [2]kindGauge // reads, writes

	// mu is held while plan or the levels' seats change. Lock order: mu before level.mu.
	mu       sync.Mutex
	fraction float64
	armed    bool
	poke     chan struct{} // a level that nobody wants has become idle
	synced   chan struct{}
	once     sync.Once
}

// New makes a Control that has only the mandatory objects.
func New(cfg Config) *Control {
	if cfg.Seats == 0 {
		cfg.Seats = defaultSeats
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Control{cfg: cfg, now: cfg.Now, seed: maphash.MakeSeed(), poke: make(chan struct{}, 1), synced: make(chan struct{})}
	c.watches.counts = map[watchID]int{}
	c.digest(nil, nil)
	return c
}

// Synced closes once the stored objects are in force.
func (c *Control) Synced() <-chan struct{} { return c.synced }

// Request is what a request looks like from here.
type Request struct {
	User   string
	Groups []string
	// Verb as authorization knows it. Path is set, and Resource empty, for what is no
	// resource.
	Verb, Group, Version, Resource, Subresource, Namespace, Name, Path string
	// Lists and watches that begin with the present state say how much lies there.
	Listed bool
	Stored Stored
	Limit  int64
	// Writes are paid for by what their watchers make of them.
	Writes bool
}

// Stored is how much there is of a kind.
type Stored struct{ Objects, Bytes int64 }

// Ticket is a request's place. The zero value is none, and is left by doing nothing.
type Ticket struct {
	c      *Control
	level  *level
	schema *schema
	asked  Request
	seats  fair.Request
	ready  chan struct{} // closed when its turn comes; nil unless it had to wait
	left   bool
	// Waited is the time it spent in a queue.
	Waited time.Duration
	// RetryAfter is what a refused client is told, in seconds.
	RetryAfter int
}

// Headers tell the client whose rules it came under.
func (t *Ticket) Headers(h http.Header) {
	h["X-Kubernetes-Pf-Flowschema-Uid"] = t.schema.uid
	h["X-Kubernetes-Pf-Prioritylevel-Uid"] = t.level.uid.Load().([]string)
}

// Enter lets a request in, at once or after waiting; or refuses it. Who was let in must
// Leave. t is the caller's, so that it can lie within something else; it is not moved.
func (c *Control) Enter(ctx context.Context, q *Request, t *Ticket) (ok bool) {
	p := c.plan.Load()
	s := p.classify(q)
	l := s.level
	t.c, t.level, t.schema, t.asked = c, l, s, *q
	t.seats.Note = t
	now := c.now()
	most := int(l.most.Load())
	watched := t.measure(q, most)
	hash := uint64(0)
	if l.queued.Load() {
		hash = s.hash(c.seed, q)
	}

	l.mu.Lock()
	decision := l.set.Arrive(now, hash, &t.seats)
	l.note(t, decision, watched)
	l.measured(now)
	if decision == fair.Wait {
		t.ready = make(chan struct{})
	}
	l.mu.Unlock()

	switch decision {
	case fair.Run:
		c.gauges[kindOf(t.asked.Writes)].executing.add(1)
		return true
	case fair.Wait:
		c.arm()
		return t.wait(ctx)
	}
	c.arm()
	t.refused(now)
	return false
}

// wait is for the turn, the client's patience or ours, whichever is over first.
func (t *Ticket) wait(ctx context.Context) bool {
	gauge := &t.c.gauges[kindOf(t.asked.Writes)]
	gauge.waiting.add(1)
	defer gauge.waiting.add(-1)
	patience := usualWait
	if end, has := ctx.Deadline(); has {
		patience = end.Sub(t.seats.Arrived) / 4
	}
	timer := time.NewTimer(min(patience, longestWait))
	defer timer.Stop()
	select {
	case <-t.ready:
	case <-ctx.Done():
	case <-timer.C:
	}
	l, now := t.level, t.c.now()
	l.mu.Lock()
	gaveUp := l.set.Cancel(now, &t.seats)
	t.Waited = now.Sub(t.seats.Arrived)
	l.measured(now)
	if gaveUp {
		l.countsOf(t.schema).gaveUp(t)
	}
	l.mu.Unlock()
	if gaveUp {
		t.refused(now)
		return false
	}
	gauge.executing.add(1)
	return true
}

func (t *Ticket) refused(now time.Time) {
	t.left = true
	t.RetryAfter = t.level.drops.dropped(now.Unix())
}

// Leave gives the seats back. Calling it again does nothing: a watch leaves when it has
// begun, and the gate makes sure.
func (t *Ticket) Leave() {
	if t.left || t.c == nil {
		return
	}
	t.left = true
	t.c.gauges[kindOf(t.asked.Writes)].executing.add(-1)
	l, now := t.level, t.c.now()
	l.mu.Lock()
	lingers := l.set.Finish(now, &t.seats)
	l.countsOf(t.schema).left(t, now, lingers)
	l.measured(now)
	idle := l.set.Idle()
	l.mu.Unlock()
	if lingers {
		time.AfterFunc(t.seats.Linger, t.vacate)
		return
	}
	if idle && l.unwanted.Load() {
		t.c.wake()
	}
}

func (t *Ticket) vacate() {
	l := t.level
	now := t.c.now()
	l.mu.Lock()
	l.set.Vacate(now, &t.seats)
	l.measured(now)
	l.countsOf(t.schema).seats -= seatsOf(&t.seats)
	idle := l.set.Idle()
	l.mu.Unlock()
	if idle && l.unwanted.Load() {
		t.c.wake()
	}
}

// wake has the controller look again.
func (c *Control) wake() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// level is a priority level at work.
type level struct {
	name string
	spec *flowcontrol.PriorityLevelConfigurationSpec
	uid  atomic.Value // []string, as a header has it
	// most bounds a request's seats, 0 if the level does not say; queued tells whether
	// flows are told apart.
	most   atomic.Int64
	queued atomic.Bool
	// unwanted levels have no object any more and go when they are idle.
	unwanted atomic.Bool
	drops    drops

	mu     sync.Mutex
	set    *fair.Set
	counts map[string]*counts // by schema
	// nominal seats are what wanted, of its seats, is a part of; used is a part of those it has now.
	nominal      float64
	wanted, used *histogram.Timed
	// executing requests as a part of its seats, waiting ones as a part of room, what its
	// queues can hold.
	room               float64
	executing, waiting *histogram.Timed

	// Guarded by Control.mu.
	bounds bounds
	demand demand
}

// started is called with mu held: the turn of a request that waited.
func (l *level) started(r *fair.Request) {
	t := r.Note.(*Ticket)
	l.countsOf(t.schema).started(t)
	close(t.ready)
}
