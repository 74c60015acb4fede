// Package storetest is the conformance suite of datastore.Store: named checks
// that every implementation runs through a factory (Run), and a random simulation
// against the memory model (Simulation). It knows the contract only.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"orch/datastore"
)

// Open returns a fresh, empty store; the suite closes it.
type Open func(t *testing.T) datastore.Store

// Run checks the contract on the stores that open makes.
func Run(t *testing.T, open Open) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			defer s.Close()
			c.check(&tester{T: t, Store: s})
		})
	}
}

var checks = []struct {
	name  string
	check func(*tester)
}{
	{"a fresh store is at revision 1", func(t *tester) { t.equal(t.Revision(), int64(1)) }},
	{"create, update, delete", createUpdateDelete},
	{"conditions that do not hold change nothing", conditions},
	{"a transaction is all or nothing at one revision", transactions},
	{"bad transactions are refused", badTransactions},
	{"lists are ordered, limited and continued", lists},
	{"past revisions stay readable until compaction", pastRevisions},
	{"a watch goes on from a revision without gaps", watches},
	{"a watch sees its prefix only", watchPrefix},
	{"a watch of the future or of compacted history is refused", watchRefused},
	{"watchers that do not read do not stop the others", stalledWatcher},
	{"lazy commits are visible at once and in order", lazy},
	{"commits of many goroutines each get their own revision", parallel},
	{"a closed store says so", closed},
	{"a snapshot can be taken while in use", snapshot},
}

// tester is a store with assertions.
type tester struct {
	*testing.T
	datastore.Store
}

var ctx = context.Background()

func (t *tester) equal(got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func (t *tester) is(err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func (t *tester) commit(ops ...datastore.Op) int64 {
	t.Helper()
	r, err := t.Commit(ctx, datastore.Txn{Ops: ops})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func put(key, value string, expect int64) datastore.Op {
	return datastore.Op{Key: key, Value: []byte(value), Expect: expect}
}

func del(key string, expect int64) datastore.Op {
	return datastore.Op{Key: key, Delete: true, Expect: expect}
}

func (t *tester) get(key string, revision int64) string {
	t.Helper()
	kv, err := t.Get(ctx, key, revision)
	if errors.Is(err, datastore.ErrNotFound) {
		return "-"
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s@%d/%d", kv.Value, kv.CreateRevision, kv.ModRevision)
}

func (t *tester) list(r datastore.ListRequest) string {
	t.Helper()
	l, err := t.List(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, kv := range l.KVs {
		fmt.Fprintf(&b, "%s=%s@%d ", kv.Key, kv.Value, kv.ModRevision)
	}
	fmt.Fprintf(&b, "rev %d more %v", l.Revision, l.More)
	return b.String()
}

func createUpdateDelete(t *tester) {
	t.equal(t.commit(put("/a", "1", 0)), int64(2))
	t.equal(t.get("/a", 0), "1@2/2")
	t.equal(t.commit(put("/a", "2", 2)), int64(3))
	t.equal(t.get("/a", 0), "2@2/3")
	t.equal(t.commit(put("/a", "3", datastore.Any)), int64(4))
	t.equal(t.commit(del("/a", 4)), int64(5))
	t.equal(t.get("/a", 0), "-")
	t.equal(t.commit(put("/a", "4", 0)), int64(6))
	t.equal(t.get("/a", 0), "4@6/6")
	t.equal(t.Revision(), int64(6))
}

func conditions(t *tester) {
	t.commit(put("/a", "1", 0))
	for _, op := range []datastore.Op{put("/a", "x", 0), put("/a", "x", 1), del("/a", 9), put("/b", "x", 2), del("/b", 2)} {
		_, err := t.Commit(ctx, datastore.Txn{Ops: []datastore.Op{op}})
		t.is(err, datastore.ErrConflict)
		var c *datastore.ConflictError
		if !errors.As(err, &c) || c.Key != op.Key {
			t.Fatalf("the conflict does not name %s: %v", op.Key, err)
		}
		if op.Key == "/a" {
			t.equal(string(c.Current.Value), "1")
			t.equal(c.Current.ModRevision, int64(2))
		} else {
			t.equal(c.Current.ModRevision, int64(0))
		}
	}
	t.equal(t.Revision(), int64(2))
	t.equal(t.list(datastore.ListRequest{}), "/a=1@2 rev 2 more false")
}

func transactions(t *tester) {
	t.commit(put("/a", "1", 0), put("/b", "1", 0))
	_, err := t.Commit(ctx, datastore.Txn{Ops: []datastore.Op{put("/a", "2", 2), put("/b", "2", 1)}})
	t.is(err, datastore.ErrConflict)
	t.equal(t.list(datastore.ListRequest{}), "/a=1@2 /b=1@2 rev 2 more false")
	t.commit(put("/a", "2", 2), del("/b", 2), put("/c", "2", 0), del("/none", datastore.Any))
	t.equal(t.list(datastore.ListRequest{}), "/a=2@3 /c=2@3 rev 3 more false")
}

func badTransactions(t *tester) {
	for name, txn := range map[string]datastore.Txn{
		"empty":     {},
		"no key":    {Ops: []datastore.Op{{Value: []byte("x")}}},
		"twice":     {Ops: []datastore.Op{put("/a", "1", 0), put("/a", "2", 0)}},
		"too large": {Ops: []datastore.Op{{Key: "/a", Value: make([]byte, datastore.MaxTxnBytes)}}},
	} {
		if _, err := t.Commit(ctx, txn); err == nil {
			t.Errorf("%s: accepted", name)
		} else if name == "too large" {
			t.is(err, datastore.ErrTooLarge)
		}
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := t.Commit(canceled, datastore.Txn{Ops: []datastore.Op{put("/a", "1", 0)}})
	t.is(err, context.Canceled)
	t.equal(t.get("/a", 0), "-")
}

func lists(t *tester) {
	for _, k := range []string{"/p/c", "/p/a", "/q/a", "/p/b", "/p", "/p/aa"} {
		t.commit(put(k, "x", 0))
	}
	t.equal(t.list(datastore.ListRequest{Prefix: "/p/"}), "/p/a=x@3 /p/aa=x@7 /p/b=x@5 /p/c=x@2 rev 7 more false")
	t.equal(t.list(datastore.ListRequest{Prefix: "/p/", Limit: 2}), "/p/a=x@3 /p/aa=x@7 rev 7 more true")
	t.equal(t.list(datastore.ListRequest{Prefix: "/p/", Limit: 2, After: "/p/aa", Revision: 7}), "/p/b=x@5 /p/c=x@2 rev 7 more false")
	t.equal(t.list(datastore.ListRequest{Prefix: "/none/"}), "rev 7 more false")
	_, err := t.List(ctx, datastore.ListRequest{Revision: 8})
	t.is(err, datastore.ErrFuture)
}

func pastRevisions(t *tester) {
	t.commit(put("/a", "1", 0)) // 2
	t.commit(put("/a", "2", 2)) // 3
	t.commit(put("/b", "1", 0)) // 4
	t.commit(del("/a", 3))      // 5
	t.equal(t.get("/a", 2), "1@2/2")
	t.equal(t.get("/a", 4), "2@2/3")
	t.equal(t.list(datastore.ListRequest{Revision: 3}), "/a=2@3 rev 3 more false")
	t.equal(t.list(datastore.ListRequest{Revision: 4, Limit: 1}), "/a=2@3 rev 4 more true")
	t.is(t.Compact(ctx, 9), datastore.ErrFuture)
	t.is(t.Compact(ctx, 4), nil)
	t.equal(fmt.Sprint(t.Oldest()), "4")
	t.equal(t.get("/a", 4), "2@2/3")
	_, err := t.Get(ctx, "/a", 3)
	t.is(err, datastore.ErrCompacted)
	_, err = t.List(ctx, datastore.ListRequest{Revision: 2})
	t.is(err, datastore.ErrCompacted)
	t.is(t.Compact(ctx, 5), nil)
	t.is(t.Compact(ctx, 2), nil)
	t.equal(t.get("/a", 0), "-")
	t.equal(t.list(datastore.ListRequest{}), "/b=1@4 rev 5 more false")
}

// follow reads n events or fails after a while.
func (t *tester) follow(w datastore.Watcher, n int) []datastore.Event {
	t.Helper()
	var out []datastore.Event
	timeout := time.After(10 * time.Second)
	for len(out) < n {
		select {
		case batch, ok := <-w.Events():
			if !ok {
				t.Fatalf("the watch ended after %d of %d events: %v", len(out), n, w.Err())
			}
			if len(batch) == 0 {
				t.Fatal("an empty batch")
			}
			out = append(out, batch...)
		case <-timeout:
			t.Fatalf("%d of %d events came", len(out), n)
		}
	}
	return out
}

func show(events []datastore.Event) string {
	var b strings.Builder
	for _, e := range events {
		verb := "put"
		if e.Delete {
			verb = "del"
		}
		fmt.Fprintf(&b, "%s %s=%s@%d (%s@%d) ", verb, e.Key, e.Value, e.ModRevision, e.Prev.Value, e.Prev.ModRevision)
	}
	return strings.TrimSpace(b.String())
}

func (t *tester) watch(prefix string, after int64) datastore.Watcher {
	t.Helper()
	w, err := t.Watch(ctx, prefix, after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func watches(t *tester) {
	live := t.watch("/", 1)
	t.commit(put("/a", "1", 0))
	t.commit(put("/a", "2", 2), put("/b", "1", 0))
	t.commit(del("/a", 3))
	want := "put /a=1@2 (@0) put /a=2@3 (1@2) put /b=1@3 (@0) del /a=@4 (2@3)"
	t.equal(show(t.follow(live, 4)), want)
	t.equal(show(t.follow(t.watch("/", 1), 4)), want)
	t.equal(show(t.follow(t.watch("/", 3), 1)), "del /a=@4 (2@3)")
	object := &struct{}{}
	t.commit(datastore.Op{Key: "/c", Value: []byte("1"), Object: object})
	if e := t.follow(live, 1)[0]; e.Object != object {
		t.Errorf("a live watcher got object %v", e.Object)
	}
	live.Close()
	for range live.Events() {
	}
	t.is(live.Err(), nil)
}

func watchPrefix(t *tester) {
	w := t.watch("/p/", 1)
	t.commit(put("/q/a", "1", 0), put("/p/a", "1", 0))
	t.commit(put("/q/a", "2", 2))
	t.commit(put("/p/a", "2", 2))
	t.equal(show(t.follow(w, 2)), "put /p/a=1@2 (@0) put /p/a=2@4 (1@2)")
}

func watchRefused(t *tester) {
	for i := range 5 {
		t.commit(put("/a", fmt.Sprint(i), datastore.Any))
	}
	_, err := t.Watch(ctx, "/", 7)
	t.is(err, datastore.ErrFuture)
	t.is(t.Compact(ctx, 4), nil)
	if w, err := t.Watch(ctx, "/", 2); err == nil { // it may still be in memory
		t.equal(len(t.follow(w, 4)), 4)
		w.Close()
	} else {
		t.is(err, datastore.ErrCompacted)
	}
	t.equal(show(t.follow(t.watch("/", 5), 1)), "put /a=4@6 (3@5)")
}

func stalledWatcher(t *tester) {
	t.watch("/", 1) // never read
	w := t.watch("/", 1)
	value := string(bytes.Repeat([]byte("x"), 1024))
	for i := range 3000 {
		t.commit(put(fmt.Sprintf("/k/%d", i%7), value, datastore.Any))
		if i%100 == 99 {
			t.equal(len(t.follow(w, 1)) > 0, true)
		}
	}
}

func lazy(t *tester) {
	w := t.watch("/", 1)
	for i := range 5 {
		r, err := t.Commit(ctx, datastore.Txn{Lazy: i%2 == 0, Ops: []datastore.Op{put("/a", fmt.Sprint(i), int64(i+1)*min(int64(i), 1))}})
		t.is(err, nil)
		t.equal(r, int64(i+2))
		t.equal(t.get("/a", 0), fmt.Sprintf("%d@2/%d", i, i+2))
	}
	t.equal(show(t.follow(w, 5)), "put /a=0@2 (@0) put /a=1@3 (0@2) put /a=2@4 (1@3) put /a=3@5 (2@4) put /a=4@6 (3@5)")
	t.equal(t.get("/a", 4), "2@2/4")
	t.equal(show(t.follow(t.watch("/", 4), 2)), "put /a=3@5 (2@4) put /a=4@6 (3@5)")
}

func parallel(t *tester) {
	const workers, each = 16, 50
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for j := range each {
				r, err := t.Commit(ctx, datastore.Txn{Lazy: j%5 == 0, Ops: []datastore.Op{put(fmt.Sprintf("/%d/%d", i, j), "x", 0)}})
				mu.Lock()
				if err != nil || seen[r] {
					t.Errorf("revision %d, error %v", r, err)
				}
				seen[r] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.equal(len(seen), workers*each)
	t.equal(t.Revision(), int64(1+workers*each))
}

func closed(t *tester) {
	w := t.watch("/", 1)
	t.is(t.Close(), nil)
	_, err := t.Commit(ctx, datastore.Txn{Ops: []datastore.Op{put("/a", "1", 0)}})
	t.is(err, datastore.ErrClosed)
	_, err = t.Get(ctx, "/a", 0)
	t.is(err, datastore.ErrClosed)
	for range w.Events() {
	}
	t.is(w.Err(), datastore.ErrClosed)
	t.is(t.Close(), nil)
}

func snapshot(t *tester) {
	t.commit(put("/a", "one", 0))
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 100 {
			t.Commit(ctx, datastore.Txn{Ops: []datastore.Op{put(fmt.Sprint("/b/", i), "x", 0)}})
		}
	})
	var b bytes.Buffer
	t.is(t.Snapshot(ctx, &b), nil)
	wg.Wait()
	if !bytes.Contains(b.Bytes(), []byte("one")) {
		t.Error("the snapshot lacks what was committed before it")
	}
}
