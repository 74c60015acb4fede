package bolt

import (
	"context"
	"time"

	"go.etcd.io/bbolt"

	"orch/datastore"
)

// sampleEvery is how finely the writer remembers which revision was current when.
const sampleEvery = 10 * time.Second

// garbage is what the writer knows of replaced versions.
type garbage struct {
	versions int
	bytes    int64
	// samples, oldest first, map times to revisions; those older than KeepHistory go.
	samples []sample
}

type sample struct {
	at       time.Time
	revision int64
}

// track counts what the record p makes garbage: its predecessor, and a
// deletion's own record.
func (w *writer) track(p position, r record, bytes int) {
	if r.prev.revision != 0 {
		w.garbage.versions++
		w.garbage.bytes += int64(bytes)
	}
	if r.delete {
		w.garbage.versions++
	}
}

// maybeCompact runs after a group, never from a timer: an idle store writes nothing.
func (w *writer) maybeCompact() {
	g := &w.garbage
	w.age(time.Now())
	target := w.oldest
	switch {
	case g.bytes > w.cfg.KeepBytes:
		target = w.next - 1
	case g.versions < w.cfg.CompactAt:
		return // not worth a write
	}
	if target > w.compacted {
		if err := w.compact(target); err != nil {
			w.cfg.Log.Error("compacting the datastore failed", "revision", target, "err", err)
		}
	}
}

// age moves oldest to the revision that was current KeepHistory ago.
func (w *writer) age(now time.Time) {
	g := &w.garbage
	if n := len(g.samples); n == 0 || now.Sub(g.samples[n-1].at) >= sampleEvery {
		g.samples = append(g.samples, sample{now, w.next})
	}
	oldest := w.oldest
	for len(g.samples) > 0 && now.Sub(g.samples[0].at) > w.cfg.KeepHistory {
		oldest, g.samples = g.samples[0].revision, g.samples[1:]
	}
	if oldest != w.oldest {
		w.mu.Lock()
		w.oldest = oldest
		w.mu.Unlock()
	}
}

// compact forgets in the index first and deletes from the file afterwards, so
// that no reader is sent to a record that is gone.
func (w *writer) compact(revision int64) error {
	if len(w.pending) > 0 {
		if err := w.flushPending(); err != nil {
			return err
		}
	}
	w.mu.Lock()
	gone := w.index.compact(revision)
	w.compacted = revision
	w.mu.Unlock()
	w.garbage.versions = max(0, w.garbage.versions-len(gone))
	w.garbage.bytes = 0
	err := w.db.Update(func(tx *bbolt.Tx) error {
		records := tx.Bucket(bucketRecords)
		for _, p := range gone {
			if err := records.Delete(p.bytes()); err != nil {
				return err
			}
		}
		return putUint(tx.Bucket(bucketMeta), metaCompact, uint64(revision))
	})
	if err != nil {
		return diskError(err)
	}
	w.forgetPages()
	return nil
}

func (s *Store) Oldest() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return max(s.compacted, s.oldest)
}

func (s *Store) Compact(ctx context.Context, revision int64) error {
	return s.between(ctx, func() error {
		s.mu.RLock()
		current, compacted := s.revision, s.compacted
		s.mu.RUnlock()
		switch {
		case revision > current:
			return datastore.ErrFuture
		case revision <= compacted:
			return nil
		}
		return s.writer.compact(revision)
	})
}
