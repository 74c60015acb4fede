package cache

import (
	"context"
	"io"
	"time"

	"orch/api"
	"orch/datastore"
)

// replay reads what happened between the revision a watch resumes from and the
// point where it joined the live changes, from the store's history.
type replay struct {
	w     *Watch
	store datastore.Watcher
	stop  context.CancelFunc
	until int64
	done  bool
}

func (c *Cache) newReplay(ctx context.Context, w *Watch) (*replay, error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	// The whole tree, not the kind's prefix: the end is recognised by an event of
	// any kind at or after the joining point.
	s, err := c.store.Watch(ctx, root, w.opts.After)
	if err != nil {
		stop()
		return nil, err
	}
	return &replay{w: w, store: s, stop: stop, until: max(c.Revision(), w.after)}, nil
}

func (r *replay) next(ctx context.Context) ([]Event, error) {
	if r.done {
		r.stop()
		return nil, io.EOF
	}
	t := time.NewTimer(replayTimeout)
	defer t.Stop()
	select {
	case batch, ok := <-r.store.Events():
		if !ok {
			r.stop()
			if err := r.store.Err(); err != nil {
				return nil, err
			}
			return nil, datastore.ErrCompacted
		}
		events, err := r.events(batch)
		if err != nil {
			r.stop()
		}
		return events, err
	case <-t.C:
		r.stop()
		return nil, datastore.ErrCompacted
	case <-r.w.closed:
		r.stop()
		return nil, io.EOF
	case <-ctx.Done():
		r.stop()
		return nil, ctx.Err()
	}
}

// events turns a batch of the store into events of the watch, as far as they are
// not handed out live.
func (r *replay) events(batch []datastore.Event) ([]Event, error) {
	var out []Event
	b := r.w.shelf
	for n := range batch {
		e := &batch[n]
		if e.ModRevision >= r.until {
			r.done = true
		}
		if at, _ := r.w.cache.shelves.Load().find(e.Key); at != b || e.ModRevision > r.w.after {
			continue
		}
		c := &change{rev: e.ModRevision}
		var err error
		if !e.Delete {
			if c.item, err = r.item(b.kind, e); err != nil {
				return nil, err
			}
		}
		if e.Prev.ModRevision > 0 {
			prev := e.Prev
			prev.Key = e.Key
			if c.old, err = r.w.cache.decode(b.kind, prev); err != nil {
				return nil, err
			}
		}
		if ev, ok := r.w.event(c); ok {
			out = append(out, ev)
		}
	}
	return out, nil
}

// item reuses the object of a live event: the feed has given it its revision, as
// all that is replayed has been applied.
func (r *replay) item(k *Kind, e *datastore.Event) (*Item, error) {
	if o, ok := e.Object.(api.Object); ok {
		return &Item{kind: k, key: e.Key[len(k.prefix):], obj: o, rev: e.ModRevision, size: len(e.Value), budget: r.w.cache.budget}, nil
	}
	return r.w.cache.decode(k, e.KV)
}
