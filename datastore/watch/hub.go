// Package watch turns a stream of committed events into watchers, for every
// implementation of datastore.Store. It owns the recent events in memory and the
// goroutine of each watcher; it refuses to buffer for slow readers: a watcher
// pulls, from memory while its position is recent, from the store's history when
// it has fallen behind, and ends when that history is gone. Start at Hub.
package watch

import (
	"context"
	"errors"
	"sort"
	"strings"
	"sync"

	"orch/datastore"
)

// Limits of the recent events kept in memory, and of one batch handed out.
const (
	maxEvents     = 4096
	maxBytes      = 2 << 20
	maxBatch      = 512
	historyChunk  = 1024
	batchesBuffer = 4
)

// History reads committed events with revisions in (after, upTo], oldest first,
// whole revisions only, about limit of them. It returns ErrCompacted if some are gone.
type History func(after, upTo int64, limit int) ([]datastore.Event, error)

// Hub hands every published event to all watchers. Make one with New.
type Hub struct {
	history History

	mu sync.Mutex
	// recent holds the newest events, oldest first; every event with a revision
	// above floor is in it.
	recent []datastore.Event
	bytes  int
	floor  int64
	// head is the newest published revision; only the store's writer moves it.
	head   int64
	closed bool
	// wake is closed and replaced at every publish; a watcher takes it before it
	// looks, so that no publish falls between looking and waiting.
	wake chan struct{}
}

// New returns a hub whose readers start at revision head.
func New(head int64, h History) *Hub {
	return &Hub{history: h, floor: head, head: head, wake: make(chan struct{})}
}

// Publish appends the events of the revisions up to head. Callers publish in revision order.
func (h *Hub) Publish(head int64, events []datastore.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.head = head
	for _, e := range events {
		h.bytes += size(e)
	}
	h.recent = append(h.recent, events...)
	h.trimLocked()
	close(h.wake)
	h.wake = make(chan struct{})
}

// trimLocked drops the oldest revisions until the limits hold.
func (h *Hub) trimLocked() {
	drop := 0
	for drop < len(h.recent) && (len(h.recent)-drop > maxEvents || h.bytes > maxBytes) {
		h.floor = h.recent[drop].ModRevision
		for drop < len(h.recent) && h.recent[drop].ModRevision == h.floor {
			h.bytes -= size(h.recent[drop])
			drop++
		}
	}
	if drop > 0 {
		clear(h.recent[:drop])
		h.recent = h.recent[drop:]
	}
}

func size(e datastore.Event) int { return len(e.Key) + len(e.Value) + len(e.Prev.Value) + 160 }

// Close ends every watcher with ErrClosed.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.wake)
	}
}

// Watch starts a watcher behind revision after.
func (h *Hub) Watch(ctx context.Context, prefix string, after int64) (datastore.Watcher, error) {
	h.mu.Lock()
	closed, head := h.closed, h.head
	h.mu.Unlock()
	if closed {
		return nil, datastore.ErrClosed
	}
	if after > head {
		return nil, datastore.ErrFuture
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{hub: h, prefix: prefix, cancel: cancel, out: make(chan []datastore.Event, batchesBuffer)}
	if _, _, err := h.next(after); err != nil { // too old: refuse at once
		cancel()
		return nil, err
	}
	go w.run(ctx, after)
	return w, nil
}

// next returns events behind after, or the channel to wait on when there are none.
func (h *Hub) next(after int64) ([]datastore.Event, <-chan struct{}, error) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, nil, datastore.ErrClosed
	}
	if after < h.floor {
		upTo := h.floor
		h.mu.Unlock()
		events, err := h.history(after, upTo, historyChunk)
		if err == nil && len(events) == 0 { // nothing happened in there
			return h.next(upTo)
		}
		return events, nil, err
	}
	defer h.mu.Unlock()
	i := sort.Search(len(h.recent), func(i int) bool { return h.recent[i].ModRevision > after })
	j := min(len(h.recent), i+maxBatch)
	for j < len(h.recent) && h.recent[j].ModRevision == h.recent[j-1].ModRevision {
		j++
	}
	if i == j {
		return nil, h.wake, nil
	}
	return h.recent[i:j:j], nil, nil
}

type watcher struct {
	hub    *Hub
	prefix string
	cancel context.CancelFunc
	out    chan []datastore.Event

	mu  sync.Mutex
	err error // guarded by mu; set before out closes
}

func (w *watcher) Events() <-chan []datastore.Event { return w.out }
func (w *watcher) Close()                           { w.cancel() }

func (w *watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *watcher) run(ctx context.Context, after int64) {
	defer close(w.out)
	defer w.cancel()
	for {
		events, wake, err := w.hub.next(after)
		if err != nil {
			w.end(err)
			return
		}
		if wake != nil {
			select {
			case <-wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		after = events[len(events)-1].ModRevision
		if events = under(w.prefix, events); len(events) == 0 {
			continue
		}
		select {
		case w.out <- events:
		case <-ctx.Done():
			return
		}
	}
}

func (w *watcher) end(err error) {
	if errors.Is(err, datastore.ErrCompacted) {
		err = datastore.ErrLagged // it was told ErrCompacted at Watch otherwise
	}
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
}

// under keeps the events below prefix; the slice is shared, so it copies only when it must.
func under(prefix string, events []datastore.Event) []datastore.Event {
	n := 0
	for _, e := range events {
		if strings.HasPrefix(e.Key, prefix) {
			n++
		}
	}
	if n == len(events) {
		return events
	}
	out := make([]datastore.Event, 0, n)
	for _, e := range events {
		if strings.HasPrefix(e.Key, prefix) {
			out = append(out, e)
		}
	}
	return out
}
