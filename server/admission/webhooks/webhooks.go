// Package webhooks asks the webhooks that users register about writes: mutating ones in
// order, each seeing what the one before it made, validating ones all at once. It
// follows upstream's admission v1: matching, versions, failure and side effects, what an
// answer must look like, and the words of refusals.
//
// It owns the compiled configurations, which are made anew when one changes, and the
// numbers about calls. It refuses to know how a webhook is reached (server/webhook) and how an
// object that it changed is prepared again (server/registry). Start reading at
// Webhooks.Admit and Validate, then match.go and call.go.
package webhooks

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	admission "k8s.io/api/admissionregistration/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/admission/match"
	"orch/server/admission/settings"
	"orch/server/expression"
	"orch/server/registry"
	"orch/server/webhook"
)

// Config of Webhooks.
type Config struct {
	// Cache is the registry's: configurations and namespaces.
	Cache client.Cache
	// Registry converts objects into the version that a webhook asks for.
	Registry *registry.Registry
	Client   *webhook.Client
	// Authorizer answers match conditions.
	Authorizer expression.Authorizer
	// Mutating and Validating are whom the server shows itself as.
	Mutating, Validating *settings.Identities
}

// Webhooks is the admission by webhooks. It is safe for parallel use.
type Webhooks struct {
	cfg     Config
	matcher match.Matcher
	numbers webhook.Numbers

	// changes counts the changes of configurations; now is what was configured at one of
	// them, made when somebody asks.
	changes atomic.Int64
	now     atomic.Pointer[configured]

	mu sync.Mutex
	// kept are the compiled configurations by kind and name; guarded by mu.
	kept map[string]*compiled
}

// configured is a state of all configurations. It does not change but for its memory.
type configured struct {
	of                   int64
	mutating, validating []*hook

	mu sync.Mutex
	// matched remembers which hooks' rules are about a kind of request; guarded by mu.
	matched map[asked][]candidate
}

// maxMatched bounds the memory; it is begun again when full.
const maxMatched = 4096

// compiled is one configuration's hooks.
type compiled struct {
	version string
	hooks   []*hook
}

// New makes Webhooks without configurations; Follow gives it them.
func New(c Config) *Webhooks {
	return &Webhooks{cfg: c, matcher: match.Matcher{Cache: c.Cache, Registry: c.Registry}, kept: map[string]*compiled{}}
}

// Follow keeps up with the configurations until ctx ends. It returns once those that
// are there are known.
func (w *Webhooks) Follow(ctx context.Context) error {
	changed := func(client.Change) { w.changes.Add(1) }
	if err := w.cfg.Cache.Subscribe(ctx, api.MutatingWebhookConfigurations.Facts, changed); err != nil {
		return err
	}
	return w.cfg.Cache.Subscribe(ctx, api.ValidatingWebhookConfigurations.Facts, changed)
}

// Collector shows the numbers about calls.
func (w *Webhooks) Collector() prometheus.Collector { return &w.numbers }

// current is the present state, compiled anew after a change.
func (w *Webhooks) current() *configured {
	if c := w.now.Load(); c != nil && c.of == w.changes.Load() {
		return c
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// The count is taken before reading: a change that comes meanwhile is seen next time.
	c, kept := &configured{of: w.changes.Load(), matched: map[asked][]candidate{}}, map[string]*compiled{}
	w.cfg.Cache.Each(api.MutatingWebhookConfigurations.Facts, "", func(o api.Object) bool {
		c.mutating = append(c.mutating, w.keep(kept, "m/", o, func() []*hook { return mutatingHooks(o.(*admission.MutatingWebhookConfiguration)) })...)
		return true
	})
	w.cfg.Cache.Each(api.ValidatingWebhookConfigurations.Facts, "", func(o api.Object) bool {
		c.validating = append(c.validating, w.keep(kept, "v/", o, func() []*hook { return validatingHooks(o.(*admission.ValidatingWebhookConfiguration)) })...)
		return true
	})
	byConfiguration := func(a, b *hook) int { return strings.Compare(a.configuration, b.configuration) }
	slices.SortStableFunc(c.mutating, byConfiguration)
	slices.SortStableFunc(c.validating, byConfiguration)
	w.kept = kept
	w.now.Store(c)
	return c
}

// keep compiles a configuration, unless it was compiled before.
func (w *Webhooks) keep(kept map[string]*compiled, kind string, o api.Object, compile func() []*hook) []*hook {
	key, version := kind+o.GetName(), string(o.GetUID())+"/"+o.GetResourceVersion()
	was := w.kept[key]
	if was == nil || was.version != version {
		was = &compiled{version, compile()}
	}
	kept[key] = was
	return was.hooks
}
