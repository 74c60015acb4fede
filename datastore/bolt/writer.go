package bolt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"orch/datastore"
)

// Limits of the writer.
const (
	// maxWaiting commits may queue; further callers block in Commit.
	maxWaiting = 1024
	// maxGroup commits, or about maxGroupBytes of values, share one fsync.
	maxGroup      = 512
	maxGroupBytes = 16 << 20
)

// request asks the writer for one commit, or to run do between commits.
type request struct {
	ctx   context.Context
	txn   datastore.Txn
	do    func() error
	reply chan result // has room for the one answer
}

type result struct {
	revision int64
	err      error
}

// staged is a version that a group adds.
type staged struct {
	position
	record
	object   any
	previous datastore.KV
}

// writer is the one goroutine that changes the file and the index.
type writer struct {
	*Store
	ceiling int64 // on disk; no revision above it was given out
	next    int64 // newest revision given to a commit, even to one that failed later
	garbage garbage
	flush   *time.Timer // runs while pending is not empty
	// unforgotten bytes were written since forgetPages.
	unforgotten int
}

func newWriter(s *Store) *writer {
	w := &writer{Store: s, flush: time.NewTimer(time.Hour)}
	w.flush.Stop()
	return w
}

func (w *writer) run() {
	defer close(w.done)
	w.next = w.revision
	for {
		select {
		case r := <-w.requests:
			w.serve(r)
		case <-w.flush.C:
			if err := w.flushPending(); err != nil {
				w.cfg.Log.Error("flushing lazy commits failed, they stay in memory", "err", err)
				w.flush.Reset(w.cfg.FlushAfter)
			}
		case <-w.quit:
			w.end()
			return
		}
	}
}

// end refuses what still waits and leaves a tidy file.
func (w *writer) end() {
	for {
		select {
		case r := <-w.requests:
			r.reply <- result{err: datastore.ErrClosed}
			continue
		default:
		}
		break
	}
	w.flush.Stop()
	w.ceiling = w.next
	if err := w.flushPending(); err != nil {
		w.cfg.Log.Error("flushing lazy commits at close failed", "err", err)
	}
}

// serve handles r together with all that waits behind it.
func (w *writer) serve(r *request) {
	var group []*request
	for bytes := 0; ; {
		if r.do != nil {
			w.commit(group)
			r.reply <- result{err: r.do()}
			return
		}
		group = append(group, r)
		for _, op := range r.txn.Ops {
			bytes += len(op.Value)
		}
		if len(group) == maxGroup || bytes > maxGroupBytes {
			break
		}
		select {
		case r = <-w.requests:
			continue
		default:
		}
		break
	}
	w.commit(group)
	w.maybeCompact()
}

// commit is the group commit: check, write, show, answer.
func (w *writer) commit(group []*request) {
	if len(group) == 0 {
		return
	}
	g := grouping{writer: w, newest: map[string]version{}, durable: false}
	accepted := group[:0]
	for _, r := range group {
		if err := g.stage(r); err != nil {
			r.reply <- result{err: err}
			continue
		}
		accepted = append(accepted, r)
	}
	if len(accepted) == 0 {
		return
	}
	err := w.persist(&g)
	if err == nil {
		w.show(&g)
	}
	for i, r := range accepted {
		if err != nil {
			r.reply <- result{err: err}
		} else {
			r.reply <- result{revision: g.revisions[i]}
		}
	}
}

// grouping collects what a group of commits changes.
type grouping struct {
	*writer
	newest    map[string]version // of the keys the group has changed
	versions  []staged
	revisions []int64 // of the accepted commits
	durable   bool
}

// stage checks one commit against the newest state and the commits before it.
func (g *grouping) stage(r *request) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	prev := make([]version, len(r.txn.Ops))
	for i, op := range r.txn.Ops {
		v, ok := g.newest[op.Key]
		if !ok {
			v, _ = g.index.newest(op.Key)
		}
		if v.delete {
			v = version{}
		}
		prev[i] = v
		if op.Expect != datastore.Any && op.Expect != v.revision {
			return g.conflict(op.Key, v)
		}
	}
	g.next++
	g.revisions = append(g.revisions, g.next)
	g.durable = g.durable || !r.txn.Lazy
	for i, op := range r.txn.Ops {
		if op.Delete && prev[i].revision == 0 {
			continue // deleting what is not there changes nothing
		}
		g.add(op, prev[i], uint32(i))
	}
	return nil
}

func (g *grouping) add(op datastore.Op, prev version, i uint32) {
	create := prev.create
	if prev.revision == 0 {
		create = g.next
	}
	p := position{g.next, i}
	r := record{delete: op.Delete, create: create, prev: prev.position, key: op.Key}
	if !op.Delete {
		r.value = op.Value
	}
	g.newest[op.Key] = versionOf(p, r)
	g.versions = append(g.versions, staged{position: p, record: r, object: op.Object})
}

func (g *grouping) conflict(key string, v version) error {
	current := datastore.KV{Key: key}
	if v.revision != 0 {
		for _, s := range g.versions { // in this group, not in the file yet
			if s.position == v.position {
				return &datastore.ConflictError{Key: key, Current: s.kv(s.position)}
			}
		}
		kv, err := g.value(v.position)
		if err != nil {
			return err
		}
		current = kv
	}
	return &datastore.ConflictError{Key: key, Current: current}
}

// persist puts the group into the file, with all lazy records that wait; a group
// of lazy commits only stays in memory as long as the ceiling covers it.
func (w *writer) persist(g *grouping) error {
	if err := w.previous(g); err != nil {
		return err
	}
	if !g.durable && w.next <= w.ceiling {
		return nil
	}
	ceiling := max(w.ceiling, w.next)
	if !g.durable {
		ceiling = w.next + reserve
	}
	err := w.db.Update(func(tx *bbolt.Tx) error {
		records := tx.Bucket(bucketRecords)
		records.FillPercent = 0.95 // keys only grow
		if err := w.putPending(records); err != nil {
			return err
		}
		for _, s := range g.versions {
			if err := records.Put(s.position.bytes(), s.encode()); err != nil {
				return err
			}
		}
		return putUint(tx.Bucket(bucketMeta), metaCeiling, uint64(ceiling))
	})
	if err != nil {
		return diskError(err)
	}
	w.ceiling = ceiling
	g.durable = true
	return nil
}

// previous reads the versions that the group replaces, for the events.
func (w *writer) previous(g *grouping) error {
	inGroup := map[position]int{}
	return w.db.View(func(tx *bbolt.Tx) error {
		for i := range g.versions {
			s := &g.versions[i]
			inGroup[s.position] = i
			if s.prev.revision == 0 {
				s.previous.Key = s.key
				continue
			}
			if j, ok := inGroup[s.prev]; ok {
				s.previous = g.versions[j].kv(s.prev)
				continue
			}
			kv, err := w.readLocked(tx, s.prev) // the writer itself is the only one who changes pending
			if err != nil {
				return err
			}
			s.previous = kv
		}
		return nil
	})
}

// show makes the group visible to readers and watchers.
func (w *writer) show(g *grouping) {
	events := make([]datastore.Event, len(g.versions))
	for i, s := range g.versions {
		events[i] = datastore.Event{KV: datastore.KV{Key: s.key, Value: s.value, CreateRevision: s.create, ModRevision: s.revision},
			Delete: s.delete, Prev: s.previous, Object: s.object}
	}
	w.mu.Lock()
	if g.durable {
		w.forgetPendingLocked()
	}
	for _, s := range g.versions {
		w.index.add(s.key, versionOf(s.position, s.record))
		if !g.durable {
			if len(w.pending) == 0 {
				w.flush.Reset(w.cfg.FlushAfter)
			}
			w.pending[s.position] = s.record
		}
	}
	w.revision = w.next
	w.hub.Publish(w.next, events)
	w.mu.Unlock()
	bytes := 0
	for _, s := range g.versions {
		n := recordHeader + len(s.key) + len(s.value)
		w.track(s.position, s.record, n)
		bytes += n
	}
	w.wrote(bytes)
}

func (w *writer) forgetPendingLocked() {
	if len(w.pending) > 0 {
		w.pending = map[position]record{}
	}
	w.flush.Stop()
}

func (w *writer) putPending(records *bbolt.Bucket) error {
	order := make([]position, 0, len(w.pending))
	for p := range w.pending {
		order = append(order, p)
	}
	slices.SortFunc(order, comparePositions)
	for _, p := range order {
		if err := records.Put(p.bytes(), w.pending[p].encode()); err != nil {
			return err
		}
	}
	return nil
}

// flushPending makes lazy commits durable.
func (w *writer) flushPending() error {
	err := w.db.Update(func(tx *bbolt.Tx) error {
		records := tx.Bucket(bucketRecords)
		records.FillPercent = 0.95
		if err := w.putPending(records); err != nil {
			return err
		}
		return putUint(tx.Bucket(bucketMeta), metaCeiling, uint64(max(w.ceiling, w.next)))
	})
	if err != nil {
		return diskError(err)
	}
	w.mu.Lock()
	w.forgetPendingLocked()
	w.mu.Unlock()
	return nil
}

// diskError sorts a failed bbolt transaction into the contract's kinds.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("writing the datastore: %w (%w)", datastore.ErrNoSpace, err)
	}
	return fmt.Errorf("writing the datastore: %w", err)
}

// Commit hands t to the writer and waits for its answer.
func (s *Store) Commit(ctx context.Context, t datastore.Txn) (int64, error) {
	if err := t.Check(); err != nil {
		return 0, err
	}
	r, err := s.ask(&request{ctx: ctx, txn: t, reply: make(chan result, 1)})
	if err != nil {
		return 0, err
	}
	return r.revision, r.err
}

// between runs do in the writer, between two groups.
func (s *Store) between(ctx context.Context, do func() error) error {
	r, err := s.ask(&request{ctx: ctx, do: do, reply: make(chan result, 1)})
	if err != nil {
		return err
	}
	return r.err
}

func (s *Store) ask(r *request) (result, error) {
	select {
	case s.requests <- r:
	case <-r.ctx.Done():
		return result{}, r.ctx.Err()
	case <-s.done:
		return result{}, datastore.ErrClosed
	}
	select {
	case a := <-r.reply:
		return a, nil
	case <-s.done:
	}
	select { // answered while it ended
	case a := <-r.reply:
		return a, nil
	default:
		return result{}, datastore.ErrClosed
	}
}
