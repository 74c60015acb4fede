// Package memory is a datastore.Store in memory: the model that the other
// implementations are compared with, and the store of tests. It keeps every
// version until Compact and is as plain as it can be.
package memory

import (
	"context"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"

	"github.com/google/btree"

	"orch/datastore"
	"orch/datastore/watch"
)

var _ datastore.Store = (*Store)(nil)

// Store is safe for many goroutines. Make one with New.
type Store struct {
	hub *watch.Hub

	mu        sync.RWMutex
	keys      *btree.BTreeG[*history]
	log       []datastore.Event // every event since compacted, oldest first
	revision  int64
	compacted int64
	closed    bool
}

// history is all that happened to one key, oldest first.
type history struct {
	key      string
	versions []version
}

type version struct {
	kv     datastore.KV
	delete bool
}

// New returns an empty store at revision 1.
func New() *Store {
	s := &Store{revision: 1, keys: btree.NewG(32, func(a, b *history) bool { return a.key < b.key })}
	s.hub = watch.New(1, s.past)
	return s
}

// at returns the version that was in force at revision; its ModRevision is 0 if the key did not exist.
func (h *history) at(revision int64) datastore.KV {
	i := sort.Search(len(h.versions), func(i int) bool { return h.versions[i].kv.ModRevision > revision })
	if i == 0 || h.versions[i-1].delete {
		return datastore.KV{}
	}
	return h.versions[i-1].kv
}

func (s *Store) currentLocked(key string) datastore.KV {
	if h, ok := s.keys.Get(&history{key: key}); ok {
		return h.at(s.revision)
	}
	return datastore.KV{}
}

func (s *Store) Commit(ctx context.Context, t datastore.Txn) (int64, error) {
	if err := t.Check(); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, datastore.ErrClosed
	}
	prev := make([]datastore.KV, len(t.Ops))
	for i, op := range t.Ops {
		prev[i] = s.currentLocked(op.Key)
		if op.Expect != datastore.Any && op.Expect != prev[i].ModRevision {
			prev[i].Key = op.Key
			return 0, &datastore.ConflictError{Key: op.Key, Current: prev[i]}
		}
	}
	s.revision++
	events := make([]datastore.Event, 0, len(t.Ops))
	for i, op := range t.Ops {
		if op.Delete && prev[i].ModRevision == 0 {
			continue // deleting what is not there changes nothing
		}
		events = append(events, s.applyLocked(op, prev[i]))
	}
	s.log = append(s.log, events...)
	s.hub.Publish(s.revision, events)
	return s.revision, nil
}

func (s *Store) applyLocked(op datastore.Op, prev datastore.KV) datastore.Event {
	kv := datastore.KV{Key: op.Key, CreateRevision: prev.CreateRevision, ModRevision: s.revision}
	if !op.Delete {
		kv.Value = op.Value
		if prev.ModRevision == 0 {
			kv.CreateRevision = s.revision
		}
	}
	h, ok := s.keys.Get(&history{key: op.Key})
	if !ok {
		h = &history{key: op.Key}
		s.keys.ReplaceOrInsert(h)
	}
	h.versions = append(h.versions, version{kv, op.Delete})
	prev.Key = op.Key
	return datastore.Event{KV: kv, Delete: op.Delete, Prev: prev, Object: op.Object}
}

// readableLocked resolves a revision asked for (0: newest).
func (s *Store) readableLocked(revision int64) (int64, error) {
	switch {
	case s.closed:
		return 0, datastore.ErrClosed
	case revision == 0:
		return s.revision, nil
	case revision > s.revision:
		return 0, datastore.ErrFuture
	case revision < s.compacted:
		return 0, datastore.ErrCompacted
	}
	return revision, nil
}

func (s *Store) Get(_ context.Context, key string, revision int64) (datastore.KV, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	revision, err := s.readableLocked(revision)
	if err != nil {
		return datastore.KV{}, err
	}
	if h, ok := s.keys.Get(&history{key: key}); ok {
		if kv := h.at(revision); kv.ModRevision != 0 {
			return kv, nil
		}
	}
	return datastore.KV{}, datastore.ErrNotFound
}

func (s *Store) List(_ context.Context, r datastore.ListRequest) (datastore.ListResult, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	revision, err := s.readableLocked(r.Revision)
	if err != nil {
		return datastore.ListResult{}, err
	}
	out := datastore.ListResult{Revision: revision}
	s.keys.AscendGreaterOrEqual(&history{key: max(r.Prefix, r.After)}, func(h *history) bool {
		if !strings.HasPrefix(h.key, r.Prefix) {
			return false
		}
		kv := h.at(revision)
		if kv.ModRevision == 0 || h.key <= r.After {
			return true
		}
		if r.Limit > 0 && len(out.KVs) == r.Limit {
			out.More = true
			return false
		}
		out.KVs = append(out.KVs, kv)
		return true
	})
	return out, nil
}

func (s *Store) Watch(ctx context.Context, prefix string, after int64) (datastore.Watcher, error) {
	return s.hub.Watch(ctx, prefix, after)
}

// past is the hub's History.
func (s *Store) past(after, upTo int64, limit int) ([]datastore.Event, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if after < s.compacted {
		return nil, datastore.ErrCompacted
	}
	i := sort.Search(len(s.log), func(i int) bool { return s.log[i].ModRevision > after })
	j := i
	for j < len(s.log) && s.log[j].ModRevision <= upTo && (j-i < limit || s.log[j].ModRevision == s.log[j-1].ModRevision) {
		j++
	}
	out := make([]datastore.Event, j-i)
	for k, e := range s.log[i:j] {
		e.Object = nil
		out[k] = e
	}
	return out, nil
}

func (s *Store) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

func (s *Store) Oldest() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.compacted
}

func (s *Store) Compact(_ context.Context, revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if revision > s.revision {
		return datastore.ErrFuture
	}
	if revision <= s.compacted {
		return nil
	}
	s.compacted = revision
	var gone []*history
	s.keys.Ascend(func(h *history) bool {
		i := sort.Search(len(h.versions), func(i int) bool { return h.versions[i].kv.ModRevision > revision })
		if i > 0 && !h.versions[i-1].delete {
			i-- // still in force at revision
		}
		h.versions = h.versions[i:]
		if len(h.versions) == 0 {
			gone = append(gone, h)
		}
		return true
	})
	for _, h := range gone {
		s.keys.Delete(h)
	}
	i := sort.Search(len(s.log), func(i int) bool { return s.log[i].ModRevision > revision })
	s.log = append([]datastore.Event(nil), s.log[i:]...)
	return nil
}

// Snapshot writes the current keys in a plain form: it is the model's, not for restoring.
func (s *Store) Snapshot(ctx context.Context, w io.Writer) error {
	l, err := s.List(ctx, datastore.ListRequest{})
	if err != nil {
		return err
	}
	for _, kv := range l.KVs {
		if _, err := fmt.Fprintf(w, "%q %d %d %q\n", kv.Key, kv.CreateRevision, kv.ModRevision, kv.Value); err != nil {
			return fmt.Errorf("writing a snapshot: %w", err)
		}
	}
	return nil
}

func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.hub.Close()
	return nil
}
