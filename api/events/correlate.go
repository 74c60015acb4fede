package events

import (
	"container/list"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The limits are those of client-go's EventCorrelator, so that a user sees the
// same number of events.
const (
	// knownLimit bounds what the recorder remembers; the least recently used goes first.
	knownLimit = 4096
	// similarLimit events of one object and reason with different messages within
	// similarWindow are told apart; after that they are combined.
	similarLimit  = 10
	similarWindow = 10 * time.Minute
	// floodBurst events of one object pass at once, then one per floodRefill.
	floodBurst  = 25
	floodRefill = 5 * time.Minute

	combinedPrefix = "(combined from similar events): "
)

// series is an event and its repeats. Only the recorder's goroutine touches it.
type series struct {
	occurrence
	// name of the stored event; empty until it was created.
	name        string
	count       int32
	first, last time.Time
	// written is when the store last heard of it.
	written time.Time
}

// namespace is where the event is stored; those of cluster objects go to default.
func (s *series) namespace() string {
	if s.object.Namespace == "" {
		return metav1.NamespaceDefault
	}
	return s.object.Namespace
}

// like groups events that differ in the message only.
type like struct {
	about
	kind, reason string
}

// about groups what one component says of one object.
type about struct {
	object    core.ObjectReference
	component string
}

type exactly struct {
	like
	message string
}

// similar counts the different messages of one group within the window.
type similar struct {
	messages map[string]bool
	last     time.Time
}

// bucket lets floodBurst events through and refills with time.
type bucket struct {
	tokens float64
	last   time.Time
}

// correlator decides what becomes of an occurrence: a new event, one more of a
// known one, or nothing.
type correlator struct {
	series  lru[exactly, *series]
	similar lru[like, *similar]
	floods  lru[about, *bucket]
}

func newCorrelator() *correlator {
	return &correlator{series: newLRU[exactly, *series](), similar: newLRU[like, *similar](), floods: newLRU[about, *bucket]()}
}

// observe returns the series that o belongs to, counted up; false if o is one too many.
func (c *correlator) observe(o occurrence) (*series, bool) {
	o.object.ResourceVersion = "" // every version of an object is the same object
	group := like{about{o.object, o.component}, o.kind, o.reason}
	key := exactly{group, o.message}
	if c.combine(group, o) {
		key.message = ""
		o.message = combinedPrefix + o.message
	}
	if !c.pass(group.about, o.at) {
		return nil, false
	}
	s := c.series.get(key, func() *series { return &series{occurrence: o, first: o.at} })
	s.count++
	s.last, s.message = o.at, o.message
	return s, true
}

// combine tells whether the group has had so many different messages lately that
// they share one event from now on.
func (c *correlator) combine(group like, o occurrence) bool {
	g := c.similar.get(group, func() *similar { return &similar{messages: map[string]bool{}} })
	if o.at.Sub(g.last) > similarWindow {
		clear(g.messages)
	}
	g.last = o.at
	if len(g.messages) < similarLimit || g.messages[o.message] {
		g.messages[o.message] = true
		return len(g.messages) >= similarLimit
	}
	return true
}

func (c *correlator) pass(a about, at time.Time) bool {
	a.object.FieldPath = ""
	b := c.floods.get(a, func() *bucket { return &bucket{tokens: floodBurst, last: at} })
	b.tokens = min(floodBurst, b.tokens+at.Sub(b.last).Seconds()/floodRefill.Seconds())
	b.last = at
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// lru is a map of at most knownLimit entries.
type lru[K comparable, V any] struct {
	at    map[K]*list.Element
	order *list.List // of entry[K, V], most recently used first
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any]() lru[K, V] {
	return lru[K, V]{at: map[K]*list.Element{}, order: list.New()}
}

// get returns the entry of the key, made if there is none.
func (l *lru[K, V]) get(k K, make func() V) V {
	if e := l.at[k]; e != nil {
		l.order.MoveToFront(e)
		return e.Value.(entry[K, V]).value
	}
	v := make()
	l.at[k] = l.order.PushFront(entry[K, V]{k, v})
	if l.order.Len() > knownLimit {
		oldest := l.order.Back()
		delete(l.at, oldest.Value.(entry[K, V]).key)
		l.order.Remove(oldest)
	}
	return v
}
