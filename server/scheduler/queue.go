package scheduler

import (
	"container/heap"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/server/placement"
)

// Back-off of a pod that could not be placed: doubled from first to most with each try.
const (
	firstBackoff = time.Second
	mostBackoff  = 10 * time.Second
)

// A pod waits this many times as long as its last attempt took, which for most is less than
// the back-off: a claim can make the search for devices long.
const (
	penalty     = 20
	mostPenalty = 5 * time.Minute
)

func backoff(attempts int) time.Duration {
	return min(mostBackoff, firstBackoff<<min(max(attempts-1, 0), 10))
}

// pending is a pod that wants a node.
type pending struct {
	*placement.Pod
	added    time.Time // for the order among equals
	attempts int
	// notBefore is when the back-off ends.
	notBefore time.Time
	// state tells in which of the queue's places the pod is; index is its place in a heap.
	state state
	index int
	// claims are those that the pod names.
	claims []types.NamespacedName
}

type state int

const (
	idle          state = iota // being placed or bound
	active                     // to be tried now
	backingOff                 // to be tried when its time has come
	unschedulable              // to be tried when something changes
)

// concern says which pending pods a change may help: sets that can be joined.
type concern int

const (
	social    concern = 1 << iota // those that look at other pods
	deviceful                     // those that want devices
	others
	nobody    concern = 0
	everybody         = social | deviceful | others
)

func (c concern) includes(e *pending) bool {
	return c == everybody || c&social != 0 && e.Social() || c&deviceful != 0 && e.WantsDevices()
}

// queue holds the pods that want a node. It has one owner, the loop, and no lock;
// its size is bounded by the number of pods in the API.
type queue struct {
	pods    map[types.UID]*pending
	byClaim map[types.NamespacedName]map[*pending]struct{}
	active  orderedHeap
	backoff orderedHeap
	// gated pods are not to be placed yet; held counts them, as waiting the others by state,
	// for those who look on.
	gated   map[types.UID]struct{}
	held    atomic.Int64
	waiting [unschedulable + 1]atomic.Int64
}

func newQueue() *queue {
	return &queue{
		pods:    map[types.UID]*pending{},
		byClaim: map[types.NamespacedName]map[*pending]struct{}{},
		gated:   map[types.UID]struct{}{},
		active:  orderedHeap{less: moreImportant},
		backoff: orderedHeap{less: func(a, b *pending) bool { return a.notBefore.Before(b.notBefore) }},
	}
}

func moreImportant(a, b *pending) bool {
	if a.Priority() != b.Priority() {
		return a.Priority() > b.Priority()
	}
	return a.added.Before(b.added)
}

// put adds a pod, or replaces its content and makes it active again.
func (q *queue) put(p *placement.Pod, now time.Time) {
	q.ungate(p.UID)
	e := q.pods[p.UID]
	if e == nil {
		e = &pending{added: now}
		q.pods[p.UID] = e
		q.waiting[idle].Add(1)
	}
	q.leave(e)
	q.index(e, p)
	q.enter(e, active)
}

// index keeps byClaim while p takes the place of e's pod; nil for none.
func (q *queue) index(e *pending, p *placement.Pod) {
	for _, c := range e.claims {
		if delete(q.byClaim[c], e); len(q.byClaim[c]) == 0 {
			delete(q.byClaim, c)
		}
	}
	if e.claims = nil; p == nil {
		return
	}
	e.Pod = p
	for i := range p.Spec.ResourceClaims {
		name, _, err := resourceclaim.Name(p.Pod, &p.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue
		}
		c := types.NamespacedName{Namespace: p.Namespace, Name: *name}
		if q.byClaim[c] == nil {
			q.byClaim[c] = map[*pending]struct{}{}
		}
		q.byClaim[c][e] = struct{}{}
		e.claims = append(e.claims, c)
	}
}

// gate takes a pod out until its gates are gone.
func (q *queue) gate(uid types.UID) {
	q.remove(uid)
	q.gated[uid] = struct{}{}
	q.held.Store(int64(len(q.gated)))
}

func (q *queue) ungate(uid types.UID) {
	if len(q.gated) > 0 {
		delete(q.gated, uid)
		q.held.Store(int64(len(q.gated)))
	}
}

func (q *queue) remove(uid types.UID) {
	q.ungate(uid)
	if e := q.pods[uid]; e != nil {
		q.leave(e)
		q.index(e, nil)
		delete(q.pods, uid)
		q.waiting[idle].Add(-1)
	}
}

// leave takes e out of the heap that it is in.
func (q *queue) leave(e *pending) {
	switch e.state {
	case active:
		heap.Remove(&q.active, e.index)
	case backingOff:
		heap.Remove(&q.backoff, e.index)
	}
	q.move(e, idle)
}

func (q *queue) move(e *pending, s state) {
	q.waiting[e.state].Add(-1)
	q.waiting[s].Add(1)
	e.state = s
}

func (q *queue) enter(e *pending, s state) {
	q.move(e, s)
	switch s {
	case active:
		heap.Push(&q.active, e)
	case backingOff:
		heap.Push(&q.backoff, e)
	}
}

// pop takes the most important pod whose time has come; nil if there is none.
func (q *queue) pop(now time.Time) *pending {
	for q.backoff.Len() > 0 && !q.backoff.items[0].notBefore.After(now) {
		e := q.backoff.items[0]
		q.leave(e)
		q.enter(e, active)
	}
	if q.active.Len() == 0 {
		return nil
	}
	e := q.active.items[0]
	q.leave(e)
	e.attempts++
	return e
}

// next is when the first back-off ends; false if nothing waits for a time.
func (q *queue) next() (time.Time, bool) {
	if q.backoff.Len() == 0 {
		return time.Time{}, false
	}
	return q.backoff.items[0].notBefore, true
}

// failed puts a pod aside until something changes, which counts from due on.
func (q *queue) failed(e *pending, due time.Time) {
	e.notBefore = due
	q.enter(e, unschedulable)
}

// wait puts a pod aside that was not really tried: what it needs is not there yet.
func (q *queue) wait(e *pending, now time.Time) {
	e.attempts--
	e.notBefore = now
	q.enter(e, unschedulable)
}

// retry is for a pod that tries again when it is due, whatever happens.
func (q *queue) retry(e *pending, due time.Time) {
	e.notBefore = due
	q.enter(e, backingOff)
}

// wake lets the unschedulable pods that a change concerns try again once their
// back-off is over.
func (q *queue) wake(now time.Time, c concern) {
	for _, e := range q.pods {
		if c.includes(e) {
			q.rouse(e, now)
		}
	}
}

// wakeUsers does so with the pods that name a claim.
func (q *queue) wakeUsers(now time.Time, claim types.NamespacedName) {
	for e := range q.byClaim[claim] {
		q.rouse(e, now)
	}
}

func (q *queue) rouse(e *pending, now time.Time) {
	switch {
	case e.state != unschedulable:
	case e.notBefore.After(now):
		q.enter(e, backingOff)
	default:
		q.enter(e, active)
	}
}

// orderedHeap is a heap of pods that know their place in it.
type orderedHeap struct {
	items []*pending
	less  func(a, b *pending) bool
}

func (h *orderedHeap) Len() int           { return len(h.items) }
func (h *orderedHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *orderedHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}
func (h *orderedHeap) Push(x any) {
	e := x.(*pending)
	e.index = len(h.items)
	h.items = append(h.items, e)
}
func (h *orderedHeap) Pop() any {
	e := h.items[len(h.items)-1]
	h.items[len(h.items)-1] = nil
	h.items = h.items[:len(h.items)-1]
	return e
}
