package flow

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// How wide requests are: upstream's figures.
const (
	maxListSeats  = 100
	maxWriteSeats = 10
	bytesPerSeat  = 100_000
	// streamed bounds what a list has in memory at a time, however long it is.
	streamed       = 1_000_000
	watchesPerSeat = 10
	eventTime      = 5 * time.Millisecond // that the watchers of a change take
)

// measure fills in the request's seats and says how many watch what it writes.
func (t *Ticket) measure(q *Request, most int) (watched int) {
	r := &t.seats
	r.Seats = 1
	switch {
	case q.Listed:
		r.Seats = listSeats(q.Stored, q.Limit, q.Name != "", most)
	case q.Writes && t.c.watches.total.Load() >= watchesPerSeat && (q.Resource != "serviceaccounts" || q.Subresource != "token"):
		watched = t.c.watches.interested(q)
		r.FinalSeats, r.Linger = writeSeats(watched, most)
	}
	return watched
}

// listSeats is one seat for each 100 kB that a list has in memory at a time.
func listSeats(s Stored, limit int64, single bool, most int) int {
	if most == 0 || most > maxListSeats {
		most = maxListSeats
	}
	n := s.Objects
	switch {
	case single:
		n = min(n, 1)
	case limit > 0:
		n = min(n, limit)
	}
	bytes := int64(0)
	if s.Objects > 0 {
		bytes = min(n*(s.Bytes/s.Objects), streamed)
	}
	return max(1, min(most, int(math.Ceil(float64(bytes)/bytesPerSeat))))
}

// writeSeats are kept for a while after a write, for the work of handing the change to
// so many watchers. Where there may not be as many seats, they are kept for longer.
func writeSeats(watched, most int) (seats int, linger time.Duration) {
	if watched < watchesPerSeat {
		return 0, 0
	}
	if most == 0 || most > maxWriteSeats {
		most = maxWriteSeats
	}
	wanted := (watched + watchesPerSeat - 1) / watchesPerSeat
	seats = min(wanted, most)
	return seats, eventTime * time.Duration(wanted) / time.Duration(seats)
}

// watchID is what a watch looks at.
type watchID struct{ group, resource, namespace, name string }

// watchers counts the open watches by what they look at.
type watchers struct {
	total  atomic.Int64
	mu     sync.Mutex
	counts map[watchID]int
}

// Watching counts a watch until forget is called. Watches of the pods of one node are not
// counted: a change goes to one of them.
func (c *Control) Watching(q *Request, selectsNode bool) (forget func()) {
	if selectsNode {
		return func() {}
	}
	id := watchID{q.Group, q.Resource, q.Namespace, q.Name}
	c.watches.add(id, 1)
	return func() { c.watches.add(id, -1) }
}

func (w *watchers) add(id watchID, n int) {
	w.total.Add(int64(n))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.counts[id] += n; w.counts[id] == 0 {
		delete(w.counts, id)
	}
}

// interested counts the watches that will see what q writes.
func (w *watchers) interested(q *Request) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := watchID{group: q.Group, resource: q.Resource}
	n := w.counts[id]
	if q.Namespace != "" {
		id.namespace = q.Namespace
		n += w.counts[id]
	}
	if q.Name != "" {
		id.name = q.Name
		n += w.counts[id]
	}
	return n
}
