package bolt

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"go.etcd.io/bbolt"

	"orch/datastore"
)

func comparePositions(a, b position) int {
	if a.revision != b.revision {
		if a.revision < b.revision {
			return -1
		}
		return 1
	}
	return int(a.index) - int(b.index)
}

// view calls f with the resolved revision and a transaction that has every record
// which the index names at this moment. It holds mu for as long.
func (s *Store) view(revision int64, f func(tx *bbolt.Tx, revision int64) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return datastore.ErrClosed
	case revision == 0:
		revision = s.revision
	case revision > s.revision:
		return datastore.ErrFuture
	case revision < s.compacted:
		return datastore.ErrCompacted
	}
	return s.db.View(func(tx *bbolt.Tx) error { return f(tx, revision) })
}

// readLocked reads the version at p from memory or the file.
func (s *Store) readLocked(tx *bbolt.Tx, p position) (datastore.KV, error) {
	if r, ok := s.pending[p]; ok {
		return r.kv(p), nil
	}
	r, err := decode(tx.Bucket(bucketRecords).Get(p.bytes()))
	if err != nil {
		return datastore.KV{}, fmt.Errorf("reading revision %d: %w", p.revision, err)
	}
	return r.kv(p), nil
}

// value reads one version; the writer calls it, which needs no lock.
func (s *Store) value(p position) (kv datastore.KV, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		kv, err = s.readLocked(tx, p)
		return err
	})
	return kv, err
}

func (s *Store) Get(_ context.Context, key string, revision int64) (kv datastore.KV, err error) {
	err = s.view(revision, func(tx *bbolt.Tx, revision int64) error {
		v, ok := s.index.get(key, revision)
		if !ok {
			return datastore.ErrNotFound
		}
		kv, err = s.readLocked(tx, v.position)
		return err
	})
	return kv, err
}

func (s *Store) List(ctx context.Context, r datastore.ListRequest) (out datastore.ListResult, err error) {
	err = s.view(r.Revision, func(tx *bbolt.Tx, revision int64) error {
		out.Revision = revision
		var failed error
		s.index.ascend(r.Prefix, r.After, revision, func(_ string, v version) bool {
			if r.Limit > 0 && len(out.KVs) == r.Limit {
				out.More = true
				return false
			}
			kv, err := s.readLocked(tx, v.position)
			if err == nil {
				err = ctx.Err()
			}
			failed = err
			out.KVs = append(out.KVs, kv)
			return err == nil
		})
		return failed
	})
	return out, err
}

func (s *Store) Watch(ctx context.Context, prefix string, after int64) (datastore.Watcher, error) {
	s.mu.RLock()
	compacted := s.compacted
	s.mu.RUnlock()
	if after < compacted {
		return nil, datastore.ErrCompacted
	}
	return s.hub.Watch(ctx, prefix, after)
}

// past is the hub's History: it merges the file's records with the pending ones.
func (s *Store) past(after, upTo int64, limit int) (events []datastore.Event, err error) {
	err = s.view(after, func(tx *bbolt.Tx, _ int64) error {
		lazy := s.pendingBetweenLocked(after, upTo)
		c := tx.Bucket(bucketRecords).Cursor()
		k, v := c.Seek(position{revision: after + 1}.bytes())
		for {
			var p position
			var r record
			fromFile := k != nil && positionOf(k).revision <= upTo
			switch {
			case fromFile && (len(lazy) == 0 || comparePositions(positionOf(k), lazy[0]) < 0):
				p = positionOf(k)
				if r, err = decode(v); err != nil {
					return fmt.Errorf("reading revision %d: %w", p.revision, err)
				}
				k, v = c.Next()
			case len(lazy) > 0:
				p, lazy = lazy[0], lazy[1:]
				r = s.pending[p]
			default:
				return nil
			}
			if len(events) >= limit && events[len(events)-1].ModRevision != p.revision {
				return nil
			}
			e, err := s.eventLocked(tx, p, r)
			if err != nil {
				return err
			}
			events = append(events, e)
		}
	})
	return events, err
}

func (s *Store) pendingBetweenLocked(after, upTo int64) []position {
	var out []position
	for p := range s.pending {
		if p.revision > after && p.revision <= upTo {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePositions)
	return out
}

func (s *Store) eventLocked(tx *bbolt.Tx, p position, r record) (datastore.Event, error) {
	e := datastore.Event{KV: r.kv(p), Delete: r.delete, Prev: datastore.KV{Key: r.key}}
	if r.prev.revision == 0 {
		return e, nil
	}
	prev, err := s.readLocked(tx, r.prev)
	if err != nil { // the version before was compacted; the change itself was not
		return e, fmt.Errorf("%w: %w", datastore.ErrCompacted, err)
	}
	e.Prev = prev
	return e, nil
}

func (s *Store) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Snapshot writes a copy of the file, lazy commits included.
func (s *Store) Snapshot(ctx context.Context, w io.Writer) error {
	if err := s.between(ctx, s.writer.flushPending); err != nil {
		return fmt.Errorf("writing a snapshot: %w", err)
	}
	err := s.db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing a snapshot: %w", err)
	}
	return nil
}

// Size is the bytes of the file.
func (s *Store) Size() (int64, error) {
	st, err := os.Stat(s.cfg.Path)
	if err != nil {
		return 0, fmt.Errorf("asking for the datastore's size: %w", err)
	}
	return st.Size(), nil
}
