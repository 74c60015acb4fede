// Package fair decides which of many requests runs next: fair queuing for server
// requests, as upstream's API Priority and Fairness has it. It is pure: time is an
// argument, nothing blocks, nothing is locked. A Set is one priority level; who holds
// it guards it. It knows nothing of HTTP, users or API objects.
//
// Seats are the currency: a request takes as many as its work is wide. Each queue has
// a virtual time at which its next request would start if all queues were served bit
// by bit in turn; the queue whose head would end first is served first. A flow is dealt
// a hand of queues and joins the one with the least work, so that flows that share one
// queue by chance seldom share all.
//
// Start reading at Set.Arrive, then dispatch; share.go divides seats between levels.
package fair

import (
	"math"
	"time"
)

// guess is how long a request is taken to run before it has: the queue is charged for
// it at the start and gets the difference back at the end.
const guess = 3 * time.Millisecond

// Config of a Set.
type Config struct {
	// Queues is 0 where what finds no seat is rejected at once.
	Queues, HandSize, QueueLength int
	// Exempt sets let everybody in and only count.
	Exempt bool
}

// Decision is what becomes of a request that arrives.
type Decision int

const (
	// Run: it has its seats.
	Run Decision = iota
	// Wait: it is in a queue; the Set calls start when its turn comes.
	Wait
	// QueueFull and NoSeats refuse.
	QueueFull
	NoSeats
)

// Request is one request in a Set. The caller fills the upper part; the Set owns the
// lower one.
type Request struct {
	// Seats are taken while it runs, FinalSeats for Linger after that.
	Seats, FinalSeats int
	Linger            time.Duration
	// Note is the caller's own.
	Note any

	// Arrived and Started are when it came and got its seats; zero if it has not.
	Arrived, Started time.Time

	queue      *queue // nil: dispatched without
	arrivalR   float64
	prev, next *Request // in the queue, then in the list of those that run
	waiting    bool
	done       bool
}

// Queued is how many wait in the queue that it is in or was in.
func (r *Request) Queued() int {
	if r.queue == nil {
		return 0
	}
	return r.queue.length
}

// width is the most seats it takes at any time.
func (r *Request) width() int { return max(r.Seats, r.FinalSeats, 1) }

// work is what a queue is charged for it, in seat-seconds.
func (r *Request) work() float64 {
	return float64(r.Seats)*guess.Seconds() + float64(r.FinalSeats)*r.Linger.Seconds()
}

// queue holds requests of some flows, oldest first.
type queue struct {
	index    int
	head     *Request
	tail     *Request
	length   int
	seats    int     // wanted by those that wait
	work     float64 // of those that wait
	running  int
	inUse    int     // seats of those that run or linger
	dispatch float64 // virtual time at which its next request starts
}

func (q *queue) active() bool { return q.length > 0 || q.running > 0 }

// Set is one priority level. Make it with New.
type Set struct {
	cfg   Config
	limit int
	// start is told of requests whose turn has come. It must not call the Set.
	start func(*Request)

	queues []*queue // more than cfg.Queues while those beyond drain
	r      float64  // seat-seconds given to each active queue since the Set was last idle
	synced time.Time
	deals  int
	robin  int
	active int // queues that are

	running *Request // newest first
	counts  Counts
	demand  Demand
}

// Counts are the numbers of a Set: gauges first, then totals.
type Counts struct {
	Waiting, Executing, SeatsInUse, SeatsWaiting    int
	Dispatched, Rejected, TimedOut, NoAccommodation int
}

// New makes a Set with so many seats.
func New(now time.Time, cfg Config, limit int, start func(*Request)) *Set {
	s := &Set{start: start, synced: now, limit: limit}
	s.demand.begin(now)
	s.configure(cfg)
	return s
}

// Configure changes queues and seats. Queues beyond a smaller number drain first.
func (s *Set) Configure(now time.Time, cfg Config, limit int) {
	s.sync(now)
	s.limit = limit
	s.configure(cfg)
	s.dispatch(now)
}

func (s *Set) configure(cfg Config) {
	s.cfg = cfg
	for len(s.queues) < cfg.Queues {
		s.queues = append(s.queues, &queue{index: len(s.queues)})
	}
	s.trim()
}

// trim drops queues beyond the wanted number that are idle, from the end.
func (s *Set) trim() {
	for n := len(s.queues); n > s.cfg.Queues && !s.queues[n-1].active(); n-- {
		s.queues = s.queues[:n-1]
	}
}

// Limit is the number of seats now.
func (s *Set) Limit() int { return s.limit }

// Counts are the numbers now.
func (s *Set) Counts() Counts { return s.counts }

// Idle tells whether nobody waits or runs.
func (s *Set) Idle() bool { return s.counts.Waiting == 0 && s.counts.SeatsInUse == 0 }

// Demand closes the period of seat demand that ends now and begins another.
func (s *Set) Demand(now time.Time) Period { return s.demand.reset(now) }

// R is the virtual time.
func (s *Set) R() float64 { return s.r }

// sync moves the virtual time on, by what the state since the last call allows.
func (s *Set) sync(now time.Time) {
	passed := now.Sub(s.synced).Seconds()
	if passed > 0 {
		s.synced = now
	}
	if s.active == 0 {
		s.r = 0 // nobody remembers it: keeps the numbers small
		return
	}
	if passed > 0 {
		wanted := s.counts.SeatsInUse + s.counts.SeatsWaiting
		s.r += passed * float64(min(wanted, s.limit)) / float64(s.active)
	}
}

// Arrive takes a request of the flow with that hash in, or refuses it.
func (s *Set) Arrive(now time.Time, hash uint64, r *Request) Decision {
	s.sync(now)
	r.Arrived = now
	if s.cfg.Exempt || s.cfg.Queues == 0 {
		if !s.cfg.Exempt && !s.fits(r) {
			s.counts.Rejected++
			return NoSeats
		}
		s.run(now, r)
		return Run
	}
	q := s.pick(hash)
	if s.counts.SeatsInUse >= s.limit && q.length >= s.cfg.QueueLength {
		s.counts.Rejected++
		return QueueFull
	}
	if !q.active() {
		q.dispatch = s.r
	}
	r.queue, r.arrivalR = q, s.r
	if s.counts.Waiting == 0 && s.counts.SeatsInUse < s.limit && s.fits(r) {
		if !q.active() {
			s.active++
		}
		s.charge(q, r)
		s.run(now, r)
		return Run
	}
	s.enqueue(q, r)
	s.dispatch(now)
	if !r.waiting {
		return Run
	}
	return Wait
}

// pick deals the flow its hand and takes the queue with the least work. The order of
// the look rotates, so that flows whose hands overlap do not all prefer one queue.
func (s *Set) pick(hash uint64) *queue {
	var cards [maxHand]int
	hand := deal(hash, s.cfg.Queues, s.cfg.HandSize, &cards)
	offset := s.deals % len(hand)
	s.deals++
	var best *queue
	least := math.Inf(1)
	for i := range hand {
		q := s.queues[hand[(offset+i)%len(hand)]]
		if q.work < least {
			best, least = q, q.work
		}
	}
	return best
}

// fits tells whether there are seats for r now. One that is wider than the whole level
// runs when it is alone.
func (s *Set) fits(r *Request) bool {
	if r.width() > s.limit {
		return s.counts.Executing == 0
	}
	return s.counts.SeatsInUse+r.width() <= s.limit
}

func (s *Set) enqueue(q *queue, r *Request) {
	if !q.active() {
		s.active++
	}
	r.waiting, r.prev, r.next = true, q.tail, nil
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.next = r
	}
	q.tail = r
	q.length++
	q.seats += r.width()
	q.work += r.work()
	s.counts.Waiting++
	s.counts.SeatsWaiting += r.width()
	s.demand.set(s.synced, float64(s.counts.SeatsInUse+s.counts.SeatsWaiting))
}

// dequeue takes r out of its queue, which may be left idle: the caller counts that.
func (s *Set) dequeue(r *Request) {
	q := r.queue
	if r.prev == nil {
		q.head = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		q.tail = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.waiting, r.prev, r.next = false, nil, nil
	q.length--
	q.seats -= r.width()
	q.work -= r.work()
	if q.length == 0 {
		q.work = 0 // sums of fractions do not come back to nothing by themselves
	}
	s.counts.Waiting--
	s.counts.SeatsWaiting -= r.width()
}

// charge moves the queue's next start behind r's work.
func (s *Set) charge(q *queue, r *Request) { q.dispatch += r.work() }

// run gives r its seats. Its queue is counted as active already.
func (s *Set) run(now time.Time, r *Request) {
	r.Started = now
	if q := r.queue; q != nil {
		q.running++
		q.inUse += r.width()
	}
	s.counts.Executing++
	s.counts.Dispatched++
	s.counts.SeatsInUse += r.width()
	if r.next = s.running; r.next != nil {
		r.next.prev = r
	}
	s.running = r
	s.demand.set(now, float64(s.counts.SeatsInUse+s.counts.SeatsWaiting))
}

// dispatch starts what may start: while the head of the queue that comes next fits.
func (s *Set) dispatch(now time.Time) {
	for s.counts.Waiting > 0 && s.counts.SeatsInUse < s.limit {
		q := s.next()
		r := q.head
		if !s.fits(r) {
			s.counts.NoAccommodation++
			return
		}
		s.dequeue(r)
		s.charge(q, r)
		s.bound(q)
		s.run(now, r)
		s.start(r)
	}
}

// next is the queue whose head would end first in virtual time; equals take turns.
func (s *Set) next() *queue {
	var best *queue
	least := math.Inf(1)
	at := s.robin
	for range s.queues {
		at = (at + 1) % len(s.queues)
		q := s.queues[at]
		if q.head == nil {
			continue
		}
		if end := q.dispatch + q.head.work(); end < least {
			best, least = q, end
		}
	}
	s.robin = best.index
	return best
}

// bound keeps a queue from saving up credit: its next request starts no earlier than it
// arrived.
func (s *Set) bound(q *queue) {
	if q.head != nil && q.dispatch < q.head.arrivalR {
		q.dispatch = q.head.arrivalR
	}
}

// Cancel takes a request that waits out of its queue. False: it has started meanwhile,
// and must be finished.
func (s *Set) Cancel(now time.Time, r *Request) bool {
	if !r.waiting {
		return false
	}
	s.sync(now)
	q := r.queue
	s.dequeue(r)
	s.bound(q)
	if !q.active() {
		s.active--
	}
	s.counts.Rejected++
	s.counts.TimedOut++
	s.demand.set(now, float64(s.counts.SeatsInUse+s.counts.SeatsWaiting))
	s.trim()
	s.dispatch(now)
	return true
}

// Finish takes note that r has run. True asks for Vacate after r.Linger: until then it
// keeps its seats.
func (s *Set) Finish(now time.Time, r *Request) (lingers bool) {
	s.sync(now)
	r.done = true
	s.counts.Executing--
	if q := r.queue; q != nil {
		q.dispatch -= float64(r.Seats) * (guess - now.Sub(r.Started)).Seconds()
		s.bound(q)
	}
	if r.FinalSeats > 0 && r.Linger > 0 {
		return true
	}
	s.vacate(now, r)
	return false
}

// Vacate frees the seats of a request that lingered.
func (s *Set) Vacate(now time.Time, r *Request) {
	s.sync(now)
	s.vacate(now, r)
}

func (s *Set) vacate(now time.Time, r *Request) {
	if r.prev == nil {
		s.running = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
	s.counts.SeatsInUse -= r.width()
	if q := r.queue; q != nil {
		q.running--
		q.inUse -= r.width()
		if !q.active() {
			s.active--
		}
	}
	s.demand.set(now, float64(s.counts.SeatsInUse+s.counts.SeatsWaiting))
	s.trim()
	s.dispatch(now)
}
