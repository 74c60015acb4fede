// Package aggregator lets other servers answer for versions of API groups. An
// APIService that names a Service hands its group and version to the pods behind it:
// requests are passed on under the front proxy's certificate with the user's name in
// headers, discovery and OpenAPI documents are merged into ours, and a condition says
// whether the other server can be reached. Versions that this server serves itself
// have APIServices too, which are kept here.
//
// It refuses to decide who may do what (that was done before, and the other server
// asks again) and never serves an object itself. Nothing is asked of other servers
// while nobody asks us, but for a look now and then whether they are there.
//
// Start reading at Aggregator and Do, then judge (pure), then route.go and serve.go.
package aggregator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	discoveryapi "k8s.io/api/discovery/v1"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/backend"
)

// Config is not changed after New.
type Config struct {
	// Client acts with every right; its cache holds APIServices, Services and EndpointSlices.
	Client   *client.Client
	Backends *backend.Backends
	// Certificate is what this server shows to others as a front proxy.
	Certificate func() *tls.Certificate
	// Kinds lists every kind that is served here now; Changed returns a channel that
	// closes when the list changes next.
	Kinds   func() []*api.Facts
	Changed func() <-chan struct{}
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Aggregator is safe for many goroutines. Make it with New, and Run it once.
type Aggregator struct {
	Config
	loop *reconcile.Loop
	// again are APIServices to look at although they did not change; what does not fit
	// in is looked at later anyway.
	again chan reconcile.Key
	// life ends with Run: what is fetched in the background ends with it.
	life context.Context //nolint:containedctx // fetches outlive the requests that cause them
	end  context.CancelFunc

	routes atomic.Pointer[map[version]*route] // replaced as a whole, under mu

	mu      sync.Mutex
	changed chan struct{} // closes when what Versions says changes; guarded by mu
	// local are the priorities of versions that this server answers for, where they are
	// not the usual ones; guarded by mu.
	local map[version]api.Priority
}

// version is a group's version.
type version struct{ group, version string }

// Times of looking whether another server is there: unavailable ones are looked at
// more and more seldom.
const (
	lookAvailable = time.Minute
	lookSoonest   = time.Second
	lookLatest    = 30 * time.Second
	// sameLook spares a second look that only our own write of the status causes.
	sameLook  = 2 * time.Second
	checkTime = 5 * time.Second
	attempts  = 5
	maxAgain  = 256
)

// New checks c.
func New(c Config) (*Aggregator, error) {
	if c.Client == nil || c.Backends == nil || c.Certificate == nil || c.Kinds == nil || c.Changed == nil {
		return nil, errors.New("setting up aggregation: client, backends, certificate and kinds are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	a := &Aggregator{Config: c, again: make(chan reconcile.Key, maxAgain), changed: make(chan struct{}), local: map[version]api.Priority{}}
	a.life, a.end = context.WithCancel(context.Background())
	a.routes.Store(&map[version]*route{})
	r := newRegistrar(c)
	var err error
	a.loop, err = reconcile.New(c.Client,
		reconcile.Spec{Name: "apiservice-registration", Workers: 16, Watches: []reconcile.Watch{reconcile.For(api.APIServices)}, Source: r.follow, Do: r.do},
		reconcile.Spec{Name: "apiservice-availability", Workers: 4, Source: a.wake, Do: a.Do, Watches: []reconcile.Watch{
			reconcile.For(api.APIServices),
			reconcile.Map(api.Services, func(was, is *core.Service) []reconcile.Key {
				if is == nil {
					is = was
				}
				return a.behind(is.Namespace, is.Name)
			}),
			reconcile.Map(api.EndpointSlices, func(was, is *discoveryapi.EndpointSlice) []reconcile.Key {
				if is == nil {
					is = was
				}
				return a.behind(is.Namespace, is.Labels[discoveryapi.LabelServiceName])
			}),
		}})
	return a, err
}

// Loop is the controllers', for their numbers.
func (a *Aggregator) Loop() *reconcile.Loop { return a.loop }

// Run keeps the APIServices and their conditions until ctx ends.
func (a *Aggregator) Run(ctx context.Context) error {
	err := a.loop.Run(ctx)
	a.end()
	for _, r := range *a.routes.Load() {
		r.close()
	}
	return err
}

func (a *Aggregator) wake(ctx context.Context, add func(...reconcile.Key)) error {
	for {
		select {
		case k := <-a.again:
			add(k)
		case <-ctx.Done():
			return nil
		}
	}
}

// lookAgain is for requests that met a server that does not answer.
func (a *Aggregator) lookAgain(r *route) {
	r.forgetCheck()
	select {
	case a.again <- reconcile.Key{Name: r.name}:
	default:
	}
}

// behind lists the APIServices that a Service is behind.
func (a *Aggregator) behind(namespace, service string) []reconcile.Key {
	var keys []reconcile.Key
	for _, r := range *a.routes.Load() {
		if r.service.Namespace == namespace && r.service.Name == service {
			keys = append(keys, reconcile.Key{Name: r.name})
		}
	}
	return keys
}

// Do brings one APIService's route and condition up to date.
func (a *Aggregator) Do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	o := client.Cached(a.Client, api.APIServices, "", key.Name)
	if o == nil || o.Spec.Service == nil {
		a.drop(key.Name)
		a.prioritize(key.Name, o)
		if o == nil {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, a.write(ctx, o, condition{apireg.ConditionTrue, "Local", "Local APIServices are always available"})
	}
	a.prioritize(key.Name, nil)
	r := a.take(o)
	s := client.Cached(a.Client, api.Services, o.Spec.Service.Namespace, o.Spec.Service.Name)
	var slices []*discoveryapi.EndpointSlice
	if s != nil {
		slices = a.Backends.Slices(s.Namespace, s.Name)
	}
	c := judge(o, s, slices)
	if c.reason == passed {
		c = a.checked(ctx, r, c, mark(o, s, slices))
	}
	if ctx.Err() != nil {
		return reconcile.Result{}, nil
	}
	a.setAvailable(r, c.status == apireg.ConditionTrue)
	if err := a.write(ctx, o, c); err != nil {
		return reconcile.Result{}, err
	}
	if c.status == apireg.ConditionTrue {
		return reconcile.Result{After: lookAvailable}, nil
	}
	return reconcile.Result{After: min(max(a.Now().Sub(since(o))/2, lookSoonest), lookLatest)}, nil
}

// checked asks the server itself, unless that was done just now for the same reason.
func (a *Aggregator) checked(ctx context.Context, r *route, c condition, mark string) condition {
	if last, ok := r.lastCheck(mark, a.Now().Add(-sameLook)); ok {
		return last
	}
	if err := a.check(ctx, r); err != nil {
		c = condition{apireg.ConditionFalse, "FailedDiscoveryCheck", err.Error()}
	}
	r.noteCheck(mark, a.Now(), c)
	return c
}

// mark changes with all that a check depends on.
func mark(o *apireg.APIService, s *core.Service, slices []*discoveryapi.EndpointSlice) string {
	text := fmt.Sprint(o.UID, o.Spec.Service, len(o.Spec.CABundle), o.Spec.InsecureSkipTLSVerify, s.ResourceVersion)
	for _, e := range slices {
		text += "," + e.Name + e.ResourceVersion
	}
	return text
}

// write puts the condition into the status, if it says anything new.
func (a *Aggregator) write(ctx context.Context, o *apireg.APIService, c condition) error {
	next := o.DeepCopy()
	c.setIn(next, metav1.NewTime(a.Now().Truncate(time.Second)))
	if equality.Semantic.DeepEqual(o.Status, next.Status) {
		return nil
	}
	_, err := client.UpdateStatus(ctx, a.Client, api.APIServices, next)
	return err
}

// take finds or makes the route of an APIService.
func (a *Aggregator) take(o *apireg.APIService) *route {
	at := version{o.Spec.Group, o.Spec.Version}
	a.mu.Lock()
	defer a.mu.Unlock()
	was := (*a.routes.Load())[at]
	if was != nil && equality.Semantic.DeepEqual(was.spec, o.Spec) {
		return was
	}
	r := a.newRoute(o)
	next := maps.Clone(*a.routes.Load())
	next[at] = r
	a.routes.Store(&next)
	a.changedLocked()
	if was != nil {
		was.close()
	}
	return r
}

func (a *Aggregator) drop(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for at, r := range *a.routes.Load() {
		if r.name != name {
			continue
		}
		next := maps.Clone(*a.routes.Load())
		delete(next, at)
		a.routes.Store(&next)
		a.changedLocked()
		r.close()
		return
	}
}

// prioritize notes where an APIService puts a version of ours; nil forgets it.
func (a *Aggregator) prioritize(name string, o *apireg.APIService) {
	v, group, _ := strings.Cut(name, ".")
	at := version{group, v}
	a.mu.Lock()
	defer a.mu.Unlock()
	was, moved := a.local[at]
	if o != nil {
		is := api.Priority{Group: o.Spec.GroupPriorityMinimum, Version: o.Spec.VersionPriority}
		if is != api.UsualPriority(schema.GroupVersion{Group: group, Version: v}) {
			if is != was {
				a.local[at] = is
				a.changedLocked()
			}
			return
		}
	}
	if moved {
		delete(a.local, at)
		a.changedLocked()
	}
}

func (a *Aggregator) setAvailable(r *route, is bool) {
	if r.available.Swap(is) == is {
		return
	}
	if is {
		r.stale() // what it says may have changed while it was away
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changedLocked()
}

func (a *Aggregator) changedLocked() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// all lists the routes by name.
func (a *Aggregator) all() []*route {
	return slices.SortedFunc(maps.Values(*a.routes.Load()), func(x, y *route) int {
		if x.name < y.name {
			return -1
		}
		return 1
	})
}

// Collector shows which servers cannot be reached.
func (a *Aggregator) Collector() prometheus.Collector {
	return collector{a, prometheus.NewDesc("aggregator_unavailable_apiservice", "APIServices whose server cannot be reached.", []string{"name"}, nil)}
}

type collector struct {
	a    *Aggregator
	desc *prometheus.Desc
}

func (c collector) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, r := range c.a.all() {
		n := 1.0
		if r.available.Load() {
			n = 0
		}
		out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, n, r.name)
	}
}
