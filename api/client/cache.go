package client

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/btree"

	"orch/api"
)

// Scope narrows what a LiveCache holds of a kind; the zero Scope is everything.
type Scope struct {
	Namespace     string
	FieldSelector string
	LabelSelector string
}

// LiveCache is the Cache over any Transport: a list and a watch per kind, made
// anew when they break. While the server cannot be reached it keeps what it has.
type LiveCache struct {
	transport Transport
	kinds     map[*api.Facts]*mirror // fixed after NewCache
}

var _ Cache = (*LiveCache)(nil)

// NewCache makes a cache of the kinds; Run fills it.
func NewCache(t Transport, scopes map[*api.Facts]Scope) *LiveCache {
	c := &LiveCache{transport: t, kinds: make(map[*api.Facts]*mirror, len(scopes))}
	for f, s := range scopes {
		c.kinds[f] = newMirror(f, s)
	}
	return c
}

// Run keeps the cache up to date until ctx ends.
func (c *LiveCache) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, m := range c.kinds {
		wg.Go(func() { (&follower{transport: c.transport, mirror: m}).run(ctx) })
	}
	wg.Wait()
	return nil
}

// Synced tells whether every kind has had its initial content.
func (c *LiveCache) Synced() bool {
	for _, m := range c.kinds {
		select {
		case <-m.synced:
		default:
			return false
		}
	}
	return true
}

// WaitSynced returns once Synced, or with ctx's error.
func (c *LiveCache) WaitSynced(ctx context.Context) error {
	for _, m := range c.kinds {
		if err := m.waitSynced(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *LiveCache) mirror(f *api.Facts) *mirror {
	m := c.kinds[f]
	if m == nil {
		panic(fmt.Sprintf("the cache does not hold %s: it was not asked for at wiring time", f.Plural))
	}
	return m
}

func (c *LiveCache) Lookup(f *api.Facts, namespace, name string) api.Object {
	if it, ok := c.mirror(f).content.Load().Get(item{key: key(f, namespace, name)}); ok {
		return it.object
	}
	return nil
}

func (c *LiveCache) Each(f *api.Facts, namespace string, each func(api.Object) bool) {
	prefix := ""
	if namespace != "" && !f.Cluster {
		prefix = namespace + "/"
	}
	c.mirror(f).content.Load().AscendGreaterOrEqual(item{key: prefix}, func(it item) bool {
		return strings.HasPrefix(it.key, prefix) && each(it.object)
	})
}

func (c *LiveCache) Subscribe(ctx context.Context, f *api.Facts, h func(Change)) error {
	return c.mirror(f).subscribe(ctx, h)
}

func (c *LiveCache) Revision(f *api.Facts) int64 { return c.mirror(f).revision.Load() }

func (c *LiveCache) WaitRevision(ctx context.Context, f *api.Facts, revision int64) error {
	return c.mirror(f).waitRevision(ctx, revision)
}

// key orders objects as the store does.
func key(f *api.Facts, namespace, name string) string {
	if f.Cluster {
		return name
	}
	return namespace + "/" + name
}

type item struct {
	key    string
	object api.Object
}

// tree is ordered by key. It is copy-on-write: the one that readers hold never changes.
type tree = btree.BTreeG[item]

// mirror is the content of one kind. One goroutine (the follower) changes it.
type mirror struct {
	facts  *api.Facts
	scope  Scope
	synced chan struct{} // closed by replace, the first time

	// content is what readers see; revision moves after it. Both are written under mu.
	content  atomic.Pointer[tree]
	revision atomic.Int64

	mu      sync.Mutex
	subs    []*subscriber // in order of arrival
	waiters []waiter
}

type subscriber struct{ handle func(Change) }

type waiter struct {
	revision int64
	reached  chan struct{}
}

func newMirror(f *api.Facts, s Scope) *mirror {
	m := &mirror{facts: f, scope: s, synced: make(chan struct{})}
	m.content.Store(btree.NewG(16, func(a, b item) bool { return a.key < b.key }))
	return m
}

func (m *mirror) waitSynced(ctx context.Context) error {
	select {
	case <-m.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *mirror) subscribe(ctx context.Context, h func(Change)) error {
	if err := m.waitSynced(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.content.Load().Ascend(func(it item) bool {
		h(Change{New: it.object})
		return true
	})
	s := &subscriber{h}
	m.subs = append(m.subs, s)
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		// A copy: applyLocked may be walking the old one further up the stack of another call.
		m.subs = slices.DeleteFunc(slices.Clone(m.subs), func(o *subscriber) bool { return o == s })
	})
	return nil
}

func (m *mirror) waitRevision(ctx context.Context, revision int64) error {
	m.mu.Lock()
	if m.revision.Load() >= revision {
		m.mu.Unlock()
		return nil
	}
	w := waiter{revision, make(chan struct{})}
	m.waiters = append(m.waiters, w)
	m.mu.Unlock()
	select {
	case <-w.reached:
		return nil
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		m.waiters = slices.DeleteFunc(m.waiters, func(o waiter) bool { return o.reached == w.reached })
		return ctx.Err()
	}
}

// apply takes up one event of the watch. o is nil for a bookmark.
func (m *mirror) apply(o api.Object, gone bool, revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.content.Load()
	var changes []Change
	if o != nil {
		next = next.Clone()
		if c := put(next, item{key(m.facts, o.GetNamespace(), o.GetName()), o}, gone); c.Old != nil || c.New != nil {
			changes = []Change{c}
		}
	}
	m.publishLocked(next, changes, revision)
}

// put changes the tree and says what changed. An unknown object that goes is no change.
func put(t *tree, it item, gone bool) Change {
	if gone {
		old, _ := t.Delete(it)
		return Change{Old: old.object}
	}
	old, _ := t.ReplaceOrInsert(it)
	return Change{Old: old.object, New: it.object}
}

// replace makes the content that of a fresh list, as changes to what was there.
func (m *mirror) replace(objects []api.Object, revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.content.Load()
	next := old.Clone()
	next.Clear(false)
	var changes []Change
	for _, o := range objects {
		it := item{key(m.facts, o.GetNamespace(), o.GetName()), o}
		was, had := old.Get(it)
		if had && was.object.GetResourceVersion() == o.GetResourceVersion() {
			it = was // keep the one that readers may hold
		} else {
			changes = append(changes, Change{Old: was.object, New: o})
		}
		next.ReplaceOrInsert(it)
	}
	var lost []Change
	old.Ascend(func(it item) bool {
		if !next.Has(it) {
			lost = append(lost, Change{Old: it.object})
		}
		return true
	})
	m.publishLocked(next, append(lost, changes...), revision)
	select {
	case <-m.synced:
	default:
		close(m.synced)
	}
}

// publishLocked shows the new content to readers, then to subscribers, then
// moves the revision.
func (m *mirror) publishLocked(next *tree, changes []Change, revision int64) {
	m.content.Store(next)
	if len(changes) == 0 {
		changes = []Change{{}}
	}
	for _, c := range changes {
		c.Revision = revision
		for _, s := range m.subs {
			s.handle(c)
		}
	}
	m.revision.Store(revision)
	m.waiters = slices.DeleteFunc(m.waiters, func(w waiter) bool {
		if w.revision > revision {
			return false
		}
		close(w.reached)
		return true
	})
}

// revisionOf reads a resource version; the server's are always numbers.
func revisionOf(version string) int64 {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		slog.Debug("resource version is not a number", "version", version)
	}
	return n
}
