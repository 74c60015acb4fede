// Package cache keeps every object of the store decoded in memory and serves
// reads from there: get, list and watch touch the store only for a past that is
// no longer in memory. One goroutine, the feed, follows one watch of the store and
// is the only writer. Items are immutable and shared with their encodings, so a
// list is close to a copy.
//
// It owns codecs of stored values, items, recent changes and watches. It refuses
// to know verbs, admission or status errors: see package registry. Start reading
// at Cache, then feed.go, shelf.go, item.go, watch.go.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"orch/api"
	"orch/api/client"
	"orch/datastore"
)

const root = "/registry/"

// encodedBytes bounds the encodings kept beside the objects.
const encodedBytes = 16 << 20

// ErrStopped says that the cache no longer follows the store.
var ErrStopped = errors.New("cache has stopped")

// ErrGone says that a kind was taken away or replaced while a request was on its way.
var ErrGone = client.ErrGone

// Config of a Cache.
type Config struct {
	Store datastore.Store
	Kinds []*Kind
	Log   *slog.Logger
	// EncodedBytes bounds the kept encodings; 0 means 16 MiB.
	EncodedBytes int
}

// Cache is safe for many goroutines.
type Cache struct {
	store   datastore.Store
	log     *slog.Logger
	budget  *budget
	ready   chan struct{}
	stopped chan struct{}

	// shelves by stored kind and by key prefix; replaced as a whole, under mu.
	shelves atomic.Pointer[shelves]
	// revision up to which every change of every kind is applied and delivered.
	revision atomic.Int64

	mu      sync.Mutex
	waiters []waiter
	// commands run on the feed's goroutine, between two batches.
	commands chan func(context.Context)
}

type shelves struct {
	byKind   map[*api.Facts]*shelf
	byPrefix map[string]*shelf
}

type waiter struct {
	revision int64
	done     chan struct{}
}

// New returns a cache that is empty until Run has loaded it.
func New(c Config) *Cache {
	if c.EncodedBytes == 0 {
		c.EncodedBytes = encodedBytes
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Cache{
		store: c.Store, log: c.Log, budget: &budget{limit: c.EncodedBytes},
		ready: make(chan struct{}), stopped: make(chan struct{}), commands: make(chan func(context.Context)),
	}
	s := &shelves{byKind: map[*api.Facts]*shelf{}, byPrefix: map[string]*shelf{}}
	for _, k := range c.Kinds {
		s.add(newShelf(k, 0))
	}
	r.shelves.Store(s)
	return r
}

func (s *shelves) add(b *shelf) {
	s.byKind[b.kind.Facts] = b
	s.byPrefix[b.kind.prefix] = b
}

// find returns the shelf of a storage key and the key below its prefix. Prefixes
// have one or two parts below the root.
func (s *shelves) find(key string) (*shelf, string) {
	from := len(root)
	if len(key) <= from {
		return nil, ""
	}
	for range 2 {
		i := strings.IndexByte(key[from:], '/')
		if i < 0 {
			return nil, ""
		}
		from += i + 1
		if b, ok := s.byPrefix[key[:from]]; ok {
			return b, key[from:]
		}
	}
	return nil, ""
}

// Ready is closed once the store is loaded.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// Revision is the newest revision that the cache has applied and handed out, of all kinds.
func (c *Cache) Revision() int64 { return c.revision.Load() }

// Wait returns once Revision() >= revision.
func (c *Cache) Wait(ctx context.Context, revision int64) error {
	if c.revision.Load() >= revision {
		return nil
	}
	w := waiter{revision, make(chan struct{})}
	c.mu.Lock()
	if c.revision.Load() >= revision {
		c.mu.Unlock()
		return nil
	}
	c.waiters = append(c.waiters, w)
	c.mu.Unlock()
	var err error
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.stopped:
		err = ErrStopped
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, o := range c.waiters {
		if o.done == w.done {
			c.waiters = append(c.waiters[:i], c.waiters[i+1:]...)
			break
		}
	}
	return err
}

// advance publishes a revision and wakes those who wait for it.
func (c *Cache) advance(revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revision.Store(revision)
	keep := c.waiters[:0]
	for _, w := range c.waiters {
		if w.revision <= revision {
			close(w.done)
		} else {
			keep = append(keep, w)
		}
	}
	clear(c.waiters[len(keep):])
	c.waiters = keep
}

// Replace makes the cache hold stored kinds in the place of others, whose watches end. The new
// ones are loaded first; swapped runs at the moment from which they are held, and the others not.
// An error leaves all as it was. Before Run it only takes note.
func (c *Cache) Replace(ctx context.Context, old []*api.Facts, kinds []*Kind, swapped func()) error {
	select {
	case <-c.ready:
	default:
		c.swap(old, c.emptyShelves(kinds))
		swapped()
		return nil
	}
	return c.do(ctx, func(ctx context.Context) error {
		fresh := c.emptyShelves(kinds)
		for _, b := range fresh {
			if _, err := c.fill(ctx, b, c.Revision()); err != nil {
				return fmt.Errorf("loading %s: %w", b.kind.Facts.GVR(), err)
			}
		}
		gone := c.swap(old, fresh)
		swapped()
		for _, b := range gone {
			b.cut(c.Revision())
		}
		return nil
	})
}

func (c *Cache) emptyShelves(kinds []*Kind) []*shelf {
	out := make([]*shelf, len(kinds))
	for i, k := range kinds {
		out[i] = newShelf(k, c.Revision())
	}
	return out
}

// swap puts shelves in the place of those of other kinds, and gives the latter. A kind that is
// replaced by another with the same keys is never read again: nobody tells it what changes.
func (c *Cache) swap(old []*api.Facts, fresh []*shelf) (gone []*shelf) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.shelves.Load()
	s := &shelves{maps.Clone(was.byKind), maps.Clone(was.byPrefix)}
	for _, f := range old {
		if b := s.byKind[f]; b != nil {
			delete(s.byKind, f)
			delete(s.byPrefix, b.kind.prefix)
			gone = append(gone, b)
		}
	}
	for _, b := range fresh {
		s.add(b)
	}
	c.shelves.Store(s)
	return gone
}

// do runs f on the feed's goroutine.
func (c *Cache) do(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	select {
	case c.commands <- func(feed context.Context) { done <- f(feed) }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	case <-c.stopped:
		return ErrStopped
	}
}

// shelf panics for a built-in kind that is not held: that is a wiring error. Kinds
// made at run time may have gone a moment ago: that is ErrGone.
func (c *Cache) shelf(k *Kind) (*shelf, error) {
	b := c.shelves.Load().byKind[k.Facts.Stored()]
	switch {
	case b != nil:
		return b, nil
	case k.Facts.Dynamic:
		return nil, ErrGone
	}
	panic(fmt.Sprintf("cache does not hold %s", k.Facts.GVR()))
}

// Holds tells whether the kind is in the cache.
func (c *Cache) Holds(k *Kind) bool { return c.shelves.Load().byKind[k.Facts.Stored()] != nil }

// Amount counts the objects of a kind and the bytes that they take in the store; nothing
// for a kind that is not held.
func (c *Cache) Amount(k *Kind) (objects, bytes int64) {
	b := c.shelves.Load().byKind[k.Facts.Stored()]
	if b == nil {
		return 0, 0
	}
	return b.amount()
}

// Get returns the newest version, nil if there is none. ErrGone says that nobody can tell: the
// kind is not held any more.
func (c *Cache) Get(k *Kind, namespace, name string) (*Item, error) {
	b := c.shelves.Load().byKind[k.Facts.Stored()]
	switch {
	case b == nil && k.Facts.Dynamic:
		return nil, ErrGone
	case b == nil:
		return nil, nil
	}
	i := b.get(b.kind.key(namespace, name))
	if i == nil {
		return nil, nil
	}
	return i.As(k)
}

// Near is Get for those who look at metadata only: it never waits for a webhook.
func (c *Cache) Near(k *Kind, namespace, name string) *Item {
	b := c.shelves.Load().byKind[k.Facts.Stored()]
	if b == nil {
		return nil
	}
	i := b.get(b.kind.key(namespace, name))
	if i == nil {
		return nil
	}
	i, err := i.near(k)
	if err != nil {
		return nil
	}
	return i
}

// Subscribe is client.Cache's, for one kind.
func (c *Cache) Subscribe(ctx context.Context, k *Kind, h func(client.Change)) error {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.stopped:
		return ErrStopped
	}
	b, err := c.shelf(k)
	if err != nil {
		return err
	}
	b.out.Lock()
	defer b.out.Unlock()
	t, applied := b.snapshot()
	t.Ascend(func(e entry) bool {
		var i *Item
		if i, err = e.item.near(k); err != nil {
			return false
		}
		h(client.Change{New: i.obj})
		return true
	})
	if err != nil {
		return err
	}
	s := &subscriber{kind: k, after: applied, call: h}
	b.subscribers[s] = struct{}{}
	context.AfterFunc(ctx, func() {
		b.out.Lock()
		defer b.out.Unlock()
		delete(b.subscribers, s)
	})
	return nil
}
