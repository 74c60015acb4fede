package garbage

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// Others are the servers that hold the objects of further kinds.
type Others interface {
	// Collectable lists the kinds whose objects can be read, watched and deleted there; failed
	// are the versions that cannot be asked now; changed closes when the answer does.
	Collectable(ctx context.Context) (list []*api.Facts, failed []schema.GroupVersion, changed <-chan struct{})
	Each(ctx context.Context, r schema.GroupVersionResource, see func(*metav1.PartialObjectMetadata)) (revision string, err error)
	Watch(ctx context.Context, r schema.GroupVersionResource, revision string, tell func(watch.EventType, *metav1.PartialObjectMetadata)) error
	Get(ctx context.Context, r schema.GroupVersionResource, namespace, name string) (*metav1.PartialObjectMetadata, error)
	Patch(ctx context.Context, r schema.GroupVersionResource, at types.NamespacedName, patch []byte) error
	Delete(ctx context.Context, r schema.GroupVersionResource, at types.NamespacedName, o metav1.DeleteOptions) error
}

// Waits between attempts at a server that does not answer: doubled each time.
const (
	waitFirst = time.Second
	waitMost  = time.Minute
	// lookAgain is how soon a server is asked again that would not tell its kinds.
	lookAgain = 30 * time.Second
)

// elsewhere follows the kinds of other servers. Of their objects the graph keeps those
// that have owners, as of ours; whether an owner there still is, its server is asked.
type elsewhere struct {
	Others
	graph *graph

	mu    sync.Mutex
	kinds map[schema.GroupKind]*remote // guarded by mu
}

// remote is a kind that another server holds.
type remote struct {
	*api.Facts
	stop context.CancelFunc
}

// kindOf gives the kind that another server holds; nil if none does.
func (e *elsewhere) kindOf(gk schema.GroupKind) *api.Facts {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.kinds[gk]; r != nil {
		return r.Facts
	}
	return nil
}

// holds tells whether the kind is one of other servers': those have no Go type here. It
// stays so when the kind is served no longer, lest it be looked for among ours.
func (e *elsewhere) holds(f *api.Facts) bool { return f.New == nil }

// follow watches every kind of other servers, and those that come later, until ctx ends.
func (e *elsewhere) follow(ctx context.Context, add func(...reconcile.Key)) {
	if e.Others == nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		list, failed, changed := e.Collectable(ctx)
		for _, r := range e.adopt(list, failed) {
			watch, stop := context.WithCancel(ctx)
			e.mu.Lock()
			r.stop = stop
			e.mu.Unlock()
			wg.Go(func() { e.keepUp(watch, r, add) })
		}
		var again <-chan time.Time
		if len(failed) > 0 {
			again = time.After(lookAgain)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// adopt takes up what is served elsewhere now and gives the kinds that are new. The kinds
// of servers that cannot be asked stay: their objects may well be there.
func (e *elsewhere) adopt(list []*api.Facts, failed []schema.GroupVersion) (fresh []*remote) {
	e.mu.Lock()
	defer e.mu.Unlock()
	served := map[schema.GroupKind]*api.Facts{}
	for _, f := range list {
		served[f.GroupKind()] = f
	}
	for gk, r := range e.kinds {
		now := served[gk]
		if now != nil && now.GVR() == r.GVR() && now.Cluster == r.Cluster || now == nil && slices.Contains(failed, r.GroupVersion()) {
			delete(served, gk)
			continue
		}
		r.stop()
		delete(e.kinds, gk)
		e.graph.forget(r.Facts)
	}
	for gk, f := range served {
		r := &remote{Facts: f, stop: func() {}}
		e.kinds[gk] = r
		fresh = append(fresh, r)
	}
	return fresh
}

// keepUp lists a kind and watches it, again and again; a server that does not answer is
// asked more and more seldom.
func (e *elsewhere) keepUp(ctx context.Context, r *remote, add func(...reconcile.Key)) {
	for wait := waitFirst; ctx.Err() == nil; {
		began := time.Now()
		err := e.observe(ctx, r, add)
		if err == nil || time.Since(began) > waitMost {
			wait = waitFirst
		}
		// A watch that ends at once without an error must not make a busy loop either.
		select {
		case <-time.After(wait):
			wait = min(2*wait, waitMost)
		case <-ctx.Done():
		}
	}
}

// observe takes up what is there, then what changes.
func (e *elsewhere) observe(ctx context.Context, r *remote, add func(...reconcile.Key)) error {
	gvr, there := r.GVR(), map[types.UID]bool{}
	see := func(o *metav1.PartialObjectMetadata) {
		add(keys(e.graph.observe(r.Facts, client.Change{New: o}))...)
	}
	revision, err := e.Each(ctx, gvr, func(o *metav1.PartialObjectMetadata) {
		there[o.UID] = true
		see(o)
	})
	if err != nil {
		return err
	}
	// Whatever went unseen: dependents that are gone, and owners that may be.
	add(keys(e.graph.retain(r.Facts, there))...)
	add(keys(e.graph.dependentsOfKind(r.GroupKind()))...)
	clear(there)
	return e.Watch(ctx, gvr, revision, func(what watch.EventType, o *metav1.PartialObjectMetadata) {
		switch what {
		case watch.Added, watch.Modified:
			see(o)
		case watch.Deleted:
			add(keys(e.graph.observe(r.Facts, client.Change{Old: o}))...)
		}
	})
}

var errNoObject = errors.New("the server's answer is no object")

// get reads an object's metadata.
func (e *elsewhere) get(ctx context.Context, id identity) (api.Object, error) {
	o, err := e.Get(ctx, id.kind.GVR(), id.namespace, id.name)
	if err != nil {
		return nil, err
	}
	if o.Name == "" {
		return nil, apierrors.NewInternalError(errNoObject)
	}
	return o, nil
}
