package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/api/client"
	"orch/datastore"
	"orch/datastore/memory"
)

// testTable is a small kind table with the least behaviour that shows the engine's.
func testTable() []Resource {
	return []Resource{
		Row(api.ConfigMaps, Hooks[core.ConfigMap]{}),
		Row(api.Secrets, Hooks[core.Secret]{Fields: func(o *core.Secret) fields.Set { return fields.Set{"type": string(o.Type)} }, FieldNames: []string{"type"}}),
		Row(api.Pods, Hooks[core.Pod]{
			Fields:     func(o *core.Pod) fields.Set { return fields.Set{"spec.nodeName": o.Spec.NodeName} },
			FieldNames: []string{"spec.nodeName"},
			Grace: func(o *core.Pod, d *metav1.DeleteOptions) int64 {
				switch {
				case o.Spec.NodeName == "":
					return 0
				case d.GracePeriodSeconds != nil:
					return *d.GracePeriodSeconds
				}
				return 30
			},
		}),
		Row(api.Deployments, Hooks[apps.Deployment]{
			Default: func(o *apps.Deployment) {
				if o.Spec.Replicas == nil {
					o.Spec.Replicas = new(int32(1))
				}
			},
			Scale: &ScaleHooks[apps.Deployment]{
				Spec:     func(o *apps.Deployment) int32 { return *o.Spec.Replicas },
				SetSpec:  func(o *apps.Deployment, n int32) { o.Spec.Replicas = &n },
				Status:   func(o *apps.Deployment) int32 { return o.Status.Replicas },
				Selector: func(o *apps.Deployment) string { return metav1.FormatLabelSelector(o.Spec.Selector) },
			},
		}),
		Row(api.Namespaces, Hooks[core.Namespace]{
			Generation:    GenerationNever,
			PrepareCreate: func(o *core.Namespace) { o.Spec.Finalizers = []core.FinalizerName{"kubernetes"} },
			Held:          func(o *core.Namespace) bool { return len(o.Spec.Finalizers) > 0 },
			MarkDeleting:  func(o *core.Namespace) { o.Status.Phase = core.NamespaceTerminating },
			Subs:          map[string]Sub[core.Namespace]{"finalize": {Prepare: func(o, old *core.Namespace) { o.Status = old.Status }}},
		}),
		Row(api.PodDisruptionBudgets, Hooks[policy.PodDisruptionBudget]{}),
		Row(api.Bindings, Hooks[core.Binding]{}),
	}
}

type bench struct {
	testing.TB
	*Registry
	ctx context.Context
}

// start runs a registry on a fresh memory store.
func start(t testing.TB) *bench {
	t.Helper()
	return startOn(t, memory.New())
}

func startOn(t testing.TB, s datastore.Store) *bench {
	t.Helper()
	r, err := New(Config{Store: s, Resources: testTable()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-r.Ready()
	return &bench{t, r, ctx}
}

func req[T any](k api.Kind[T], name string, sub ...string) Request {
	q := Request{User: User{Name: "tester"}, Target: client.Target{Kind: k.Facts, Name: name}, UserAgent: "test/1"}
	if !k.Facts.Cluster {
		q.Namespace = "default"
	}
	if len(sub) > 0 {
		q.Subresource = sub[0]
	}
	return q
}

func must[T any](t testing.TB) func(r Result, err error) *T {
	return func(r Result, err error) *T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return any(r.Object).(*T)
	}
}

func configMap(name string, data ...string) *core.ConfigMap {
	o := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
	for i := 0; i+1 < len(data); i += 2 {
		if o.Data == nil {
			o.Data = map[string]string{}
		}
		o.Data[data[i]] = data[i+1]
	}
	return o
}

func (b *bench) createMap(o *core.ConfigMap) *core.ConfigMap {
	b.Helper()
	return must[core.ConfigMap](b.TB)(b.Create(b.ctx, req(api.ConfigMaps, ""), o, metav1.CreateOptions{}))
}

func wantStatus(t testing.TB, err error, code int32, reason metav1.StatusReason, text string) {
	t.Helper()
	s, ok := err.(apierrors.APIStatus)
	if !ok {
		t.Fatalf("got %T %v, want a status %d %s", err, err, code, reason)
	}
	if st := s.Status(); st.Code != code || st.Reason != reason || !strings.Contains(st.Message, text) {
		t.Fatalf("got %d %s %q, want %d %s with %q", st.Code, st.Reason, st.Message, code, reason, text)
	}
}

// TestRequestFindsTheRowThatTookItsPlace: a request that had found its kind just before a
// definition changed was answered with 404 by a server that served the kind all the time.
func TestRequestFindsTheRowThatTookItsPlace(t *testing.T) {
	b := start(t)
	b.createMap(configMap("a", "k", "v"))
	again, facts := Row(api.ConfigMaps, Hooks[core.ConfigMap]{}), *api.ConfigMaps.Facts
	again.Facts = &facts
	if err := b.Replace(b.ctx, []*api.Facts{api.ConfigMaps.Facts}, []Resource{again}); err != nil {
		t.Fatal(err)
	}
	b.createMap(configMap("b", "k", "v"))
	if err := b.Replace(b.ctx, []*api.Facts{&facts}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := b.Create(b.ctx, req(api.ConfigMaps, ""), configMap("c"), metav1.CreateOptions{})
	wantStatus(t, err, 404, metav1.StatusReasonNotFound, "could not find the requested resource")
}

func TestCreate(t *testing.T) {
	b := start(t)
	o := b.createMap(configMap("a", "k", "v"))
	if o.UID == "" || o.ResourceVersion == "" || o.CreationTimestamp.IsZero() || o.Generation != 0 || len(o.ManagedFields) != 1 {
		t.Errorf("system fields: %+v", o.ObjectMeta)
	}
	if m := o.ManagedFields[0]; m.Manager != "test" || m.Operation != "Update" || m.FieldsV1.GetRawString() != `{"f:data":{".":{},"f:k":{}}}` {
		t.Errorf("managed fields: %+v %s", m, m.FieldsV1.GetRawString())
	}
	got := must[core.ConfigMap](t)(b.Get(b.ctx, req(api.ConfigMaps, "a"), metav1.GetOptions{}))
	if got != o {
		t.Error("a read right after the write does not see the same object")
	}
	_, err := b.Create(b.ctx, req(api.ConfigMaps, ""), configMap("a"), metav1.CreateOptions{})
	wantStatus(t, err, 409, metav1.StatusReasonAlreadyExists, `configmaps "a" already exists`)
	_, err = b.Create(b.ctx, req(api.ConfigMaps, ""), configMap("A b"), metav1.CreateOptions{})
	wantStatus(t, err, 422, metav1.StatusReasonInvalid, `ConfigMap "A b" is invalid: metadata.name: Invalid value: "A b"`)
	other := configMap("x")
	other.Namespace = "other"
	_, err = b.Create(b.ctx, req(api.ConfigMaps, ""), other, metav1.CreateOptions{})
	wantStatus(t, err, 400, metav1.StatusReasonBadRequest, "the namespace of the provided object does not match the namespace sent on the request")
	versioned := configMap("x")
	versioned.ResourceVersion = "5"
	_, err = b.Create(b.ctx, req(api.ConfigMaps, ""), versioned, metav1.CreateOptions{})
	wantStatus(t, err, 500, "", versionOnCreateMessage)
	dry := must[core.ConfigMap](t)(b.Create(b.ctx, req(api.ConfigMaps, ""), configMap("dry"), metav1.CreateOptions{DryRun: []string{"All"}}))
	if dry.UID == "" {
		t.Error("dry run did not go through the pipeline")
	}
	_, err = b.Get(b.ctx, req(api.ConfigMaps, "dry"), metav1.GetOptions{})
	wantStatus(t, err, 404, metav1.StatusReasonNotFound, `configmaps "dry" not found`)
	gen := configMap("")
	gen.GenerateName = "gen-"
	o = b.createMap(gen)
	if !strings.HasPrefix(o.Name, "gen-") || len(o.Name) != 9 {
		t.Errorf("generated %q", o.Name)
	}
	d := must[apps.Deployment](t)(b.Create(b.ctx, req(api.Deployments, ""), &apps.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Status: apps.DeploymentStatus{Replicas: 7}}, metav1.CreateOptions{}))
	if d.Generation != 1 || d.Status.Replicas != 0 || *d.Spec.Replicas != 1 || d.Namespace != "default" {
		t.Errorf("deployment: %+v", d)
	}
}

func TestUpdate(t *testing.T) {
	b := start(t)
	o := b.createMap(configMap("a", "k", "v"))
	up := func(change func(*core.ConfigMap)) (*core.ConfigMap, error) {
		n := o.DeepCopy()
		change(n)
		r, err := b.Update(b.ctx, req(api.ConfigMaps, "a"), n, metav1.UpdateOptions{})
		if err != nil {
			return nil, err
		}
		return r.Object.(*core.ConfigMap), nil
	}
	same, err := up(func(*core.ConfigMap) {})
	if err != nil || same.ResourceVersion != o.ResourceVersion {
		t.Fatalf("an update that changes nothing gave %v %v", same, err)
	}
	next, err := up(func(c *core.ConfigMap) { c.Data["k"] = "w"; c.CreationTimestamp = metav1.Time{}; c.Generation = 9 })
	if err != nil || next.ResourceVersion == o.ResourceVersion || next.CreationTimestamp != o.CreationTimestamp || next.Generation != 0 {
		t.Fatalf("update: %+v %v", next, err)
	}
	_, err = up(func(c *core.ConfigMap) { c.Data["k"] = "x" })
	wantStatus(t, err, 409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again`)
	free, err := up(func(c *core.ConfigMap) { c.ResourceVersion = ""; c.Data["k"] = "x" })
	if err != nil || free.Data["k"] != "x" {
		t.Fatalf("unconditional update: %v %v", free, err)
	}
	_, err = up(func(c *core.ConfigMap) { c.UID = "other"; c.ResourceVersion = "" })
	wantStatus(t, err, 409, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: other, UID in object meta: "+string(o.UID))
	_, err = up(func(c *core.ConfigMap) { c.Name = "b" })
	wantStatus(t, err, 400, metav1.StatusReasonBadRequest, "the name of the object (b) does not match the name on the URL (a)")
	_, err = b.Update(b.ctx, req(api.ConfigMaps, "none"), configMap("none"), metav1.UpdateOptions{})
	wantStatus(t, err, 404, metav1.StatusReasonNotFound, `configmaps "none" not found`)
}

func TestStatusIsApart(t *testing.T) {
	b := start(t)
	d := must[apps.Deployment](t)(b.Create(b.ctx, req(api.Deployments, ""), &apps.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}}, metav1.CreateOptions{}))
	n := d.DeepCopy()
	n.Spec.Replicas, n.Status.Replicas = new(int32(3)), 9
	d = must[apps.Deployment](t)(b.Update(b.ctx, req(api.Deployments, "d"), n, metav1.UpdateOptions{}))
	if *d.Spec.Replicas != 3 || d.Status.Replicas != 0 || d.Generation != 2 {
		t.Errorf("update of the object: %+v %+v", d.Spec, d.Status)
	}
	n = d.DeepCopy()
	n.Spec.Replicas, n.Status.Replicas = new(int32(5)), 2
	d = must[apps.Deployment](t)(b.Update(b.ctx, req(api.Deployments, "d", "status"), n, metav1.UpdateOptions{FieldManager: "ctl"}))
	if *d.Spec.Replicas != 3 || d.Status.Replicas != 2 || d.Generation != 2 {
		t.Errorf("update of the status: %+v %+v", d.Spec, d.Status)
	}
	last := d.ManagedFields[slices.IndexFunc(d.ManagedFields, func(e metav1.ManagedFieldsEntry) bool { return e.Subresource != "" })]
	if last.Manager != "ctl" || last.Subresource != "status" || last.FieldsV1.GetRawString() != `{"f:status":{"f:replicas":{}}}` {
		t.Errorf("status is owned by %+v: %s", last, last.FieldsV1.GetRawString())
	}
}

func TestDelete(t *testing.T) {
	b := start(t)
	o := b.createMap(configMap("a"))
	_, err := b.Delete(b.ctx, req(api.ConfigMaps, "a"), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: new(o.UID + "x")}})
	wantStatus(t, err, 409, metav1.StatusReasonConflict, "the UID in the precondition")
	r, err := b.Delete(b.ctx, req(api.ConfigMaps, "a"), metav1.DeleteOptions{})
	if s, ok := r.Object.(*metav1.Status); err != nil || !ok || s.Details.Name != "a" || s.Details.Kind != "configmaps" || s.Details.UID != o.UID {
		t.Fatalf("delete gave %v %v", r.Object, err)
	}
	if r.Deleted == nil || r.Deleted.Object().GetResourceVersion() == o.ResourceVersion {
		t.Error("the deleted object does not carry the revision of its deletion")
	}
	_, err = b.Delete(b.ctx, req(api.ConfigMaps, "a"), metav1.DeleteOptions{})
	wantStatus(t, err, 404, metav1.StatusReasonNotFound, "")

	held := configMap("held")
	held.Finalizers = []string{"example.com/hold"}
	b.createMap(held)
	fg := metav1.DeletePropagationForeground
	h := must[core.ConfigMap](t)(b.Delete(b.ctx, req(api.ConfigMaps, "held"), metav1.DeleteOptions{PropagationPolicy: &fg}))
	if h.DeletionTimestamp == nil || *h.DeletionGracePeriodSeconds != 0 || len(h.Finalizers) != 2 || h.Finalizers[1] != metav1.FinalizerDeleteDependents {
		t.Fatalf("held: %+v", h.ObjectMeta)
	}
	n := h.DeepCopy()
	n.Finalizers = []string{"example.com/other"}
	_, err = b.Update(b.ctx, req(api.ConfigMaps, "held"), n, metav1.UpdateOptions{})
	wantStatus(t, err, 422, metav1.StatusReasonInvalid, "no new finalizers can be added if the object is being deleted")
	n = h.DeepCopy()
	n.Finalizers = nil
	if _, err := b.Update(b.ctx, req(api.ConfigMaps, "held"), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err = b.Get(b.ctx, req(api.ConfigMaps, "held"), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the last finalizer is gone but the object is not: %v", err)
	}
}

func TestDeletePods(t *testing.T) {
	b := start(t)
	pod := func(name, node string) *core.Pod {
		return &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: core.PodSpec{NodeName: node}}
	}
	for _, p := range []*core.Pod{pod("waiting", ""), pod("runs", "n1"), pod("forced", "n1")} {
		must[core.Pod](t)(b.Create(b.ctx, req(api.Pods, ""), p, metav1.CreateOptions{}))
	}
	del := func(name string, grace *int64) (*core.Pod, bool) {
		t.Helper()
		r, err := b.Delete(b.ctx, req(api.Pods, name), metav1.DeleteOptions{GracePeriodSeconds: grace})
		if err != nil {
			t.Fatal(err)
		}
		if r.Deleted != nil {
			return r.Deleted.Object().(*core.Pod), true
		}
		return r.Object.(*core.Pod), false
	}
	if _, gone := del("waiting", nil); !gone {
		t.Error("a pod without a node waits")
	}
	p, gone := del("runs", nil)
	if gone || *p.DeletionGracePeriodSeconds != 30 || p.Generation != 2 {
		t.Errorf("first delete: gone %v %+v", gone, p.ObjectMeta)
	}
	at := p.DeletionTimestamp.Time
	if q, _ := del("runs", new(int64(60))); q != p {
		t.Error("a longer grace period changed the pod")
	}
	if p, _ = del("runs", new(int64(5))); *p.DeletionGracePeriodSeconds != 5 || at.Sub(p.DeletionTimestamp.Time) != 25*time.Second {
		t.Errorf("shortened: %+v", p.ObjectMeta)
	}
	if _, gone := del("runs", new(int64(0))); !gone {
		t.Error("forced delete waits")
	}
	if _, gone := del("forced", new(int64(0))); !gone {
		t.Error("forced delete waits")
	}
}

func TestDeleteNamespace(t *testing.T) {
	b := start(t)
	must[core.Namespace](t)(b.Create(b.ctx, req(api.Namespaces, ""), &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}))
	n := must[core.Namespace](t)(b.Delete(b.ctx, req(api.Namespaces, "n"), metav1.DeleteOptions{}))
	if n.DeletionTimestamp == nil || n.Status.Phase != core.NamespaceTerminating {
		t.Fatalf("namespace: %+v", n)
	}
	n = n.DeepCopy()
	n.Spec.Finalizers = nil
	if _, err := b.Update(b.ctx, req(api.Namespaces, "n", "finalize"), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := b.Get(b.ctx, req(api.Namespaces, "n"), metav1.GetOptions{})
	wantStatus(t, err, 404, metav1.StatusReasonNotFound, "")
}

func TestDeleteCollection(t *testing.T) {
	b := start(t)
	for i := range 40 {
		o := configMap(fmt.Sprintf("c%02d", i))
		o.Labels = map[string]string{"odd": fmt.Sprint(i % 2)}
		b.createMap(o)
	}
	l, err := b.DeleteCollection(b.ctx, req(api.ConfigMaps, ""), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "odd=1"})
	if err != nil || len(l.Items) != 20 {
		t.Fatalf("%d %v", len(l.Items), err)
	}
	if l, err = b.List(b.ctx, req(api.ConfigMaps, ""), metav1.ListOptions{}); err != nil || len(l.Items) != 20 {
		t.Fatalf("left: %d %v", len(l.Items), err)
	}
}

// TestConflictIsSeenByTheNextRead: who is told of a conflict and reads again gets a newer version
// than the one that lost. Writers of a status gave up otherwise: they read the same version
// again and again until the cache had caught up.
func TestConflictIsSeenByTheNextRead(t *testing.T) {
	b := start(t)
	must[core.ConfigMap](t)(b.Create(b.ctx, req(api.ConfigMaps, ""), &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}))
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			read := func() *core.ConfigMap {
				r, err := b.Get(b.ctx, req(api.ConfigMaps, "c"), metav1.GetOptions{})
				if err != nil {
					t.Error(err)
					return nil
				}
				return r.Object.(*core.ConfigMap).DeepCopy()
			}
			o := read()
			for i := 0; i < 50 && o != nil; {
				base := o.ResourceVersion
				o.Data = map[string]string{"by": fmt.Sprint(w, i)}
				_, err := b.Update(b.ctx, req(api.ConfigMaps, "c"), o, metav1.UpdateOptions{})
				switch o = read(); {
				case err != nil && !apierrors.IsConflict(err):
					t.Error(err)
					return
				case o != nil && o.ResourceVersion == base:
					t.Errorf("after %v the version is still %s", err, base)
					return
				case err == nil:
					i++
				}
			}
		})
	}
	all.Wait()
}
