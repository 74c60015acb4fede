package aggregator

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// managed is the label of APIServices that are kept here. Those of built-in groups are
// written once after a start, so that an administrator may give them away; those of
// custom resources always.
const (
	managed    = "kube-aggregator.kubernetes.io/automanaged"
	onStart    = "onstart"
	constantly = "true"
)

// registrar keeps the APIServices of what is served here.
type registrar struct {
	Config

	mu sync.Mutex
	// wanted by name; done are those that were put right since the start, before those
	// that were there at the start. All guarded by mu.
	wanted map[string]*apireg.APIService
	done   map[string]bool
	before map[string]bool
}

func newRegistrar(c Config) *registrar {
	return &registrar{Config: c, wanted: map[string]*apireg.APIService{}, done: map[string]bool{}}
}

// follow wants an APIService for every version on the kind table.
func (r *registrar) follow(ctx context.Context, add func(...reconcile.Key)) error {
	r.mu.Lock()
	r.before = map[string]bool{}
	for _, o := range client.CachedList(r.Client, api.APIServices, "", nil) {
		r.before[o.Name] = true
	}
	r.mu.Unlock()
	for {
		changed := r.Changed() // before Kinds, so that no change is missed
		add(r.want(wantedOf(r.Kinds()))...)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// want replaces what is wanted and lists what is to be looked at.
func (r *registrar) want(next map[string]*apireg.APIService) []reconcile.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	var keys []reconcile.Key
	for name := range r.wanted {
		if next[name] == nil {
			keys = append(keys, reconcile.Key{Name: name})
		}
	}
	for name := range next {
		if r.wanted[name] == nil {
			keys = append(keys, reconcile.Key{Name: name})
		}
	}
	r.wanted = next
	return keys
}

// wantedOf makes the APIServices of the versions that kinds are served in.
func wantedOf(kinds []*api.Facts) map[string]*apireg.APIService {
	out := map[string]*apireg.APIService{}
	for _, f := range kinds {
		name := f.Version + "." + f.Group
		p, ok := api.PriorityOf(f)
		if !ok || out[name] != nil {
			continue
		}
		how := onStart
		if f.Dynamic {
			how = constantly
		}
		out[name] = &apireg.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{managed: how}},
			Spec:       apireg.APIServiceSpec{Group: f.Group, Version: f.Version, GroupPriorityMinimum: p.Group, VersionPriority: p.Version},
		}
	}
	return out
}

// step is what to do about one APIService.
type step int

const (
	leave step = iota
	create
	update
	remove
)

// decide compares what is wanted with what is there, as upstream's
// autoRegisterController.checkAPIService does. done: it was put right since the start.
func decide(want, have *apireg.APIService, done, before bool) step {
	how := func(o *apireg.APIService) string {
		if o == nil {
			return ""
		}
		return o.Labels[managed]
	}
	switch {
	case have == nil && want == nil, how(want) == onStart && done:
		return leave
	case have == nil:
		return create
	case how(have) != onStart && how(have) != constantly: // somebody else's
		return leave
	case how(have) == onStart && (!before || done):
		return leave
	case want == nil:
		return remove
	case equality.Semantic.DeepEqual(have.Spec, want.Spec):
		return leave
	}
	return update
}

func (r *registrar) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	r.mu.Lock()
	ready, want, done, before := r.before != nil, r.wanted[key.Name], r.done[key.Name], r.before[key.Name]
	r.mu.Unlock()
	if !ready {
		return reconcile.Result{}, nil // what is there was not looked at yet; follow asks again
	}
	have := client.Cached(r.Client, api.APIServices, "", key.Name)
	var err error
	switch decide(want, have, done, before) {
	case create:
		_, err = client.Create(ctx, r.Client, api.APIServices, want.DeepCopy())
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
	case update:
		next := have.DeepCopy()
		next.Spec = want.Spec
		_, err = client.Update(ctx, r.Client, api.APIServices, next)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return reconcile.Result{}, nil // it has changed: the change comes here
		}
	case remove:
		err = client.Delete(ctx, r.Client, api.APIServices, "", have.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(have.UID))})
		if apierrors.IsNotFound(err) {
			err = nil
		}
	case leave:
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("keeping the APIService %s: %w", key.Name, err)
	}
	r.mu.Lock()
	r.done[key.Name] = true
	r.mu.Unlock()
	return reconcile.Result{}, nil
}
