package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"orch/datastore"
)

// Simulation drives a store and the model with the same random operations and
// compares every answer.
type Simulation struct {
	Store, Model datastore.Store
	// Seed repeats a run; a failure prints it.
	Seed  uint64
	Steps int
	// Reopen, if not nil, closes the store and opens its data again.
	Reopen func(datastore.Store) datastore.Store
}

// Run stops at the first difference.
func (c Simulation) Run(t *testing.T) {
	t.Helper()
	s := &simulation{T: t, Rand: rand.New(rand.NewPCG(c.Seed, 1)), store: c.Store, model: c.Model}
	for i := range c.Steps {
		if c.Reopen != nil && s.IntN(200) == 0 {
			s.store = c.Reopen(s.store)
		}
		if s.step(); t.Failed() {
			t.Logf("failed at step %d with seed %d", i, c.Seed)
			return
		}
	}
}

type simulation struct {
	*testing.T
	*rand.Rand
	store, model datastore.Store
	compacted    int64
}

func (s *simulation) key() string { return fmt.Sprintf("/%c/%d", 'a'+rune(s.IntN(3)), s.IntN(8)) }

// revision is 0, a past one, or one ahead.
func (s *simulation) revision() int64 {
	if s.IntN(3) == 0 {
		return 0
	}
	return 1 + s.Int64N(s.model.Revision()+1)
}

func (s *simulation) step() {
	switch n := s.IntN(100); {
	case n < 55:
		s.commit()
	case n < 70:
		k, r := s.key(), s.revision()
		got, err := s.store.Get(ctx, k, r)
		want, wantErr := s.model.Get(ctx, k, r)
		s.same(fmt.Sprintf("get %s at %d", k, r), got, want, err, wantErr)
	case n < 85:
		r := datastore.ListRequest{Prefix: []string{"", "/a/", "/b", "/x"}[s.IntN(4)], Limit: s.IntN(5), Revision: s.revision()}
		if s.IntN(2) == 0 {
			r.After = s.key()
		}
		got, err := s.store.List(ctx, r)
		want, wantErr := s.model.List(ctx, r)
		s.same(fmt.Sprintf("list %+v", r), got, want, err, wantErr)
	case n < 97:
		s.watch()
	default:
		if r := s.revision(); r >= s.compacted {
			err, wantErr := s.store.Compact(ctx, r), s.model.Compact(ctx, r)
			s.same(fmt.Sprintf("compact %d", r), nil, nil, err, wantErr)
			if err == nil {
				s.compacted = max(r, s.compacted)
			}
		}
	}
}

func (s *simulation) commit() {
	t := datastore.Txn{Lazy: s.IntN(3) == 0}
	for range 1 + s.IntN(3) {
		op := datastore.Op{Key: s.key(), Delete: s.IntN(4) == 0, Expect: datastore.Any}
		if !op.Delete {
			op.Value = fmt.Appendf(nil, "v%d", s.IntN(1000))
		}
		if s.IntN(2) == 0 {
			kv, _ := s.model.Get(ctx, op.Key, 0)
			op.Expect = kv.ModRevision + int64(s.IntN(8)/7) // wrong now and then
		}
		t.Ops = append(t.Ops, op)
	}
	got, err := s.store.Commit(ctx, t)
	want, wantErr := s.model.Commit(ctx, t)
	s.same(fmt.Sprintf("commit %+v", t), got, want, err, wantErr)
}

// watch compares the whole history behind a revision.
func (s *simulation) watch() {
	after := max(1, s.compacted) + s.Int64N(max(1, s.model.Revision()-max(1, s.compacted)+1))
	got, err := s.history(s.store, after)
	want, wantErr := s.history(s.model, after)
	s.same(fmt.Sprintf("watch after %d", after), got, want, err, wantErr)
}

func (s *simulation) history(store datastore.Store, after int64) (string, error) {
	w, err := store.Watch(ctx, "/", after)
	if err != nil {
		return "", err
	}
	defer w.Close()
	var out []datastore.Event
	last := s.lastChange(after)
	for last > 0 {
		batch, ok := <-w.Events()
		if !ok {
			return "", w.Err()
		}
		out = append(out, batch...)
		if batch[len(batch)-1].ModRevision >= last {
			break
		}
	}
	return show(out), nil
}

// lastChange is the newest revision behind after that has events, 0 if none has.
func (s *simulation) lastChange(after int64) int64 {
	last := int64(0)
	for r := s.model.Revision(); r > after && last == 0; r-- {
		before, _ := s.model.List(ctx, datastore.ListRequest{Revision: max(r-1, s.compacted)})
		now, _ := s.model.List(ctx, datastore.ListRequest{Revision: r})
		if fmt.Sprint(before.KVs) != fmt.Sprint(now.KVs) {
			last = r
		}
	}
	return last
}

func (s *simulation) same(what string, got, want any, err, wantErr error) {
	s.Helper()
	for _, kind := range []error{datastore.ErrConflict, datastore.ErrNotFound, datastore.ErrCompacted, datastore.ErrFuture} {
		if errors.Is(err, kind) != errors.Is(wantErr, kind) {
			s.Errorf("%s: error %v, want %v", what, err, wantErr)
			return
		}
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w || (err == nil) != (wantErr == nil) {
		s.Errorf("%s:\n got %s (%v)\nwant %s (%v)", what, g, err, w, wantErr)
	}
}
