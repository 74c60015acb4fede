package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"orch/api"
	"orch/datastore"
	"orch/datastore/memory"
)

var cmKind = NewKind(Kind{Facts: api.ConfigMaps.Facts})

type rig struct {
	testing.TB
	*Cache
	store *memory.Store
	ctx   context.Context
}

// run starts a cache and returns how to stop it.
func run(t testing.TB, bytes int) (*rig, func()) {
	t.Helper()
	s := memory.New()
	c := New(Config{Store: s, Kinds: []*Kind{cmKind}, EncodedBytes: bytes})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	<-c.Ready()
	return &rig{t, c, s, ctx}, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (r *rig) put(name, data string) int64 {
	r.Helper()
	return r.putLabelled(name, data, nil)
}

func (r *rig) putLabelled(name, data string, labels map[string]string) int64 {
	r.Helper()
	o := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: labels}, Data: map[string]string{"d": data}}
	b, err := cmKind.Encode(o)
	if err != nil {
		r.Fatal(err)
	}
	rev, err := r.store.Commit(r.ctx, datastore.Txn{Ops: []datastore.Op{{Key: cmKind.Facts.Key("default", name), Value: b, Expect: datastore.Any, Object: o}}})
	if err == nil {
		err = r.Wait(r.ctx, rev)
	}
	if err != nil {
		r.Fatal(err)
	}
	return rev
}

// TestLaggard cuts a watcher off that does not read.
func TestLaggard(t *testing.T) {
	r, stop := run(t, 0)
	defer stop()
	w, err := r.Watch(r.ctx, cmKind, WatchOptions{State: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range watchQueue + 10 {
		r.put("a", fmt.Sprint(i))
	}
	n := 0
	for {
		l, err := w.Next(r.ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n += len(l)
	}
	if n != watchQueue {
		t.Errorf("the laggard saw %d events, want the first %d", n, watchQueue)
	}
}

// TestResumeFromRingAndHistory resumes from every revision of a long history: part
// of it is still in memory, the older part is not.
func TestResumeFromRingAndHistory(t *testing.T) {
	r, stop := run(t, 0)
	defer stop()
	big := strings.Repeat("x", 8<<10) // so that ringBytes is reached
	first := r.put("a", "first")
	last := first
	for range 400 {
		last = r.put("a", big)
	}
	b, _ := r.shelf(cmKind)
	floor := b.floor
	if floor <= first {
		t.Fatal("the ring has kept everything; the test shows nothing")
	}
	for _, after := range []int64{first, first + 1, floor - 1, floor, last - 1, last} {
		w, err := r.Watch(r.ctx, cmKind, WatchOptions{After: after})
		if err != nil {
			t.Fatal(err)
		}
		live := r.put("b", "live")
		want := after
		for want < live {
			l, err := w.Next(r.ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range l {
				if want++; e.Item.Revision() != want {
					t.Fatalf("after %d: revision %d, want %d", after, e.Item.Revision(), want)
				}
			}
		}
		w.Close()
	}
	_, err := r.Watch(r.ctx, cmKind, WatchOptions{After: r.Revision() + 10})
	if !errors.Is(err, datastore.ErrFuture) {
		t.Errorf("a watch from the future gave %v", err)
	}
}

// TestBookmarks: an idle watch is told every minute how far it has come, also when
// only other kinds change, and once more when its time is over.
func TestBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, stop := run(t, 0)
		defer stop()
		w, err := r.Watch(r.ctx, cmKind, WatchOptions{After: r.Revision(), Bookmarks: true, Timeout: 150 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		rev, err := r.store.Commit(r.ctx, datastore.Txn{Ops: []datastore.Op{{Key: "/registry/other/x", Value: []byte("x")}}})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for _, at := range []time.Duration{time.Minute, 150 * time.Second} {
			l, err := w.Next(r.ctx)
			if err != nil || len(l) != 1 || l[0].Type != apiwatch.Bookmark || l[0].Item.Revision() != rev || time.Since(start) != at {
				t.Fatalf("after %v: %v %v", time.Since(start), l, err)
			}
		}
		if _, err := w.Next(r.ctx); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	})
}

// TestBudget keeps encodings within their limit, and those that are asked for longest.
func TestBudget(t *testing.T) {
	r, stop := run(t, 10<<10)
	defer stop()
	for i := range 100 {
		r.put(fmt.Sprintf("c%02d", i), strings.Repeat("x", 1000))
	}
	hot, err := r.Get(cmKind, "default", "c00")
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.List(r.ctx, cmKind, ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range p.Items {
		for range 2 {
			if _, err := hot.JSON(); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := i.AppendJSON(nil); err != nil || !strings.HasPrefix(string(b), `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c`) {
			t.Fatalf("%s %v", b, err)
		}
	}
	if r.budget.total > r.budget.limit {
		t.Errorf("%d bytes are kept, the limit is %d", r.budget.total, r.budget.limit)
	}
	if hot.json.Load().data.Load() == nil {
		t.Error("an encoding in use was dropped")
	}
}

// TestReload puts the cache right after it lost its place: subscribers see what
// happened, watchers start anew.
func TestReload(t *testing.T) {
	r, stop := run(t, 0)
	defer stop()
	r.put("stays", "1")
	gone := r.put("goes", "1")
	w, err := r.Watch(r.ctx, cmKind, WatchOptions{State: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	err = r.do(r.ctx, func(ctx context.Context) error { // on the feed's goroutine, which sees the changes only afterwards
		if _, err := r.store.Commit(ctx, datastore.Txn{Ops: []datastore.Op{
			{Key: cmKind.Facts.Key("default", "goes"), Delete: true, Expect: gone},
		}}); err != nil {
			return err
		}
		return r.reload(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	if i, _ := r.Get(cmKind, "default", "goes"); i != nil {
		t.Error("a deleted object is still there")
	}
	if i, _ := r.Get(cmKind, "default", "stays"); i == nil {
		t.Error("an object is missing")
	}
	for {
		if _, err := w.Next(r.ctx); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestBadValue: what cannot be decoded is left out, the rest is served.
func TestBadValue(t *testing.T) {
	for name, b := range map[string]string{"empty": "", "cut": "k8s\x00\x0a", "noise": "k8s\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "text": "x", "json": `{"kind":"Pod","apiVersion":"v1"}`} {
		if o, err := cmKind.Decode([]byte(b)); err == nil {
			t.Errorf("%s became %v", name, o)
		}
	}
	good, err := cmKind.Encode(&core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if o, err := cmKind.Decode(good[:n]); err == nil && n < len(good)-4 && o.GetName() != "" {
			t.Errorf("the first %d bytes became %v", n, o)
		}
	}
}
