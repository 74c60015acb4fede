package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"orch/api"
	"orch/datastore"
)

// sealedPrefix begins every sealed value, as upstream's encryption has it.
var sealedPrefix = []byte("k8s:enc:")

// SealedPrefix tells sealed values from others.
func SealedPrefix() []byte { return sealedPrefix }

// decodeChunk is how many values one goroutine decodes at a time while loading.
const decodeChunk = 512

// Run loads the store and follows it until ctx ends. An error means that the store
// cannot be read.
func (c *Cache) Run(ctx context.Context) error {
	defer close(c.stopped)
	rev, err := c.load(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("loading the store: %w", err)
	}
	c.advance(rev)
	close(c.ready)
	for ctx.Err() == nil {
		err := c.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, datastore.ErrLagged):
			c.log.Warn("cache fell behind the store, going on from its history", "revision", c.Revision())
		case errors.Is(err, datastore.ErrCompacted):
			c.log.Warn("cache lost its place in the store, loading again", "revision", c.Revision())
			if err := c.reload(ctx); err != nil {
				return fmt.Errorf("loading the store again: %w", err)
			}
		case err != nil:
			return fmt.Errorf("following the store: %w", err)
		}
	}
	return nil
}

// load fills every shelf from one state of the store.
func (c *Cache) load(ctx context.Context) (int64, error) {
	rev := c.store.Revision()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, b := range c.shelves.Load().byKind {
		g.Go(func() error {
			_, err := c.fill(gctx, b, rev)
			return err
		})
	}
	return rev, g.Wait()
}

// fill puts the kind's content at revision on an empty shelf and counts it.
func (c *Cache) fill(ctx context.Context, b *shelf, revision int64) (int, error) {
	items, broken, err := c.past(ctx, b.kind, datastore.ListRequest{Prefix: b.kind.prefix, Revision: revision})
	if err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = broken
	for _, i := range items {
		b.objects.ReplaceOrInsert(entry{i.key, i})
		b.stored += storedSize(i)
	}
	b.floor, b.applied, b.snap = revision, revision, nil
	return len(items), nil
}

// past lists a state of the store and decodes it. Values that cannot be decoded are
// logged and left out of the items; they stay in the store.
func (c *Cache) past(ctx context.Context, k *Kind, r datastore.ListRequest) ([]*Item, map[string]error, error) {
	l, err := c.store.List(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	items, broken := c.decodeAll(k, l.KVs)
	for key, err := range broken {
		c.log.Error("an object in the store cannot be read and is not served", "key", k.prefix+key, "error", err)
	}
	return items, broken, nil
}

// decodeAll gives the items that can be read, and the errors of the others by key.
func (c *Cache) decodeAll(k *Kind, kvs []datastore.KV) ([]*Item, map[string]error) {
	items := make([]*Item, len(kvs))
	var broken map[string]error
	var mu sync.Mutex // for broken
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < len(kvs); from += decodeChunk {
		g.Go(func() error {
			for n := from; n < min(from+decodeChunk, len(kvs)); n++ {
				i, err := c.decode(k, kvs[n])
				if err != nil {
					mu.Lock()
					if broken == nil {
						broken = map[string]error{}
					}
					broken[kvs[n].Key[len(k.prefix):]] = err
					mu.Unlock()
				}
				items[n] = i
			}
			return nil
		})
	}
	_ = g.Wait() // they return no errors
	n := 0
	for _, i := range items {
		if i != nil {
			items[n] = i
			n++
		}
	}
	return items[:n], broken
}

func (c *Cache) decode(k *Kind, kv datastore.KV) (*Item, error) {
	value := kv.Value
	if k.Sealer != nil {
		var err error
		if value, err = k.Sealer.Open(kv.Key, value); err != nil {
			return nil, fmt.Errorf("unable to transform key %q: %w", kv.Key, err)
		}
	}
	o, err := k.Decode(value)
	if err != nil && k.Sealer == nil && bytes.HasPrefix(kv.Value, sealedPrefix) {
		return nil, fmt.Errorf("unable to transform key %q: identity transformer tried to read encrypted data", kv.Key)
	}
	if err != nil {
		return nil, err
	}
	if o.GetName() == "" {
		return nil, fmt.Errorf("decoding stored %s: the value has no name", k.Facts.Kind)
	}
	// Not every cipher binds a value to its key: one that was moved to another's place
	// must not be taken for it.
	if k.Sealer != nil && k.key(o.GetNamespace(), o.GetName()) != kv.Key[len(k.prefix):] {
		return nil, fmt.Errorf("unable to transform key %q: the value belongs to another object", kv.Key)
	}
	return c.item(k, o, kv), nil
}

// item takes o over: it sets the resourceVersion.
func (c *Cache) item(k *Kind, o api.Object, kv datastore.KV) *Item {
	o.SetResourceVersion(FormatRevision(kv.ModRevision))
	return &Item{kind: k, key: kv.Key[len(k.prefix):], obj: o, rev: kv.ModRevision, size: len(kv.Value), budget: c.budget}
}

// follow applies the store's events until the watch ends.
func (c *Cache) follow(ctx context.Context) error {
	w, err := c.store.Watch(ctx, root, c.Revision())
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		select {
		case batch, ok := <-w.Events():
			if !ok {
				return w.Err()
			}
			c.apply(batch)
		case f := <-c.commands:
			f(ctx)
		}
	}
}

func (c *Cache) apply(batch []datastore.Event) {
	s := c.shelves.Load()
	for n := range batch {
		e := &batch[n]
		b, key := s.find(e.Key)
		if b == nil {
			continue // no kind of ours, or one that is not installed now
		}
		var item *Item
		var err error
		if !e.Delete {
			if item, err = c.live(b.kind, e); err != nil {
				c.log.Error("an object in the store cannot be read and is not served", "key", e.Key, "error", err)
			}
		}
		ch := b.apply(key, item, e.ModRevision)
		if err != nil {
			b.spoil(key, err)
		}
		if ch != nil {
			b.deliver(ch)
		}
	}
	c.advance(batch[len(batch)-1].ModRevision)
}

// live takes the object that the writer handed along, else decodes the value.
func (c *Cache) live(k *Kind, e *datastore.Event) (*Item, error) {
	if o, ok := e.Object.(api.Object); ok && (!k.Facts.Dynamic || o.GetObjectKind().GroupVersionKind() == k.Facts.GVK()) {
		return c.item(k, o, e.KV), nil
	}
	return c.decode(k, e.KV)
}

// reload brings every shelf to the store's state when the way there is lost.
// Subscribers see the difference as changes; watches are ended.
func (c *Cache) reload(ctx context.Context) error {
	rev := c.store.Revision()
	for _, b := range c.shelves.Load().byKind {
		items, broken, err := c.past(ctx, b.kind, datastore.ListRequest{Prefix: b.kind.prefix, Revision: rev})
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.broken = broken
		b.mu.Unlock()
		now := make(map[string]*Item, len(items))
		for _, i := range items {
			now[i.key] = i
		}
		b.cut(rev)
		old, _ := b.snapshot()
		old.Ascend(func(e entry) bool {
			if i := now[e.key]; i == nil {
				b.deliver(b.apply(e.key, nil, rev))
			} else if i.rev == e.item.rev {
				delete(now, e.key)
			}
			return true
		})
		for _, i := range items {
			if now[i.key] != nil {
				b.deliver(b.apply(i.key, i, i.rev))
			}
		}
		b.cut(rev)
	}
	c.advance(rev)
	return nil
}
