// Package garbage deletes objects whose owners are gone, and carries out
// foreground and orphaning deletions: the graph of ownerReferences over all
// kinds, those of custom resources and of aggregated servers included. It keeps the identity and owners of
// objects that have owners, nothing else; the objects are read from the caches, those
// of other servers from there (elsewhere.go).
// Start reading at Specs, then judge (pure), then graph.
package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
)

// Deps is what the controller needs.
type Deps struct {
	// Client's cache holds every kind that Kinds lists.
	Client *client.Client
	// Kinds lists every kind that is served now; Changed returns a channel that
	// closes when the list changes next. A nil Changed: the list never changes.
	Kinds   func() []*api.Facts
	Changed func() <-chan struct{}
	Events  *events.Recorder // may be nil
	// Others hold the objects of further kinds; nil for none.
	Others Others
}

type controller struct {
	Deps
	graph     *graph
	elsewhere *elsewhere

	mu sync.Mutex // guards what follows
	// kinds are those of the graph, as of the list that seen closes with.
	kinds map[schema.GroupKind]*api.Facts
	seen  <-chan struct{}
	// whole tells that the graph held every object at least once, ended that it is fed no longer.
	whole, ended bool
	// fed is closed, and replaced, when one of these has changed.
	fed chan struct{}
}

// Specs is the garbage collector. Its keys are UIDs.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{Deps: d, graph: newGraph(), kinds: map[schema.GroupKind]*api.Facts{}, fed: make(chan struct{})}
	c.Events = d.Events.As("garbage-collector-controller")
	c.elsewhere = &elsewhere{Others: d.Others, graph: c.graph, kinds: map[schema.GroupKind]*remote{}}
	return []reconcile.Spec{{Name: "garbage", Workers: 8, Do: c.do, Source: func(ctx context.Context, add func(...reconcile.Key)) error {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		var others sync.WaitGroup
		others.Go(func() { c.elsewhere.follow(ctx, add) })
		err := c.follow(ctx, add)
		stop()
		others.Wait()
		return err
	}}}
}

// collected tells whether objects of the kind can own or be owned.
func collected(f *api.Facts) bool {
	return !f.Computed && f.SameAs == nil && f != api.Events.Facts
}

// follow watches every kind, and those that come later.
func (c *controller) follow(ctx context.Context, add func(...reconcile.Key)) error {
	stops := map[*api.Facts]context.CancelFunc{}
	defer c.tell(func() { c.ended = true })
	for {
		var changed <-chan struct{}
		if c.Changed != nil {
			changed = c.Changed() // before Kinds, so that no change is missed
		}
		if err := c.subscribe(ctx, stops, add); err != nil {
			return err
		}
		c.tell(func() { c.whole, c.seen = true, changed })
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// tell changes what complete waits for.
func (c *controller) tell(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.fed)
	c.fed = make(chan struct{})
}

// complete waits until the graph knows the objects of every kind that is served. Before
// that an owner may seem to have no dependents, and would go before them.
func (c *controller) complete(ctx context.Context) error {
	for {
		c.mu.Lock()
		whole, ended, fed := c.whole && (c.Changed == nil || c.seen == c.Changed()), c.ended, c.fed
		c.mu.Unlock()
		switch {
		case whole:
			return nil
		case ended:
			return context.Canceled
		}
		select {
		case <-fed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// subscribe brings the subscriptions in line with the kinds that are served.
func (c *controller) subscribe(ctx context.Context, stops map[*api.Facts]context.CancelFunc, add func(...reconcile.Key)) error {
	kinds := map[schema.GroupKind]*api.Facts{}
	served := map[*api.Facts]bool{}
	for _, f := range c.Kinds() {
		if collected(f) {
			kinds[f.GroupKind()], served[f] = f, true
		}
	}
	c.mu.Lock()
	c.kinds = kinds
	c.mu.Unlock()
	for f, stop := range stops {
		if !served[f] {
			stop()
			delete(stops, f)
			c.graph.forget(f)
		}
	}
	for f := range served {
		if stops[f] != nil {
			continue
		}
		watch, stop := context.WithCancel(ctx)
		err := c.Client.Subscribe(watch, f, func(ch client.Change) { add(keys(c.graph.observe(f, ch))...) })
		if err != nil {
			stop()
			if errors.Is(err, client.ErrGone) { // the next look at the kinds comes at once
				continue
			}
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watching %s: %w", f.Plural, err)
		}
		stops[f] = stop
	}
	return nil
}

func keys(uids []types.UID) []reconcile.Key {
	out := make([]reconcile.Key, len(uids))
	for i, uid := range uids {
		out[i].Name = string(uid)
	}
	return out
}

// kindOf gives an owner's kind, here or elsewhere; nil if it is served by nobody.
func (c *controller) kindOf(ref metav1.OwnerReference) *api.Facts {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil
	}
	gk := gv.WithKind(ref.Kind).GroupKind()
	c.mu.Lock()
	own := c.kinds[gk]
	c.mu.Unlock()
	if own != nil {
		return own
	}
	return c.elsewhere.kindOf(gk)
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	if err := c.complete(ctx); err != nil {
		return reconcile.Result{}, err
	}
	n, id, finishing := c.graph.find(types.UID(key.Name))
	if finishing {
		if err := c.finish(ctx, id); err != nil {
			return reconcile.Result{}, err
		}
	}
	if n == nil || n.deleting {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, c.collect(ctx, *n)
}

// collect looks at an object with owners and does what judge says.
func (c *controller) collect(ctx context.Context, n node) error {
	if !c.doubtful(n) {
		return nil
	}
	// The cache leaves a doubt: the server decides.
	o, err := c.read(ctx, n.identity)
	if err != nil || o == nil {
		return err
	}
	var unknown error
	v := judge(o, func(ref metav1.OwnerReference) standing {
		s, err := c.standing(ctx, o, n.kind, ref)
		unknown = errors.Join(unknown, err)
		return s
	}, c.graph.dependentsOf(n.uid))
	switch {
	case unknown != nil:
		return unknown
	case len(v.drop) > 0:
		return c.setOwners(ctx, n.identity, o, slices.DeleteFunc(slices.Clone(o.GetOwnerReferences()), func(r metav1.OwnerReference) bool {
			return slices.ContainsFunc(v.drop, func(d metav1.OwnerReference) bool { return d.UID == r.UID })
		}))
	case !v.delete:
		return nil
	}
	if v.unblock {
		refs := slices.Clone(o.GetOwnerReferences())
		for i := range refs {
			refs[i].BlockOwnerDeletion = new(false)
		}
		if err := c.setOwners(ctx, n.identity, o, refs); err != nil {
			return err
		}
	}
	return c.delete(ctx, n.identity, v.propagation)
}

// doubtful tells, from the caches alone, whether an owner may be missing or
// waiting. For nearly all objects it says no, at the price of a look-up.
func (c *controller) doubtful(n node) bool {
	return slices.ContainsFunc(n.owners, func(ref metav1.OwnerReference) bool {
		f := c.kindOf(ref)
		if f == nil || (n.namespace == "" && !f.Cluster) || c.elsewhere.holds(f) {
			return true
		}
		o := c.Client.Lookup(f, ownerNamespace(f, n.namespace), ref.Name)
		return o == nil || o.GetUID() != ref.UID || waits(o)
	})
}

func ownerNamespace(f *api.Facts, namespace string) string {
	if f.Cluster {
		return ""
	}
	return namespace
}

func waits(o api.Object) bool {
	return o.GetDeletionTimestamp() != nil && slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents)
}

// standing asks the server about an owner. An owner whose kind is not served, or
// that cannot be addressed, counts as there: nothing is deleted on a guess.
func (c *controller) standing(ctx context.Context, o api.Object, kind *api.Facts, ref metav1.OwnerReference) (standing, error) {
	f := c.kindOf(ref)
	if f == nil {
		return solid, nil
	}
	if kind.Cluster && !f.Cluster {
		c.Events.Event(o, core.EventTypeWarning, "OwnerRefInvalidNamespace",
			"ownerRef [%s/%s, namespace: , name: %s, uid: %s] does not exist in namespace %q", ref.APIVersion, ref.Kind, ref.Name, ref.UID, o.GetNamespace())
		return solid, nil
	}
	owner, err := c.read(ctx, identity{f, ownerNamespace(f, o.GetNamespace()), ref.Name, ref.UID})
	switch {
	case err != nil:
		return solid, err
	case owner == nil:
		return absent, nil
	case waits(owner):
		return waiting, nil
	}
	return solid, nil
}

// read gets the object from the server; nil if it is gone or another one by now.
func (c *controller) read(ctx context.Context, id identity) (api.Object, error) {
	o, err := c.get(ctx, id)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s %s/%s: %w", id.kind.Plural, id.namespace, id.name, err)
	}
	if o.GetUID() == id.uid {
		return o, nil
	}
	return nil, nil
}

func (c *controller) get(ctx context.Context, id identity) (api.Object, error) {
	if c.elsewhere.holds(id.kind) {
		return c.elsewhere.get(ctx, id)
	}
	o, err := c.Client.Transport.Get(ctx, client.Target{Kind: id.kind, Namespace: id.namespace, Name: id.name}, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return o.(api.Object), nil
}

// finish carries out what the finalizers of an object being deleted ask for.
func (c *controller) finish(ctx context.Context, id identity) error {
	o, err := c.read(ctx, id)
	if err != nil || o == nil {
		return err
	}
	dependents := c.graph.dependentsOf(id.uid)
	if slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents) {
		for _, d := range dependents {
			if err := c.orphan(ctx, d, id.uid); err != nil {
				return err
			}
		}
		return c.dropFinalizer(ctx, id, o, metav1.FinalizerOrphanDependents)
	}
	if waits(o) && len(blocking(id, dependents)) == 0 {
		return c.dropFinalizer(ctx, id, o, metav1.FinalizerDeleteDependents)
	}
	return nil // the dependents were queued when this one began to wait; the last one wakes it
}

// orphan strikes the owner from a dependent's references.
func (c *controller) orphan(ctx context.Context, d node, owner types.UID) error {
	o, err := c.read(ctx, d.identity)
	if err != nil || o == nil {
		return err
	}
	return c.setOwners(ctx, d.identity, o, slices.DeleteFunc(slices.Clone(o.GetOwnerReferences()), func(r metav1.OwnerReference) bool { return r.UID == owner }))
}

func (c *controller) setOwners(ctx context.Context, id identity, o api.Object, refs []metav1.OwnerReference) error {
	return c.patch(ctx, id, o, "ownerReferences", refs)
}

func (c *controller) dropFinalizer(ctx context.Context, id identity, o api.Object, name string) error {
	return c.patch(ctx, id, o, "finalizers", slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return f == name }))
}

// patch writes one field of the metadata, if nobody wrote the object meanwhile.
func (c *controller) patch(ctx context.Context, id identity, o api.Object, field string, value any) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": id.uid, "resourceVersion": o.GetResourceVersion(), field: value}})
	if err != nil {
		return fmt.Errorf("encoding patch: %w", err)
	}
	if c.elsewhere.holds(id.kind) {
		err = c.elsewhere.Patch(ctx, id.kind.GVR(), types.NamespacedName{Namespace: id.namespace, Name: id.name}, body)
	} else {
		t := client.Target{Kind: id.kind, Namespace: id.namespace, Name: id.name}
		_, err = c.Client.Patch(ctx, t, types.MergePatchType, body, metav1.PatchOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing %s of %s %s/%s: %w", field, id.kind.Plural, id.namespace, id.name, err)
	}
	return nil
}

func (c *controller) delete(ctx context.Context, id identity, how metav1.DeletionPropagation) error {
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &id.uid}, PropagationPolicy: &how}
	var err error
	if c.elsewhere.holds(id.kind) {
		err = c.elsewhere.Delete(ctx, id.kind.GVR(), types.NamespacedName{Namespace: id.namespace, Name: id.name}, options)
	} else {
		_, err = c.Client.Delete(ctx, client.Target{Kind: id.kind, Namespace: id.namespace, Name: id.name}, options)
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting %s %s/%s: %w", id.kind.Plural, id.namespace, id.name, err)
	}
	return nil
}
