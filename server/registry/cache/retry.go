package cache

import (
	"context"
	"errors"
	"maps"
	"slices"

	"orch/api/client"
	"orch/datastore"
)

// Retry tries again to read what could not be read, whose key may be there by now. What
// it reads appears to subscribers as created; watches are ended, and those from before
// have to list again, because the history does not tell of it.
func (c *Cache) Retry(ctx context.Context) error {
	broken := false
	for _, b := range c.shelves.Load().byKind {
		broken = broken || b.unreadable("") != nil
	}
	if !broken {
		return nil
	}
	return c.do(ctx, func(ctx context.Context) error {
		for _, b := range c.shelves.Load().byKind {
			if err := c.retry(ctx, b); err != nil {
				return err
			}
		}
		return nil
	})
}

// retry runs on the feed's goroutine: what it reads is the state up to which events
// have been applied.
func (c *Cache) retry(ctx context.Context, b *shelf) error {
	now := c.Revision()
	var items []*Item
	for _, key := range b.failures() {
		kv, err := c.store.Get(ctx, b.kind.prefix+key, now)
		if errors.Is(err, datastore.ErrNotFound) || errors.Is(err, datastore.ErrCompacted) {
			continue // the event that says so is on its way
		}
		if err != nil {
			return err
		}
		i, err := c.decode(b.kind, kv)
		if err != nil {
			b.spoil(key, err)
			continue
		}
		items = append(items, i)
	}
	if len(items) == 0 {
		return nil
	}
	c.log.Info("objects that could not be read are served now", "kind", b.kind.Facts.Plural, "objects", len(items))
	b.mend(items, now)
	return nil
}

// failures are the keys of what cannot be read.
func (s *shelf) failures() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Keys(s.broken))
}

// mend puts items where errors were.
func (s *shelf) mend(items []*Item, revision int64) {
	s.show(items, revision)
	s.cut(revision)
}

func (s *shelf) show(items []*Item, revision int64) {
	s.out.Lock()
	defer s.out.Unlock()
	s.mu.Lock()
	s.mended = revision
	for _, i := range items {
		s.objects.ReplaceOrInsert(entry{i.key, i})
		s.stored += storedSize(i)
		delete(s.broken, i.key)
	}
	s.snap = nil
	s.mu.Unlock()
	for b := range s.subscribers {
		for _, i := range items {
			if n, err := i.near(b.kind); err == nil {
				b.call(client.Change{New: n.obj, Revision: revision})
			}
		}
	}
}
