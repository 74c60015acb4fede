// Package crd makes custom resource definitions into kinds that are served: it decides
// which names a definition gets, puts a row for each of its versions on the kind table,
// keeps the definition's conditions, and deletes the instances with it. What happens to
// one custom resource on its way (dropping, defaulting, validation) is in version.go and
// validate.go; schemas and rules are compiled when they are first needed.
//
// It refuses HTTP, storage, and deciding who may write. Start reading at Controller,
// then row.go, version.go and validate.go.
package crd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/registry"
	"orch/server/webhook"
)

// Document is an OpenAPI document that is made when somebody asks for it. Open is nil
// for one that is to go.
type Document struct {
	Hash string
	Open func(protobuf bool) (io.ReadCloser, error)
}

// Config of a Controller.
type Config struct {
	Registry *registry.Registry
	// Client acts with every right.
	Client *client.Client
	// Publish puts an OpenAPI document in place: "v3/apis/GROUP/VERSION", or "v2", which
	// is an addition to the built-in one. Nil: documents are not published.
	Publish func(name string, d Document)
	// Webhooks calls those that convert; nil: such a conversion fails.
	Webhooks *webhook.Client
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Controller turns definitions into kinds. Make it with New, and Run it once.
type Controller struct {
	Config
	loop  *reconcile.Loop
	ready chan struct{}
	// numbers are about conversions by webhook.
	numbers webhook.Numbers
	// again are definitions to look at for a reason that their own changes do not give.
	again chan reconcile.Key

	mu        sync.Mutex
	installed map[string]*installed // by the definition's name; guarded by mu
	published map[string]string     // hashes by document; guarded by mu
	verdicts  map[string]verdict    // by the definition's name; guarded by mu
}

// maxAgain bounds the definitions that wait to be looked at again.
const maxAgain = 1024

// installed is what stands on the kind table for one definition.
type installed struct {
	mark
	definition *definition
	facts      []*api.Facts // the stored kind first
	// watched is set when somebody tells of every instance that goes.
	watched bool
	stop    context.CancelFunc
	ctx     context.Context
}

// mark tells whether a definition has changed in a way that its rows show.
type mark struct {
	uid         types.UID
	generation  int64
	names       string
	terminating bool
}

// New checks the configuration.
func New(c Config) (*Controller, error) {
	if c.Registry == nil || c.Client == nil {
		return nil, errors.New("making the controller of custom resources: no registry or no client")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &Controller{Config: c, ready: make(chan struct{}), again: make(chan reconcile.Key, maxAgain),
		verdicts: map[string]verdict{}, installed: map[string]*installed{}, published: map[string]string{}}
	var err error
	r.loop, err = reconcile.New(c.Client, reconcile.Spec{
		Name:    "custom-resource-definition",
		Watches: []reconcile.Watch{reconcile.For(api.CustomResourceDefinitions)},
		Source:  r.wake, Do: r.Do,
	})
	return r, err
}

// Loop is the controller's, for its numbers.
func (c *Controller) Loop() *reconcile.Loop { return c.loop }

// Ready closes once every established definition is served.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Run serves what is defined already, then follows the changes until ctx ends. The
// registry must be ready.
func (c *Controller) Run(ctx context.Context) error {
	for _, d := range client.CachedList(c.Client, api.CustomResourceDefinitions, "", nil) {
		if !holds(d, apiext.Established) {
			continue
		}
		if err := c.install(ctx, d); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			c.Log.Error("a custom resource is not served", "definition", d.Name, "error", err)
		}
	}
	c.publish()
	close(c.ready)
	err := c.loop.Run(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.installed {
		i.stop()
	}
	return err
}

// wake hands over definitions that have to be looked at although they did not change.
func (c *Controller) wake(ctx context.Context, add func(...reconcile.Key)) error {
	for {
		select {
		case k := <-c.again:
			add(k)
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Controller) lookAgain(ctx context.Context, name string) {
	select {
	case c.again <- reconcile.Key{Name: name}:
	case <-ctx.Done():
	}
}

// Do brings one definition to where it should be: names, rows, conditions, end.
func (c *Controller) Do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	d := client.Cached(c.Client, api.CustomResourceDefinitions, "", key.Name)
	if d == nil {
		return reconcile.Result{}, c.gone(ctx, key.Name)
	}
	peers := c.peers(d)
	want := d.DeepCopy()
	decide(want, peers, c.Now())
	c.judge(want)
	if holds(want, apiext.Established) {
		if err := c.install(ctx, want); err != nil {
			return reconcile.Result{}, fmt.Errorf("serving the custom resource %s: %w", d.Name, err)
		}
		c.publish()
	}
	if !sameStatus(&d.Status, &want.Status) {
		if _, err := client.UpdateStatus(ctx, c.Client, api.CustomResourceDefinitions, want); err != nil {
			return reconcile.Result{}, err
		}
		if !sameNames(&d.Status.AcceptedNames, &want.Status.AcceptedNames) {
			c.lookAtPeers(ctx, peers)
		}
		return reconcile.Result{}, nil
	}
	if d.DeletionTimestamp != nil && slices.Contains(d.Finalizers, apiext.CustomResourceCleanupFinalizer) {
		return reconcile.Result{}, c.cleanUp(ctx, want)
	}
	return reconcile.Result{}, nil
}

// peers are the other definitions of the same group.
func (c *Controller) peers(d *apiext.CustomResourceDefinition) []*apiext.CustomResourceDefinition {
	var out []*apiext.CustomResourceDefinition
	for _, o := range client.CachedList(c.Client, api.CustomResourceDefinitions, "", nil) {
		if o.Spec.Group == d.Spec.Group && o.Name != d.Name {
			out = append(out, o)
		}
	}
	return out
}

// lookAtPeers wakes those that may now get a name that they wait for.
func (c *Controller) lookAtPeers(ctx context.Context, peers []*apiext.CustomResourceDefinition) {
	for _, p := range peers {
		if !holds(p, apiext.NamesAccepted) {
			c.lookAgain(ctx, p.Name)
		}
	}
}

// install puts a definition's versions on the kind table, unless they are there.
func (c *Controller) install(ctx context.Context, d *apiext.CustomResourceDefinition) error {
	m := markOf(d)
	c.mu.Lock()
	was := c.installed[d.Name]
	c.mu.Unlock()
	if was != nil && was.mark == m {
		return nil
	}
	def := newDefinition(d, c.converter(d))
	rows := def.rows(d.DeletionTimestamp != nil)
	now := &installed{mark: m, definition: def}
	now.ctx, now.stop = context.WithCancel(context.WithoutCancel(ctx))
	for i := range rows {
		now.facts = append(now.facts, rows[i].Facts)
		c.Registry.Teach(rows[i].Facts, def.versions[rows[i].Version].typeConverter, def.convert())
	}
	var old []*api.Facts
	if was != nil {
		old = was.facts
	}
	if err := c.Registry.Replace(ctx, old, rows); err != nil {
		now.stop()
		return err
	}
	if was != nil {
		was.stop()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.installed[d.Name] = now
	return nil
}

func markOf(d *apiext.CustomResourceDefinition) mark {
	n := &d.Status.AcceptedNames
	return mark{uid: d.UID, generation: d.Generation, names: fmt.Sprint(n.Plural, n.Singular, n.ShortNames, n.Kind, n.ListKind, n.Categories), terminating: d.DeletionTimestamp != nil}
}

// gone takes the kinds of a definition that is no more off the table.
func (c *Controller) gone(ctx context.Context, name string) error {
	c.mu.Lock()
	was := c.installed[name]
	delete(c.installed, name)
	delete(c.verdicts, name)
	c.mu.Unlock()
	group := ""
	if was != nil {
		was.stop()
		group = was.definition.group
		if err := c.Registry.Replace(ctx, was.facts, nil); err != nil {
			return fmt.Errorf("ending the custom resource %s: %w", name, err)
		}
		c.publish()
	}
	for _, o := range client.CachedList(c.Client, api.CustomResourceDefinitions, "", nil) {
		if (group == "" || o.Spec.Group == group) && !holds(o, apiext.NamesAccepted) {
			c.lookAgain(ctx, o.Name)
		}
	}
	return nil
}

// current lists what is installed, by name.
func (c *Controller) current() []*installed {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*installed, 0, len(c.installed))
	for _, name := range slices.Sorted(maps.Keys(c.installed)) {
		out = append(out, c.installed[name])
	}
	return out
}
