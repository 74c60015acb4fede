// Package registry is the API's semantics: what create, get, list, watch, update,
// patch and delete mean for every kind, the same for all of them. A kind is a row
// (Resource) that says where it differs.
//
// One write: default, prepare, managed fields, admit, validate, admission's
// validation, store, and wait until the cache has it, so that everybody reads his
// own writes. Reads are served by package cache.
//
// It refuses HTTP (server/rest), authorization (server/access) and knowledge of
// single kinds beyond their rows; the subresources that upstream gives meaning to
// (binding, eviction, ...) are the sub_*.go files. Start reading at Registry, then
// request.go, create.go, update.go.
package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/version"

	"orch/api"
	"orch/datastore"
	"orch/server/apply"
	"orch/server/registry/cache"
)

// Names of the cache's values that this package hands out.
type (
	Item  = cache.Item
	Watch = cache.Watch
	Event = cache.Event
)

// Config of a Registry.
type Config struct {
	Store datastore.Store
	// Resources is the kind table at the start: BuiltIn().
	Resources []Resource
	// Sealer gives what encrypts a resource in the store, nil for those that lie in plain; may be nil.
	Sealer func(group, plural string) cache.Sealer
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Registry is safe for many goroutines.
type Registry struct {
	store datastore.Store
	seals func(group, plural string) cache.Sealer
	now   func() time.Time
	log   *slog.Logger
	cache *cache.Cache
	apply *apply.Applier

	// Set while wiring, before Run.
	admission Admission
	subs      map[subKey]SubFunc
	computes  map[*api.Facts]ComputeFunc
	reads     map[*api.Facts]func(context.Context) []api.Object

	table atomic.Pointer[table] // replaced as a whole, under mu
	mu    sync.Mutex
}

// table is the kind table at one moment.
type table struct {
	list    []*Resource
	byFacts map[*api.Facts]*Resource
	byName  map[string]*Resource // group/version/plural
	changed chan struct{}        // closed when another table takes its place
}

type subKey struct {
	kind *api.Facts
	name string
}

// SubFunc answers a create on a subresource; parent is the object it belongs to.
type SubFunc func(ctx context.Context, q Request, parent api.Object, body runtime.Object) (runtime.Object, error)

// ComputeFunc answers a create of a kind that is not stored.
type ComputeFunc func(ctx context.Context, q Request, o runtime.Object) (runtime.Object, error)

// New checks the table; nothing is read before Run.
func New(c Config) (*Registry, error) {
	if c.Store == nil {
		return nil, errors.New("registry: no store")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{
		store: c.Store, seals: c.Sealer, now: c.Now, log: c.Log, apply: apply.New(c.Now),
		subs: map[subKey]SubFunc{}, computes: map[*api.Facts]ComputeFunc{}, reads: map[*api.Facts]func(context.Context) []api.Object{},
	}
	t := &table{byFacts: map[*api.Facts]*Resource{}, byName: map[string]*Resource{}, changed: make(chan struct{})}
	var kinds []*cache.Kind
	for i := range c.Resources {
		res := &c.Resources[i]
		if err := t.add(res); err != nil {
			return nil, err
		}
		if !res.Computed && res.SameAs == nil {
			r.seal(res)
			kinds = append(kinds, res.kind)
		}
	}
	r.table.Store(t)
	r.cache = cache.New(cache.Config{Store: c.Store, Kinds: kinds, Log: c.Log})
	return r, nil
}

// Run loads the store and serves until ctx ends.
func (r *Registry) Run(ctx context.Context) error { return r.cache.Run(ctx) }

// Ready is closed once the store is loaded; requests wait for it.
func (r *Registry) Ready() <-chan struct{} { return r.cache.Ready() }

// SetAdmission puts admission into every write. Call it before Run.
func (r *Registry) SetAdmission(a Admission) { r.admission = a }

// SetSub answers creates on a subresource. Call it before Run.
func (r *Registry) SetSub(f *api.Facts, sub string, fn SubFunc) { r.subs[subKey{f, sub}] = fn }

// SetCompute answers creates of a kind that is not stored. Call it before Run.
func (r *Registry) SetCompute(f *api.Facts, fn ComputeFunc) { r.computes[f] = fn }

// SetRead answers reads of a kind that is not stored: fn gives all its objects by
// name. Call it before Run.
func (r *Registry) SetRead(f *api.Facts, fn func(context.Context) []api.Object) { r.reads[f] = fn }

func (t *table) add(res *Resource) error {
	name := tableName(res.Group, res.Version, res.Plural)
	if t.byName[name] != nil {
		return fmt.Errorf("registry: %s is in the table already", name)
	}
	t.byFacts[res.Facts] = res
	if !res.Unserved {
		t.list = append(t.list, res)
		t.byName[name] = res
	}
	return nil
}

func (t *table) remove(f *api.Facts) {
	res := t.byFacts[f]
	if res == nil {
		return
	}
	t.list = slices.DeleteFunc(t.list, func(o *Resource) bool { return o == res })
	delete(t.byFacts, f)
	if !res.Unserved {
		delete(t.byName, tableName(f.Group, f.Version, f.Plural))
	}
}

// sort puts the kinds made at run time behind the others: by group, the best version of
// each first, so that discovery prefers it.
func (t *table) sort() {
	slices.SortStableFunc(t.list, func(a, b *Resource) int {
		switch {
		case !a.Dynamic && !b.Dynamic:
			return 0
		case a.Dynamic != b.Dynamic:
			if a.Dynamic {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.Group, b.Group), version.CompareKubeAwareVersionStrings(b.Version, a.Version), cmp.Compare(a.Plural, b.Plural))
	})
}

func tableName(group, version, plural string) string { return group + "/" + version + "/" + plural }

// Resources lists the table. Do not change it.
func (r *Registry) Resources() []*Resource { return r.table.Load().list }

// Stored lists the kinds under which objects lie in the store. Those of a custom resource with
// several versions are served as none of them, but as views of it.
func (r *Registry) Stored() []*api.Facts {
	var out []*api.Facts
	for f, res := range r.table.Load().byFacts {
		if f.SameAs == nil && !res.Computed {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *api.Facts) int { return cmp.Compare(a.Prefix(), b.Prefix()) })
	return out
}

// Find returns the row of a REST address, nil if there is none.
func (r *Registry) Find(group, version, plural string) *Resource {
	return r.table.Load().byName[tableName(group, version, plural)]
}

// For returns the row of a kind, nil if there is none.
func (r *Registry) For(f *api.Facts) *Resource { return r.table.Load().byFacts[f] }

// Changed is closed when the table as it is now is replaced.
func (r *Registry) Changed() <-chan struct{} { return r.table.Load().changed }

// Add puts a kind on the table at run time and loads its objects.
func (r *Registry) Add(ctx context.Context, res Resource) error {
	return r.Replace(ctx, nil, []Resource{res})
}

// Remove takes a kind off the table and ends its watches; its objects stay in the store.
func (r *Registry) Remove(ctx context.Context, f *api.Facts) error {
	return r.Replace(ctx, []*api.Facts{f}, nil)
}

// Replace takes kinds off the table and puts others on in one step, so that a kind
// that changes is served all the time. The new ones' objects are loaded first; watches
// of the old ones end.
func (r *Registry) Replace(ctx context.Context, old []*api.Facts, rows []Resource) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.table.Load().clone()
	gone := make([]*Resource, 0, len(old))
	for _, f := range old {
		if res := n.byFacts[f]; res != nil {
			gone = append(gone, res)
			n.remove(f)
		}
	}
	for i := range rows {
		if err := n.add(&rows[i]); err != nil {
			return err
		}
	}
	n.sort()
	var kinds []*cache.Kind
	for i := range rows {
		if res := &rows[i]; !res.Computed && res.SameAs == nil {
			r.seal(res)
			kinds = append(kinds, res.kind)
		}
	}
	var ended []*api.Facts
	for _, res := range gone {
		if res.SameAs == nil && !res.Computed {
			ended = append(ended, res.Facts)
		}
	}
	if err := r.cache.Replace(ctx, ended, kinds, func() { close(r.table.Swap(n).changed) }); err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	for _, res := range gone {
		r.apply.Forget(res.Facts)
	}
	return nil
}

// Teach gives server-side apply the types of a kind made at run time; without them the
// types are deduced from the objects. load runs when they are first needed. convert, which
// may be nil, gives an object in another version, where that is more than its name.
func (r *Registry) Teach(f *api.Facts, load func() (managedfields.TypeConverter, error), convert apply.Convert) {
	r.apply.Teach(f, load, convert)
}

// Coerce brings a kind's object that was just read into its form; see Hooks.Coerce.
func (r *Registry) Coerce(f *api.Facts, o runtime.Object, list bool) ([]string, error) {
	res := r.For(f)
	if res == nil {
		res = r.successor(f)
	}
	n, ok := o.(api.Object)
	if res == nil || !ok || res.hooks.coerce == nil {
		return nil, nil
	}
	return res.hooks.coerce(n, list)
}

func (t *table) clone() *table {
	return &table{slices.Clone(t.list), maps.Clone(t.byFacts), maps.Clone(t.byName), make(chan struct{})}
}

// Amount counts the stored objects of a kind and their bytes.
func (r *Registry) Amount(res *Resource) (objects, bytes int64) {
	if res.Computed || res.kind == nil {
		return 0, 0
	}
	return r.cache.Amount(res.kind)
}

// Revision is the newest revision that reads show.
func (r *Registry) Revision() int64 { return r.cache.Revision() }
