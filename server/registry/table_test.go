package registry

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	events "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
)

// TestBuiltInTable: every kind has its row, and every stored kind survives its codec.
func TestBuiltInTable(t *testing.T) {
	r, err := New(Config{Store: memory.New(), Resources: BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range api.All() {
		res := r.Find(f.Group, f.Version, f.Plural)
		if res == nil {
			t.Errorf("%s has no row", f.GVR())
			continue
		}
		if f.Scale && res.hooks.scale == nil || f.SameAs != nil && (res.hooks.toStored == nil || res.hooks.fromStored == nil) {
			t.Errorf("%s lacks hooks that its facts ask for", f.GVR())
		}
		for _, sub := range f.Sub {
			if whole := map[string]bool{"ephemeralcontainers": true, "resize": true, "finalize": true, "approval": true}; whole[sub] && res.hooks.subs[sub] == nil {
				t.Errorf("%s/%s has no behaviour", f.GVR(), sub)
			}
		}
		if f.Computed || f.SameAs != nil {
			continue
		}
		o := f.New()
		o.SetName("x")
		b, err := res.kind.Encode(o)
		if err != nil {
			t.Errorf("%s: %v", f.GVR(), err)
			continue
		}
		back, err := res.kind.Decode(b)
		if err != nil || back.GetName() != "x" {
			t.Errorf("%s: %v %v", f.GVR(), back, err)
		}
		var u runtime.Unknown
		if !res.Dynamic && f.Group != "apiextensions.k8s.io" {
			if err := u.Unmarshal(b[4:]); err != nil || u.Kind != f.Kind || u.APIVersion != f.GroupVersion().String() {
				t.Errorf("%s: envelope %+v %v", f.GVR(), u.TypeMeta, err)
			}
		}
	}
}

// TestTwinKinds writes an event under one group and reads it under the other.
func TestTwinKinds(t *testing.T) {
	r, err := New(Config{Store: memory.New(), Resources: BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = r.Run(ctx) }()
	c := r.Client(User{Name: "tester"})
	w, err := r.Watch(ctx, req(api.EventsV1, ""), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, err = client.Create(ctx, c, api.Events, &core.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}, Message: "hello", Reason: "R",
		Type: "Normal", InvolvedObject: core.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}, EventTime: metav1.NowMicro(), ReportingController: "example.com/c", ReportingInstance: "c-1", Action: "Do"})
	if err != nil {
		t.Fatal(err)
	}
	e, err := client.Get(ctx, c, api.EventsV1, "default", "e")
	if err != nil || e.Note != "hello" || e.ResourceVersion == "" {
		t.Fatalf("%+v %v", e, err)
	}
	next, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	l, err := w.Next(next)
	if err != nil || l[0].Item.Object().(*events.Event) != e {
		t.Fatalf("watch saw %+v %v", l, err)
	}
	e, err = client.Patch(ctx, c, api.EventsV1, client.Target{Namespace: "default", Name: "e"}, types.MergePatchType, []byte(`{"note":"again"}`))
	if err != nil || e.Note != "again" {
		t.Fatalf("%+v %v", e, err)
	}
	if o := client.Cached(c, api.Events, "default", "e"); o.Message != "again" || o.ResourceVersion != e.ResourceVersion {
		t.Errorf("the twin is %+v", o)
	}
}

// TestDynamicKind installs a kind at run time over objects that are there already.
func TestDynamicKind(t *testing.T) {
	b := start(t)
	f := &api.Facts{Group: "example.com", Version: "v1", Kind: "Widget", Plural: "widgets", Path: "example.com/widgets", Dynamic: true, Status: true,
		New: func() api.Object { return &unstructured.Unstructured{Object: map[string]any{}} }}
	k := api.Kind[unstructured.Unstructured]{Facts: f}
	changed := b.Changed()
	if err := b.Add(b.ctx, DynamicRow(f, Hooks[unstructured.Unstructured]{})); err != nil {
		t.Fatal(err)
	}
	<-changed
	widget := func(size int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget",
			"metadata": map[string]any{"name": "w"}, "spec": map[string]any{"size": size, "parts": []any{"a"}}, "status": map[string]any{"x": "y"}}}
	}
	o := must[unstructured.Unstructured](t)(b.Create(b.ctx, req(k, ""), widget(1), metav1.CreateOptions{}))
	if o.Object["status"] != nil || o.GetGeneration() != 1 || o.GetNamespace() != "default" || len(o.GetManagedFields()) != 1 {
		t.Fatalf("created %v", o)
	}
	o = must[unstructured.Unstructured](t)(b.Patch(b.ctx, req(k, "w"), types.MergePatchType, []byte(`{"spec":{"size":2},"status":{"x":"z"}}`), metav1.PatchOptions{}))
	if n, _, _ := unstructured.NestedInt64(o.Object, "spec", "size"); n != 2 || o.Object["status"] != nil || o.GetGeneration() != 2 {
		t.Fatalf("patched %v", o)
	}
	o = must[unstructured.Unstructured](t)(b.Patch(b.ctx, req(k, "w", "status"), types.MergePatchType, []byte(`{"spec":{"size":3},"status":{"x":"z"}}`), metav1.PatchOptions{}))
	if n, _, _ := unstructured.NestedInt64(o.Object, "spec", "size"); n != 2 || o.Object["status"] == nil || o.GetGeneration() != 2 {
		t.Fatalf("status patched %v", o)
	}
	o = must[unstructured.Unstructured](t)(b.Patch(b.ctx, req(k, "w"), types.ApplyYAMLPatchType,
		[]byte("apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {color: red}"), metav1.PatchOptions{FieldManager: "m"}))
	if s, _, _ := unstructured.NestedString(o.Object, "spec", "color"); s != "red" || o.GetGeneration() != 3 {
		t.Fatalf("applied %v", o)
	}
	_, err := b.Patch(b.ctx, req(k, "w"), types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{})
	wantStatus(t, err, 415, metav1.StatusReasonUnsupportedMediaType, "strategic merge patch format is not supported")
	again := *f
	if err := b.Remove(b.ctx, f); err != nil {
		t.Fatal(err)
	}
	_, err = b.Get(b.ctx, req(k, "w"), metav1.GetOptions{})
	wantStatus(t, err, 404, metav1.StatusReasonNotFound, "")
	if err := b.Add(b.ctx, DynamicRow(&again, Hooks[unstructured.Unstructured]{})); err != nil {
		t.Fatal(err)
	}
	k.Facts = &again
	o = must[unstructured.Unstructured](t)(b.Get(b.ctx, req(k, "w"), metav1.GetOptions{}))
	if fmt.Sprint(o.Object["kind"]) != "Widget" || o.GetResourceVersion() == "" {
		t.Errorf("loaded %v", o)
	}
}

// TestKindThatHasGone: who follows all kinds may ask for one that was taken away a moment
// ago. That once ended the server.
func TestKindThatHasGone(t *testing.T) {
	b := start(t)
	c := b.Client(User{Name: "tester"})
	gone := &api.Facts{Group: "example.com", Version: "v1", Kind: "Widget", Plural: "widgets", Path: "example.com/widgets", Dynamic: true}
	if err := c.Subscribe(b.ctx, gone, func(client.Change) {}); !errors.Is(err, client.ErrGone) {
		t.Errorf("subscribing gave %v", err)
	}
	c.Each(gone, "", func(api.Object) bool { t.Error("an object of no kind"); return true })
	if o := c.Lookup(gone, "default", "w"); o != nil {
		t.Errorf("found %v", o)
	}
	defer func() {
		if recover() == nil {
			t.Error("a built-in kind that is not served is a wiring error")
		}
	}()
	c.Lookup(&api.Facts{Kind: "Mistake"}, "", "m")
}

// TestLoad: a store with 10,000 objects is served well below a second.
func TestLoad(t *testing.T) {
	s := memory.New()
	t.Run("fill", func(t *testing.T) {
		b := startOn(t, s)
		for i := range 10000 {
			b.createMap(configMap(fmt.Sprintf("c%d", i), "payload", payload))
		}
	})
	at := time.Now()
	b := startOn(t, s)
	if l := b.list(metav1.ListOptions{}); len(l.Items) != 10000 {
		t.Fatalf("%d objects", len(l.Items))
	}
	t.Logf("10,000 objects of 1 KiB served after %v", time.Since(at))
	if d := time.Since(at); d > 20*time.Second { // as it would with work for each object that grows with their number
		t.Errorf("loading took %v", d)
	}
}
