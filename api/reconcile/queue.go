package reconcile

import (
	"container/heap"
	"sync"
	"time"

	"orch/api/histogram"
)

// queue holds the keys of one controller. A key is in at most one of ready and
// running, so no two workers ever have the same key:
//
//	add ──> ready ──take──> running ──finish──> gone, later, or ready again
//	          ^                │ add while running: again
//	          └──── later <────┘ (one timer for the whole heap)
//
// It is bounded by the number of objects that exist: a key is there once.
type queue struct {
	mu      sync.Mutex
	wake    *sync.Cond        // on mu: ready grew, or closed
	ready   []Key             // in order of arrival
	queued  map[Key]time.Time // since when
	running map[Key]run
	later   timers
	timer   *time.Timer // fires for later[0]; nil until first used
	closed  bool
	added   uint64
	waited  *histogram.Histogram
}

// run is a key being worked on.
type run struct {
	since time.Time
	again bool // changed meanwhile, look again
}

func newQueue() *queue {
	q := &queue{queued: map[Key]time.Time{}, running: map[Key]run{}, later: timers{at: map[Key]*alarm{}}, waited: histogram.New(queueBounds)}
	q.wake = sync.NewCond(&q.mu)
	return q
}

func (q *queue) add(keys ...Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, k := range keys {
		q.addLocked(k)
	}
}

func (q *queue) addLocked(k Key) {
	if _, waits := q.queued[k]; q.closed || waits {
		return
	}
	if r, busy := q.running[k]; busy {
		q.running[k] = run{r.since, true}
		return
	}
	q.queued[k] = time.Now()
	q.added++
	q.ready = append(q.ready, k)
	q.wake.Signal()
}

// take waits for a key; false after close.
func (q *queue) take() (Key, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) == 0 && !q.closed {
		q.wake.Wait()
	}
	if q.closed {
		return Key{}, false
	}
	k := q.ready[0]
	q.ready = q.ready[1:]
	if len(q.ready) == 0 {
		q.ready = nil // let go of the array that a burst has grown
	}
	now := time.Now()
	q.waited.Observe(now.Sub(q.queued[k]).Seconds())
	delete(q.queued, k)
	q.running[k] = run{since: now}
	q.later.drop(k)
	return k, true
}

// finish gives a taken key back: at once if it changed meanwhile, after the
// delay if that is positive, else not before something changes.
func (q *queue) finish(k Key, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := q.running[k].again
	delete(q.running, k)
	if again {
		q.addLocked(k)
		return
	}
	if after > 0 && !q.closed {
		q.later.set(k, time.Now().Add(after))
		q.armLocked()
	}
}

// armLocked sets the timer for the earliest alarm.
func (q *queue) armLocked() {
	if len(q.later.heap) == 0 || q.closed {
		return
	}
	wait := max(time.Until(q.later.heap[0].when), 0)
	if q.timer == nil {
		q.timer = time.AfterFunc(wait, q.ring)
		return
	}
	q.timer.Reset(wait)
}

// ring moves the keys whose time has come to ready.
func (q *queue) ring() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for len(q.later.heap) > 0 && !q.later.heap[0].when.After(now) {
		k := q.later.heap[0].key
		q.later.drop(k)
		q.addLocked(k)
	}
	q.armLocked()
}

// close lets every take return false. What is running may still finish.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.timer != nil {
		q.timer.Stop()
	}
	q.wake.Broadcast()
}

// alarm is one key's timer; index is its place in the heap.
type alarm struct {
	key   Key
	when  time.Time
	index int
}

// timers is a heap of alarms, at most one per key.
type timers struct {
	heap []*alarm
	at   map[Key]*alarm
}

func (t *timers) set(k Key, when time.Time) {
	if a := t.at[k]; a != nil {
		a.when = when
		heap.Fix(t, a.index)
		return
	}
	heap.Push(t, &alarm{key: k, when: when})
}

func (t *timers) drop(k Key) {
	if a := t.at[k]; a != nil {
		heap.Remove(t, a.index)
	}
}

func (t *timers) Len() int           { return len(t.heap) }
func (t *timers) Less(i, j int) bool { return t.heap[i].when.Before(t.heap[j].when) }
func (t *timers) Swap(i, j int) {
	t.heap[i], t.heap[j] = t.heap[j], t.heap[i]
	t.heap[i].index, t.heap[j].index = i, j
}

func (t *timers) Push(x any) {
	a := x.(*alarm)
	a.index = len(t.heap)
	t.heap, t.at[a.key] = append(t.heap, a), a
}

func (t *timers) Pop() any {
	last := len(t.heap) - 1
	a := t.heap[last]
	t.heap[last] = nil
	t.heap = t.heap[:last]
	delete(t.at, a.key)
	return a
}
