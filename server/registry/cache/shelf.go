package cache

import (
	"strings"
	"sync"

	"github.com/google/btree"

	"orch/api/client"
)

// Limits of the recent changes kept for each kind. A watch from further back
// reads the store's history.
const (
	ringEvents = 4096
	ringBytes  = 2 << 20
)

// change is one step of one object. old or item is nil, never both.
type change struct {
	rev       int64
	old, item *Item

	once sync.Once
	last *Item
}

// gone is the old version under the revision of the change.
func (c *change) gone() *Item {
	c.once.Do(func() { c.last = c.old.at(c.rev) })
	return c.last
}

func (c *change) size() int {
	if c.item != nil {
		return c.item.size + 256
	}
	return 256
}

type entry struct {
	key  string
	item *Item
}

func entryLess(a, b entry) bool { return a.key < b.key }

type tree = btree.BTreeG[entry]

// shelf holds the objects of one stored kind and hands changes to those who follow
// it. Only the feed changes it. Lock order: out before mu.
type shelf struct {
	kind *Kind

	mu      sync.RWMutex
	objects *tree
	snap    *tree     // a clone of objects as it is now, nil if none was made since the last change
	ring    []*change // oldest first
	bytes   int       // of ring
	stored  int64     // bytes of all objects as they are stored
	floor   int64     // every change after this revision is in ring
	applied int64     // revision of the newest change
	// broken are the errors of stored values that cannot be read, by key: reads of
	// them fail, they are not "not found".
	broken map[string]error
	// mended is the revision at which some of them could be read at last: who knows the
	// state of before cannot learn of them by changes.
	mended int64

	// out is held while a change is handed to the followers.
	out         sync.Mutex
	watches     map[*Watch]struct{}
	subscribers map[*subscriber]struct{}
}

type subscriber struct {
	kind  *Kind
	after int64
	call  func(client.Change)
}

func newShelf(k *Kind, revision int64) *shelf {
	return &shelf{
		kind: k, objects: btree.NewG(32, entryLess), floor: revision, applied: revision,
		watches: map[*Watch]struct{}{}, subscribers: map[*subscriber]struct{}{},
	}
}

func (s *shelf) get(key string) *Item {
	s.mu.RLock()
	e, _ := s.objects.Get(entry{key: key})
	s.mu.RUnlock()
	return e.item
}

// spoil remembers that the value under key cannot be read; the next change of it forgets that.
func (s *shelf) spoil(key string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = map[string]error{}
	}
	s.broken[key] = err
}

// unreadable is the error of one value of a namespace that cannot be read, nil if there is none.
func (s *shelf) unreadable(namespace string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for key, err := range s.broken {
		if namespace == "" || s.kind.Facts.Cluster || strings.HasPrefix(key, namespace+"/") {
			return err
		}
	}
	return nil
}

// missed tells that the changes after a revision are not all that has come since.
func (s *shelf) missed(revision int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return revision < s.mended
}

// snapshot is the whole content now and the revision of its newest change.
func (s *shelf) snapshot() (*tree, int64) {
	s.mu.RLock()
	t, rev := s.snap, s.applied
	s.mu.RUnlock()
	if t != nil {
		return t, rev
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snap == nil {
		s.snap = s.objects.Clone()
	}
	return s.snap, s.applied
}

// apply makes item (nil: a deletion) the state of key at revision and returns the
// change, nil if there was nothing to delete.
func (s *shelf) apply(key string, item *Item, revision int64) *change {
	s.mu.Lock()
	defer s.mu.Unlock()
	var prev entry
	if item != nil {
		prev, _ = s.objects.ReplaceOrInsert(entry{key, item})
	} else {
		prev, _ = s.objects.Delete(entry{key: key})
	}
	if len(s.broken) > 0 {
		delete(s.broken, key)
	}
	s.snap = nil
	s.applied = max(s.applied, revision)
	s.stored += storedSize(item) - storedSize(prev.item)
	if prev.item == nil && item == nil {
		return nil
	}
	c := &change{rev: revision, old: prev.item, item: item}
	s.ring = append(s.ring, c)
	s.bytes += c.size()
	s.trimLocked()
	return c
}

func storedSize(i *Item) int64 {
	if i == nil {
		return 0
	}
	return int64(i.size)
}

// amount counts the objects and their bytes.
func (s *shelf) amount() (objects, bytes int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return int64(s.objects.Len()), s.stored
}

func (s *shelf) trimLocked() {
	n := 0
	for n < len(s.ring) && (len(s.ring)-n > ringEvents || s.bytes > ringBytes) {
		s.floor = s.ring[n].rev
		for n < len(s.ring) && s.ring[n].rev == s.floor { // a revision stays or goes whole
			s.bytes -= s.ring[n].size()
			n++
		}
	}
	if n > 0 {
		clear(s.ring[:n])
		s.ring = s.ring[n:]
	}
}

// since lists the kept changes after revision; false if some are no longer kept.
func (s *shelf) since(revision int64) ([]*change, int64, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if revision < s.floor {
		return nil, s.applied, false
	}
	i := len(s.ring)
	for i > 0 && s.ring[i-1].rev > revision {
		i--
	}
	return append([]*change(nil), s.ring[i:]...), s.applied, true
}

// deliver hands c to all followers.
func (s *shelf) deliver(c *change) {
	s.out.Lock()
	defer s.out.Unlock()
	for w := range s.watches {
		w.offer(c)
	}
	for b := range s.subscribers {
		b.offer(c)
	}
}

func (b *subscriber) offer(c *change) {
	if c.rev <= b.after {
		return
	}
	ch := client.Change{Revision: c.rev}
	if c.old != nil {
		if i, err := c.old.near(b.kind); err == nil {
			ch.Old = i.obj
		}
	}
	if c.item != nil {
		if i, err := c.item.near(b.kind); err == nil {
			ch.New = i.obj
		}
	}
	if ch.Old != nil || ch.New != nil {
		b.call(ch)
	}
}

// cut ends every watch: the shelf has lost its place in the store's history.
func (s *shelf) cut(revision int64) {
	s.mu.Lock()
	s.ring, s.bytes, s.floor = nil, 0, revision
	s.mu.Unlock()
	s.out.Lock()
	defer s.out.Unlock()
	for w := range s.watches {
		w.end()
	}
	clear(s.watches)
}
