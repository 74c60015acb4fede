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
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Registry is safe for many goroutines.
type Registry struct {
	store datastore.Store
	now   func() time.Time
	log   *slog.Logger
	cache *cache.Cache
	apply *apply.Applier

	// Set while wiring, before Run.
	admission Admission
	subs      map[subKey]SubFunc
	computes  map[*api.Facts]ComputeFunc

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
		store: c.Store, now: c.Now, log: c.Log, apply: apply.New(c.Now),
		subs: map[subKey]SubFunc{}, computes: map[*api.Facts]ComputeFunc{},
	}
	t := &table{byFacts: map[*api.Facts]*Resource{}, byName: map[string]*Resource{}, changed: make(chan struct{})}
	var kinds []*cache.Kind
	for i := range c.Resources {
		res := &c.Resources[i]
		if err := t.add(res); err != nil {
			return nil, err
		}
		if !res.Computed && res.SameAs == nil {
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

func (t *table) add(res *Resource) error {
	name := tableName(res.Group, res.Version, res.Plural)
	if t.byName[name] != nil {
		return fmt.Errorf("registry: %s is in the table already", name)
	}
	t.list = append(t.list, res)
	t.byFacts[res.Facts], t.byName[name] = res, res
	return nil
}

func tableName(group, version, plural string) string { return group + "/" + version + "/" + plural }

// Resources lists the table. Do not change it.
func (r *Registry) Resources() []*Resource { return r.table.Load().list }

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
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.table.Load().clone()
	if err := n.add(&res); err != nil {
		return err
	}
	if !res.Computed && res.SameAs == nil {
		if err := r.cache.Add(ctx, res.kind); err != nil {
			return fmt.Errorf("registry: loading %s: %w", res.GVR(), err)
		}
	}
	close(r.table.Swap(n).changed)
	return nil
}

// Remove takes a kind off the table and ends its watches; its objects stay in the store.
func (r *Registry) Remove(ctx context.Context, f *api.Facts) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.table.Load().clone()
	res := n.byFacts[f]
	if res == nil {
		return nil
	}
	n.list = slices.DeleteFunc(n.list, func(o *Resource) bool { return o == res })
	delete(n.byFacts, f)
	delete(n.byName, tableName(f.Group, f.Version, f.Plural))
	close(r.table.Swap(n).changed)
	if f.SameAs == nil && !f.Computed {
		return r.cache.Remove(ctx, f)
	}
	return nil
}

func (t *table) clone() *table {
	return &table{slices.Clone(t.list), maps.Clone(t.byFacts), maps.Clone(t.byName), make(chan struct{})}
}

// Revision is the newest revision that reads show.
func (r *Registry) Revision() int64 { return r.cache.Revision() }
