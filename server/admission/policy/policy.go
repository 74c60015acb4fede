// Package policy runs ValidatingAdmissionPolicies and MutatingAdmissionPolicies with
// their bindings and parameters, with upstream's semantics and words.
//
// It owns the compiled policies: made when the first request asks, kept while the policy
// stays as it is, bounded. Without policies a request costs one atomic load. It refuses to know CEL
// (server/expression) and which requests a policy means (server/admission/match). Start
// reading at Policies, then validate.go and mutate.go; params.go finds parameters.
package policy

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
	"orch/server/expression"
	"orch/server/registry"
	"orch/server/webhook"
)

// Config of Policies.
type Config struct {
	// Cache is the registry's: policies, bindings, parameters, namespaces.
	Cache    client.Cache
	Registry *registry.Registry
	// Authorizer answers what expressions ask of a user's rights.
	Authorizer expression.Authorizer
}

// mostCompiled bounds the policies that are kept compiled; the others are compiled when they
// are needed.
const mostCompiled = 1024

// Policies is the admission by policies. It is safe for parallel use.
type Policies struct {
	cfg     Config
	matcher *match.Matcher
	numbers webhook.Numbers

	validating, mutating source
	compiledValidating   *expression.Cache[compiledKey, *validator]
	compiledMutating     *expression.Cache[compiledKey, *mutator]
}

// compiledKey is one state of a policy's spec.
type compiledKey struct {
	uid        string
	generation int64
}

// New makes Policies without policies; Follow gives it them.
func New(c Config) *Policies {
	p := &Policies{cfg: c, matcher: &match.Matcher{Cache: c.Cache, Registry: c.Registry},
		compiledValidating: expression.NewCache[compiledKey, *validator](mostCompiled),
		compiledMutating:   expression.NewCache[compiledKey, *mutator](mostCompiled),
	}
	p.validating.load = p.loadValidating
	p.mutating.load = p.loadMutating
	return p
}

// Follow keeps up with policies and bindings until ctx ends. It returns once those that are
// there are known.
func (p *Policies) Follow(ctx context.Context) error {
	for _, s := range []struct {
		*source
		policies, bindings *api.Facts
	}{
		{&p.validating, api.ValidatingAdmissionPolicies.Facts, api.ValidatingAdmissionPolicyBindings.Facts},
		{&p.mutating, api.MutatingAdmissionPolicies.Facts, api.MutatingAdmissionPolicyBindings.Facts},
	} {
		if err := p.cfg.Cache.Subscribe(ctx, s.policies, s.count); err != nil {
			return err
		}
		if err := p.cfg.Cache.Subscribe(ctx, s.bindings, s.changed); err != nil {
			return err
		}
	}
	return nil
}

// Collector shows the numbers about policies.
func (p *Policies) Collector() prometheus.Collector { return &p.numbers }

// hook is a policy with its bindings.
type hook struct {
	name, uid  string
	generation int64
	criteria   *match.Criteria
	failure    admission.FailurePolicyType
	paramKind  *admission.ParamKind
	bindings   []binding

	validating *admission.ValidatingAdmissionPolicy
	mutating   *admission.MutatingAdmissionPolicy
}

// binding makes a policy count.
type binding struct {
	name     string
	criteria *match.Criteria
	param    *admission.ParamRef
	actions  []admission.ValidationAction
}

// source is the policies of one sort as they are now.
type source struct {
	load func() []hook

	policies atomic.Int64 // how many there are
	changes  atomic.Int64
	mu       sync.Mutex
	now      atomic.Pointer[loaded]
}

type loaded struct {
	of    int64
	hooks []hook
}

func (s *source) changed(client.Change) { s.changes.Add(1) }

func (s *source) count(c client.Change) {
	switch {
	case c.Old == nil && c.New != nil:
		s.policies.Add(1)
	case c.Old != nil && c.New == nil:
		s.policies.Add(-1)
	}
	s.changes.Add(1)
}

// hooks are the policies that have bindings, by name.
func (s *source) hooks() []hook {
	if s.policies.Load() == 0 {
		return nil
	}
	if l := s.now.Load(); l != nil && l.of == s.changes.Load() {
		return l.hooks
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &loaded{of: s.changes.Load()} // a change that comes meanwhile is seen next time
	l.hooks = slices.DeleteFunc(s.load(), func(h hook) bool { return len(h.bindings) == 0 })
	slices.SortFunc(l.hooks, func(a, b hook) int { return strings.Compare(a.name, b.name) })
	s.now.Store(l)
	return l.hooks
}

func (p *Policies) loadValidating() []hook {
	bindings := map[string][]binding{}
	for _, b := range client.CachedList(p.cfg.Cache, api.ValidatingAdmissionPolicyBindings, "", nil) {
		bindings[b.Spec.PolicyName] = append(bindings[b.Spec.PolicyName], binding{b.Name, match.Compile(b.Spec.MatchResources), b.Spec.ParamRef, b.Spec.ValidationActions})
	}
	var out []hook
	for _, o := range client.CachedList(p.cfg.Cache, api.ValidatingAdmissionPolicies, "", nil) {
		out = append(out, hook{name: o.Name, uid: string(o.UID), generation: o.Generation, criteria: match.Compile(o.Spec.MatchConstraints),
			failure: failureOf(o.Spec.FailurePolicy), paramKind: o.Spec.ParamKind, bindings: bindings[o.Name], validating: o})
	}
	return out
}

func (p *Policies) loadMutating() []hook {
	bindings := map[string][]binding{}
	for _, b := range client.CachedList(p.cfg.Cache, api.MutatingAdmissionPolicyBindings, "", nil) {
		bindings[b.Spec.PolicyName] = append(bindings[b.Spec.PolicyName], binding{name: b.Name, criteria: match.Compile(b.Spec.MatchResources), param: b.Spec.ParamRef})
	}
	var out []hook
	for _, o := range client.CachedList(p.cfg.Cache, api.MutatingAdmissionPolicies, "", nil) {
		out = append(out, hook{name: o.Name, uid: string(o.UID), generation: o.Generation, criteria: match.Compile(o.Spec.MatchConstraints),
			failure: failureOf(o.Spec.FailurePolicy), paramKind: o.Spec.ParamKind, bindings: bindings[o.Name], mutating: o})
	}
	return out
}

func failureOf(f *admission.FailurePolicyType) admission.FailurePolicyType {
	if f == nil {
		return admission.Fail
	}
	return *f
}

// exempt kinds are never shown to policies: the policies themselves, as nobody could mend a
// bad one then; and reviews, which are questions, not writes.
func exempt(f *api.Facts) bool {
	switch f {
	case api.ValidatingAdmissionPolicies.Facts, api.ValidatingAdmissionPolicyBindings.Facts,
		api.MutatingAdmissionPolicies.Facts, api.MutatingAdmissionPolicyBindings.Facts:
		return true
	}
	return f.Computed && (f.Group == "authentication.k8s.io" || f.Group == "authorization.k8s.io")
}
