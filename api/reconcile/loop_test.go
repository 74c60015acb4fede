package reconcile

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/api/client"
)

// cache is a live cache of ConfigMaps that moves only when the test says so.
type cache struct {
	client.Cache
	mu       sync.Mutex
	handlers []func(client.Change)
	initial  []api.Object
	revision int64
	moved    chan struct{}
}

func (c *cache) Subscribe(_ context.Context, _ *api.Facts, h func(client.Change)) error {
	for _, o := range c.initial {
		h(client.Change{New: o})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlers = append(c.handlers, h)
	return nil
}

func (c *cache) change(was, is api.Object) {
	c.mu.Lock()
	c.revision++
	ch := client.Change{Old: was, New: is, Revision: c.revision}
	hs := c.handlers
	close(c.moved)
	c.moved = make(chan struct{})
	c.mu.Unlock()
	for _, h := range hs {
		h(ch)
	}
}

func (c *cache) Revision(*api.Facts) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revision
}

func (c *cache) WaitRevision(ctx context.Context, f *api.Facts, rev int64) error {
	for {
		c.mu.Lock()
		now, moved := c.revision, c.moved
		c.mu.Unlock()
		if now >= rev {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// writer answers every create with the next revision, which the cache has not seen.
type writer struct {
	client.Transport
	cache *cache
}

func (w writer) Create(_ context.Context, _ client.Target, o runtime.Object, _ metav1.CreateOptions) (runtime.Object, error) {
	out := o.DeepCopyObject().(*core.ConfigMap)
	out.ResourceVersion = strconv.FormatInt(w.cache.Revision(api.ConfigMaps.Facts)+1, 10)
	return out, nil
}

func configMap(name string) *core.ConfigMap {
	return &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

// start runs one controller and returns its parts and what stops it.
func start(t *testing.T, s Spec, initial ...api.Object) (*cache, *Loop, func()) {
	c := &cache{initial: initial, moved: make(chan struct{})}
	s.Name, s.Watches = "test", []Watch{For(api.ConfigMaps)}
	l, err := New(&client.Client{Transport: writer{cache: c}, Cache: c}, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	synctest.Wait()
	return c, l, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestInitialContentAndChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []Key
		c, l, stop := start(t, Spec{Do: func(_ context.Context, k Key) (Result, error) {
			got = append(got, k)
			return Result{}, nil
		}}, configMap("a"), configMap("b"))
		defer stop()
		synctest.Wait()
		c.change(configMap("b"), nil)
		synctest.Wait()
		if len(got) != 3 || got[0].Name != "a" || got[2].Name != "b" {
			t.Errorf("keys = %v, want a, b, b", got)
		}
		if m := l.Metrics()[0]; m.Runs != 3 || m.Failed != 0 || m.Ready+m.Running+m.Later != 0 {
			t.Errorf("metrics = %+v", m)
		}
	})
}

func TestOneKeyIsNeverWorkedOnTwiceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		busy, runs := 0, 0
		c, _, stop := start(t, Spec{Workers: 4, Do: func(context.Context, Key) (Result, error) {
			mu.Lock()
			busy++
			runs++
			if busy > 1 {
				t.Error("two workers have the same key")
			}
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			busy--
			mu.Unlock()
			return Result{}, nil
		}}, configMap("a"))
		defer stop()
		for range 5 {
			c.change(configMap("a"), configMap("a"))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if runs != 2 {
			t.Errorf("runs = %d, want 2: five changes during the first run are one more look", runs)
		}
	})
}

func TestBackOffTerminalAndPanic(t *testing.T) {
	cases := []struct {
		name     string
		do       func() error
		min, max int // runs within an hour
	}{
		{"error is retried with back-off up to a minute", func() error { return errors.New("no") }, 65, 140},
		{"terminal error is not retried", func() error { return Terminal(errors.New("never")) }, 1, 1},
		{"panic is an error", func() error { panic("broken") }, 65, 140},
		{"success ends it", func() error { return nil }, 1, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, l, stop := start(t, Spec{Do: func(context.Context, Key) (Result, error) { return Result{}, c.do() }}, configMap("a"))
				defer stop()
				time.Sleep(time.Hour)
				synctest.Wait()
				if runs := int(l.Metrics()[0].Runs); runs < c.min || runs > c.max {
					t.Errorf("runs = %d, want %d to %d", runs, c.min, c.max)
				}
			})
		})
	}
}

func TestAfterReplacesTheEarlierTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		c, l, stop := start(t, Spec{Do: func(context.Context, Key) (Result, error) {
			at = append(at, time.Since(began))
			if len(at) > 3 {
				return Result{}, nil
			}
			return Result{After: 40 * time.Second}, nil
		}}, configMap("a"))
		defer stop()
		time.Sleep(10 * time.Second)
		c.change(configMap("a"), configMap("a")) // at 10 s: the timer moves to 50 s
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		want := []time.Duration{0, 10 * time.Second, 50 * time.Second, 90 * time.Second}
		if len(at) != len(want) {
			t.Fatalf("runs at %v, want %v", at, want)
		}
		for i := range want {
			if at[i].Round(time.Second) != want[i] {
				t.Errorf("runs at %v, want %v", at, want)
			}
		}
		if m := l.Metrics()[0]; m.Later != 0 {
			t.Errorf("a timer is left: %+v", m)
		}
	})
}

func TestKeyWaitsForItsOwnWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *cache
		var seen []int64
		var cl *client.Client
		spec := Spec{Do: func(ctx context.Context, k Key) (Result, error) {
			seen = append(seen, c.Revision(nil))
			if len(seen) > 1 {
				return Result{}, nil
			}
			_, err := client.Create(ctx, cl, api.ConfigMaps, configMap("written"))
			return Result{}, err
		}}
		var stop func()
		c, _, stop = start(t, spec)
		defer stop()
		cl = &client.Client{Transport: writer{cache: c}, Cache: c}
		// The first look writes revision 2, which the cache does not have yet.
		c.change(nil, configMap("a"))
		synctest.Wait()
		c.handlers[0](client.Change{New: configMap("a")}) // a change that is not the write
		synctest.Wait()
		if len(seen) != 1 {
			t.Fatalf("looked again before the cache had the write: %v", seen)
		}
		c.change(nil, configMap("written"))
		synctest.Wait()
		if len(seen) != 3 && len(seen) != 2 {
			t.Errorf("looks = %v, want another one after the write was seen", seen)
		}
		for _, r := range seen[1:] {
			if r < 2 {
				t.Errorf("looked at revision %d, before the write at 2", r)
			}
		}
	})
}

func TestShutdownLetsARunFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cut, finished bool
		_, _, stop := start(t, Spec{Do: func(ctx context.Context, _ Key) (Result, error) {
			select {
			case <-time.After(time.Second):
				finished = true
			case <-ctx.Done():
				cut = true
			}
			return Result{}, nil
		}}, configMap("a"))
		stop()
		if cut || !finished {
			t.Errorf("cut = %v, finished = %v; want the run to finish", cut, finished)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, _, stop := start(t, Spec{Do: func(ctx context.Context, _ Key) (Result, error) {
			<-ctx.Done()
			return Result{}, ctx.Err()
		}}, configMap("a"))
		stop()
		if took := time.Since(began); took != drainTime {
			t.Errorf("shutdown took %v, want %v", took, drainTime)
		}
	})
}

func TestOwnsAndMap(t *testing.T) {
	ref := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, Controller: new(true)}}
	}
	pod := func(refs []metav1.OwnerReference) api.Object {
		return &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", OwnerReferences: refs}}
	}
	owns := Owns(api.ReplicaSets, api.Pods)
	cases := []struct {
		name    string
		was, is api.Object
		want    []string
	}{
		{"created", nil, pod(ref("ReplicaSet", "a")), []string{"ns/a"}},
		{"deleted", pod(ref("ReplicaSet", "a")), nil, []string{"ns/a"}},
		{"same controller", pod(ref("ReplicaSet", "a")), pod(ref("ReplicaSet", "a")), []string{"ns/a"}},
		{"other controller", pod(ref("ReplicaSet", "a")), pod(ref("ReplicaSet", "b")), []string{"ns/a", "ns/b"}},
		{"released", pod(ref("ReplicaSet", "a")), pod(nil), []string{"ns/a"}},
		{"another kind", nil, pod(ref("DaemonSet", "a")), nil},
		{"none", nil, pod(nil), nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, k := range owns.Keys(client.Change{Old: c.was, New: c.is}) {
				got = append(got, k.String())
			}
			if len(got) != len(c.want) {
				t.Fatalf("keys = %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("keys = %v, want %v", got, c.want)
				}
			}
		})
	}
	m := Map(api.Pods, func(was, is *core.Pod) []Key {
		if was != nil || is == nil {
			t.Error("Map mixed up before and after")
		}
		return nil
	})
	m.Keys(client.Change{New: pod(nil)})
}
