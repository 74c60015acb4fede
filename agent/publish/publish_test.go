package publish

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/server/registry"
)

// pool is one of n slices, of a device each.
func pool(n int, taints ...resource.DeviceTaint) []resource.ResourceSliceSpec {
	var out []resource.ResourceSliceSpec
	for i := range n {
		out = append(out, resource.ResourceSliceSpec{Driver: "d.io", NodeName: new("n1"), Pool: resource.ResourcePool{Name: "n1", ResourceSliceCount: int64(n)},
			Devices: []resource.Device{{Name: fmt.Sprint("x", i), Taints: taints}}})
	}
	return out
}

// written is what the API would have after a plan.
func written(have []*resource.ResourceSlice, p Plan) []*resource.ResourceSlice {
	out := slices.DeleteFunc(slices.Clone(have), func(s *resource.ResourceSlice) bool {
		return slices.Contains(p.Delete, s.Name) || slices.ContainsFunc(p.Update, func(u *resource.ResourceSlice) bool { return u.Name == s.Name })
	})
	out = append(out, p.Update...)
	for i, s := range p.Create {
		s = s.DeepCopy()
		s.Name = fmt.Sprintf("%sr%d", s.GenerateName, i)
		out = append(out, s)
	}
	return out
}

func text(p Plan) string {
	var out []string
	for _, s := range p.Delete {
		out = append(out, "delete "+s)
	}
	for verb, list := range map[string][]*resource.ResourceSlice{"update": p.Update, "create": p.Create} {
		for _, s := range list {
			out = append(out, fmt.Sprintf("%s %s generation %d of %d", verb, cmp.Or(s.Name, s.GenerateName), s.Spec.Pool.Generation, s.Spec.Pool.ResourceSliceCount))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// TestPlan follows a pool through its life.
func TestPlan(t *testing.T) {
	owner := metav1.OwnerReference{Kind: "Node", Name: "n1", UID: "u1"}
	taint := resource.DeviceTaint{Key: "a/b", Effect: resource.DeviceTaintEffectNoSchedule}
	other := resource.DeviceTaint{Key: "a/b", Effect: resource.DeviceTaintEffectNoExecute}
	var have []*resource.ResourceSlice
	for _, step := range []struct {
		name   string
		want   []resource.ResourceSliceSpec
		owner  metav1.OwnerReference
		before func()
		plan   string
	}{
		{"first", pool(2), owner, nil, "create 00000-d.io-n1- generation 1 of 2; create 00001-d.io-n1- generation 1 of 2"},
		{"nothing changed", pool(2), owner, nil, ""},
		{"one changed", append(pool(2, taint)[:1], pool(2)[1]), owner, nil, "update 00000-d.io-n1-r0 generation 1 of 2"},
		{"the server wrote since when", append(pool(2, taint)[:1], pool(2)[1]), owner, func() {
			i := slices.IndexFunc(have, func(s *resource.ResourceSlice) bool { return len(s.Spec.Devices[0].Taints) > 0 })
			have[i].Spec.Devices[0].Taints[0].TimeAdded = new(metav1.Now())
		}, ""},
		{"the same again", append(pool(2, taint)[:1], pool(2, taint)[1]), owner, nil, "update 00001-d.io-n1-r1 generation 1 of 2"},
		{"both changed", pool(2, other), owner, nil, "update 00000-d.io-n1-r0 generation 2 of 2; update 00001-d.io-n1-r1 generation 2 of 2"},
		{"one was deleted", pool(2, other), owner, func() {
			have = slices.DeleteFunc(have, func(s *resource.ResourceSlice) bool { return s.Name == "00001-d.io-n1-r1" })
		}, "create 00001-d.io-n1- generation 3 of 2; update 00000-d.io-n1-r0 generation 3 of 2"},
		{"one less", pool(1, other), owner, nil, "delete 00001-d.io-n1-r0; update 00000-d.io-n1-r0 generation 3 of 1"},
		{"somebody else's beside it", pool(1, other), owner, func() {
			have = append(have, &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: pool(1)[0]})
		}, "delete mine"},
		{"another node of that name", pool(1, other), metav1.OwnerReference{Kind: "Node", Name: "n1", UID: "u2"}, nil,
			"create 00000-d.io-n1- generation 4 of 1; delete 00000-d.io-n1-r0"},
		{"no devices", nil, owner, nil, "delete 00000-d.io-n1-r0"},
		{"nothing to delete", nil, owner, nil, ""},
	} {
		if step.before != nil {
			step.before()
		}
		p := For(step.want, have, step.owner)
		if got := text(p); got != step.plan {
			t.Fatalf("%s: %s, want %s", step.name, got, step.plan)
		}
		had := map[string]metav1.Time{} // by device and effect
		for _, s := range have {
			for _, d := range s.Spec.Devices {
				for _, taint := range d.Taints {
					if taint.TimeAdded != nil {
						had[d.Name+string(taint.Effect)] = *taint.TimeAdded
					}
				}
			}
		}
		for _, s := range p.Update {
			for _, taint := range s.Spec.Devices[0].Taints {
				if at, ok := had[s.Spec.Devices[0].Name+string(taint.Effect)]; ok && (taint.TimeAdded == nil || !taint.TimeAdded.Equal(&at)) {
					t.Errorf("%s: the time of a taint is lost", step.name)
				}
			}
		}
		have = written(have, p)
	}
}

// wanted is a pool that a test changes.
type wanted struct {
	mu      sync.Mutex
	specs   []resource.ResourceSliceSpec
	changed chan struct{}
}

func (w *wanted) get() []resource.ResourceSliceSpec {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.specs
}

func (w *wanted) wait() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *wanted) set(specs []resource.ResourceSliceSpec) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.specs = specs
	close(w.changed)
	w.changed = make(chan struct{})
}

// TestRun: what is there at the start is cleaned up, and what somebody takes away comes back.
func TestRun(t *testing.T) {
	reg, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn(), Now: time.Now, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	wg.Go(func() { _ = reg.Run(ctx) })
	<-reg.Ready()
	c := reg.Client(registry.User{Name: "system:node:n1", Groups: []string{api.GroupNodes}})
	old := &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "left"}, Spec: pool(1)[0]}
	other := &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: pool(1)[0]}
	other.Spec.NodeName = new("n2")
	for _, s := range []*resource.ResourceSlice{old, other} {
		if _, err := client.Create(ctx, c, api.ResourceSlices, s); err != nil {
			t.Fatal(err)
		}
	}
	w := &wanted{changed: make(chan struct{})}
	ready := make(chan struct{})
	p, err := New(Config{Driver: "d.io", Node: "n1", Client: c, Want: w.get, Changed: w.wait, Ready: ready, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	names := func() (out []string) {
		for _, s := range client.CachedList(c, api.ResourceSlices, "", nil) {
			out = append(out, s.Name[:min(5, len(s.Name))])
		}
		return out
	}
	eventually := func(want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); strings.Join(names(), " ") != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("there are %v, want %s", names(), want)
			}
		}
	}
	close(ready)
	if _, err := client.Create(ctx, c, api.Nodes, &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: types.UID("u")}}); err != nil {
		t.Fatal(err)
	}
	eventually("other")
	w.set(pool(2))
	eventually("00000 00001 other")
	for _, s := range client.CachedList(c, api.ResourceSlices, "", nil) {
		if s.Name == "other" {
			continue
		}
		if err := client.Delete(ctx, c, api.ResourceSlices, "", s.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually("00000 00001 other")
	w.set(nil)
	eventually("other")
}
