package cache

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	apiwatch "k8s.io/apimachinery/pkg/watch"

	"orch/datastore"
)

// Limits of one watch. A reader that falls watchQueue events behind is cut off: it
// starts again from its last resourceVersion.
const (
	watchQueue    = 8192
	initialChunk  = 512
	bookmarkEvery = time.Minute
	replayTimeout = 10 * time.Second
)

// InitialEventsEnd is the annotation of the bookmark that follows the initial events.
const InitialEventsEnd = "k8s.io/initial-events-end"

// Event is one step as a watcher sees it. The item of a BOOKMARK carries nothing
// but a resourceVersion and perhaps an annotation.
type Event struct {
	Type apiwatch.EventType
	Item *Item

	// raw is a change that has not been converted: see Watch.resolved.
	raw *change
}

// EndsInitial tells whether the event is the bookmark behind the initial events.
func (e *Event) EndsInitial() bool {
	return e.Type == apiwatch.Bookmark && e.Item.obj.GetAnnotations()[InitialEventsEnd] != ""
}

// WatchOptions say what to watch.
type WatchOptions struct {
	Filter Filter
	// After resumes behind this revision. With State, the watch begins with the
	// present state as ADDED events instead.
	After int64
	State bool
	// EndMark follows the present state with a bookmark that says so.
	EndMark bool
	// Bookmarks sends one every minute.
	Bookmarks bool
	// Timeout ends the watch; 0 means never.
	Timeout time.Duration
}

// Watch hands out the changes that match a filter. One goroutine reads it, with
// Next; the feed fills it.
type Watch struct {
	cache  *Cache
	kind   *Kind
	shelf  *shelf
	opts   WatchOptions
	after  int64 // changes up to here are in initial or replay
	initAt int64 // the revision of initial

	initial []*Item
	endMark bool // still to be sent
	replay  *replay
	sent    int64 // revision of the last bookmark

	bookmark *time.Timer // nil: none wanted
	deadline *time.Timer // nil: none
	over     bool

	mu     sync.Mutex
	queue  []Event
	spare  []Event
	ended  bool
	wake   chan struct{}
	closed chan struct{}
}

// Watch starts a watch. Errors: the datastore's ErrCompacted (After is too old) and ErrFuture.
func (c *Cache) Watch(ctx context.Context, k *Kind, o WatchOptions) (*Watch, error) {
	b, err := c.shelf(k)
	if err != nil {
		return nil, err
	}
	w := &Watch{cache: c, kind: k, shelf: b, opts: o, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	if o.Bookmarks {
		w.bookmark = time.NewTimer(bookmarkEvery)
	}
	if o.Timeout > 0 {
		w.deadline = time.NewTimer(o.Timeout)
	}
	return w, nil
}

// start fixes where the watch begins and joins the shelf's followers at once, so
// that nothing falls between.
func (w *Watch) start(ctx context.Context) error {
	b := w.shelf
	b.out.Lock()
	defer b.out.Unlock()
	seen := w.cache.Revision()
	if w.opts.State {
		t, applied := b.snapshot()
		w.after, w.initAt = applied, max(seen, applied)
		w.endMark = w.opts.EndMark
		p, filter := Page{}, w.opts.Filter
		if w.kind.Convert != nil { // converted when handed out: the feed waits for this to end
			filter = Filter{Namespace: filter.Namespace, Name: filter.Name}
		}
		if err := p.collect(w.kind, ListOptions{Filter: filter}, func(from, to string, each func(entry) bool) {
			if to == "" {
				t.AscendGreaterOrEqual(entry{key: from}, each)
			} else {
				t.AscendRange(entry{key: from}, entry{key: to}, each)
			}
		}, func(i *Item) (*Item, error) { return i.near(w.kind) }); err != nil {
			return err
		}
		w.initial = p.Items
	} else {
		changes, applied, ok := b.since(w.opts.After)
		if w.opts.After > max(seen, applied) {
			return datastore.ErrFuture
		}
		if b.missed(w.opts.After) {
			return datastore.ErrCompacted
		}
		w.after = max(applied, w.opts.After)
		if ok {
			for _, c := range changes {
				w.add(c)
			}
		} else if w.opts.After < applied {
			r, err := w.cache.newReplay(ctx, w)
			if err != nil {
				return err
			}
			w.replay = r
		}
	}
	b.watches[w] = struct{}{}
	return nil
}

// offer is called by the feed, in order.
func (w *Watch) offer(c *change) {
	if c.rev > w.after {
		w.add(c)
	}
}

func (w *Watch) add(c *change) {
	e, ok := w.event(c)
	if !ok {
		return
	}
	w.mu.Lock()
	if len(w.queue) >= watchQueue {
		w.ended = true
	}
	if !w.ended {
		w.queue = append(w.queue, e)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// event is the change as it is queued: as the watch sees it, or raw where that takes a
// webhook.
func (w *Watch) event(c *change) (Event, bool) {
	if w.kind.Convert != nil {
		f := &w.opts.Filter
		return Event{raw: c}, c.old != nil && f.places(c.old) || c.item != nil && f.places(c.item)
	}
	e, ok, err := w.seen(c)
	return e, ok && err == nil
}

// seen is the change as this watch sees it: an object that comes to match is ADDED, one
// that no longer matches DELETED.
func (w *Watch) seen(c *change) (Event, bool, error) {
	as := func(i *Item) (*Item, error) {
		if i == nil {
			return nil, nil
		}
		i, err := i.As(w.kind)
		if err != nil || !w.opts.Filter.match(i) {
			return nil, err
		}
		return i, nil
	}
	old, err := as(c.old)
	if err != nil {
		return Event{}, false, err
	}
	item, err := as(c.item)
	switch {
	case err != nil || old == nil && item == nil:
		return Event{}, false, err
	case old == nil:
		return Event{Type: apiwatch.Added, Item: item}, true, nil
	case item != nil:
		return Event{Type: apiwatch.Modified, Item: item}, true, nil
	case w.kind.Convert != nil: // no need to ask for the same content again
		return Event{Type: apiwatch.Deleted, Item: old.at(c.rev)}, true, nil
	}
	last, err := c.gone().As(w.kind)
	return Event{Type: apiwatch.Deleted, Item: last}, true, err
}

// end makes Next return io.EOF once the queue is empty.
func (w *Watch) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Close ends the watch. It may be called from any goroutine, once.
func (w *Watch) Close() {
	w.shelf.out.Lock()
	delete(w.shelf.watches, w)
	w.shelf.out.Unlock()
	close(w.closed)
}

// Next blocks until there are events and returns them; the slice is valid until
// the next call. It returns io.EOF when the watch is over, and the datastore's
// ErrCompacted when history that it needs went away.
func (w *Watch) Next(ctx context.Context) ([]Event, error) {
	for {
		events, err := w.next(ctx)
		if err != nil || w.kind.Convert == nil {
			return events, err
		}
		if events, err = w.resolved(events); err != nil || len(events) > 0 {
			return events, err
		}
	}
}

func (w *Watch) next(ctx context.Context) ([]Event, error) {
	if w.over {
		return nil, io.EOF
	}
	if len(w.initial) > 0 {
		return w.nextInitial(), nil
	}
	if w.endMark {
		w.endMark = false
		return []Event{w.mark(w.initAt, true)}, nil
	}
	for w.replay != nil {
		events, err := w.replay.next(ctx)
		if errors.Is(err, io.EOF) {
			w.replay = nil
			break
		}
		if err != nil || len(events) > 0 {
			return events, err
		}
	}
	return w.nextLive(ctx)
}

// Begun tells whether Next has handed out all that lies before the watch began, so that
// from now on it waits for changes. Only the reader may ask.
func (w *Watch) Begun() bool { return len(w.initial) == 0 && !w.endMark && w.replay == nil }

func (w *Watch) nextInitial() []Event {
	n := min(len(w.initial), initialChunk)
	out := make([]Event, n)
	for i := range n {
		if out[i] = (Event{Type: apiwatch.Added, Item: w.initial[i]}); w.kind.Convert != nil {
			out[i] = Event{raw: &change{rev: w.initial[i].rev, item: w.initial[i]}}
		}
	}
	w.initial = w.initial[n:]
	return out
}

func (w *Watch) nextLive(ctx context.Context) ([]Event, error) {
	var bookmark, deadline <-chan time.Time
	if w.bookmark != nil {
		bookmark = w.bookmark.C
	}
	if w.deadline != nil {
		deadline = w.deadline.C
	}
	for due := false; ; {
		rev := w.cache.Revision() // before the queue: every change up to rev has been offered
		w.mu.Lock()
		out := w.queue
		clear(w.spare) // handed out by the call before; pins no items
		w.queue, w.spare = w.spare[:0], out
		ended := w.ended
		w.mu.Unlock()
		rev = max(rev, w.after)
		switch {
		case len(out) > 0:
			return out, nil
		case due && (rev > w.sent || w.over):
			w.sent = rev
			return []Event{w.mark(rev, false)}, nil
		case ended, w.over:
			w.over = true
			return nil, io.EOF
		}
		due = false
		select {
		case <-w.wake:
		case <-bookmark:
			w.bookmark.Reset(bookmarkEvery)
			due = true
		case <-deadline:
			w.over, due = true, w.opts.Bookmarks
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.closed:
			return nil, io.EOF
		case <-w.cache.stopped:
			return nil, io.EOF
		}
	}
}

func (w *Watch) mark(revision int64, end bool) Event {
	o := w.kind.Facts.New()
	o.SetResourceVersion(FormatRevision(revision))
	if w.kind.Facts.Dynamic {
		o.GetObjectKind().SetGroupVersionKind(w.kind.Facts.GVK())
	}
	if end {
		o.SetAnnotations(map[string]string{InitialEventsEnd: "true"})
	}
	return Event{Type: apiwatch.Bookmark, Item: &Item{kind: w.kind, obj: o, rev: revision}}
}
