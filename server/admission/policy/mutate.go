package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/server/admission/match"
	"orch/server/expression"
	"orch/server/registry"
	"orch/server/webhook"
)

// rounds is what has to be known when the policies run a second time.
//
//	round 0: every policy that is meant; one that changes the object asks for round 1
//	round 1: those of reinvocationPolicy IfNeeded that ran before a change
type rounds struct {
	left         runtime.Object // the object as the policies left it
	invoked, due []string
}

func (r *rounds) changed() {
	for _, id := range r.invoked {
		if !slices.Contains(r.due, id) {
			r.due = append(r.due, id)
		}
	}
	r.invoked = nil
}

// invocation is a policy with one binding and one parameter.
type invocation struct {
	*hook
	*binding
	as     *api.Facts
	params runtime.Object
}

func (i *invocation) id() string {
	id := i.hook.name + "/" + i.binding.name
	if o, ok := i.params.(metav1.Object); ok {
		id += "/" + o.GetNamespace() + "/" + o.GetName()
	}
	return id
}

// refusal is why a policy failed.
type refusal struct {
	message string
	reason  metav1.StatusReason
}

// mutation is one request on its way through the mutating policies.
type mutation struct {
	p         *Policies
	r         *match.Request
	rounds    *rounds
	namespace *core.Namespace
	refused   []refusal
}

// Admit asks the mutating policies in order and changes the object as they say.
func (p *Policies) Admit(ctx context.Context, a *registry.Attributes) error {
	hooks := p.mutating.hooks()
	if len(hooks) == 0 || exempt(a.Resource.Facts) || a.Operation == registry.Delete {
		return nil
	}
	m := &mutation{p: p, r: p.matcher.Request(a)}
	list := m.meant(hooks)
	if len(list) > 0 {
		if err := m.run(ctx, list); err != nil {
			return err
		}
	}
	if len(m.refused) == 0 {
		return nil
	}
	err := apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, errors.New("admission request denied by policy"))
	err.ErrStatus.Message = m.refused[0].message
	if r := m.refused[0].reason; r != "" {
		err.ErrStatus.Reason = r
	}
	for _, r := range m.refused {
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: r.message})
	}
	return err
}

// refuse notes a failure, unless the policy wants failures ignored.
func (m *mutation) refuse(h *hook, b *binding, reason metav1.StatusReason, err error) {
	switch {
	case h.failure == admission.Ignore:
	case b == nil:
		m.refused = append(m.refused, refusal{fmt.Sprintf("policy %q denied request: %s", h.name, err), reason})
	default:
		m.refused = append(m.refused, refusal{fmt.Sprintf("policy '%s' with binding '%s' denied request: %s", h.name, b.name, err), reason})
	}
}

// meant lists what has to be evaluated for the request.
func (m *mutation) meant(hooks []hook) (list []invocation) {
	for i := range hooks {
		h := &hooks[i]
		as, ok, err := m.r.Matches(h.criteria)
		var kind *api.Facts
		if err == nil && ok {
			kind, err = m.p.paramFacts(h.paramKind)
		}
		if err != nil {
			m.refuse(h, nil, "", fmt.Errorf("failed to configure policy: %w", err))
			continue
		}
		if !ok {
			continue
		}
		for j := range h.bindings {
			b := &h.bindings[j]
			_, ok, err := m.r.Matches(b.criteria)
			if err == nil && !ok {
				continue
			}
			var params []runtime.Object
			if err == nil {
				params, err = m.p.params(kind, b.param, m.r.Namespace())
			}
			if err != nil {
				m.refuse(h, b, "", fmt.Errorf("failed to configure binding: %w", err))
				continue
			}
			for _, o := range params {
				list = append(list, invocation{h, b, as, o})
			}
		}
	}
	return list
}

func (m *mutation) run(ctx context.Context, list []invocation) (err error) {
	a := m.r.A
	m.rounds, _ = a.Mutation.Memory[MutatingStep].(*rounds)
	if m.rounds == nil {
		m.rounds = &rounds{}
		if a.Mutation.Memory == nil {
			a.Mutation.Memory = map[string]any{}
		}
		a.Mutation.Memory[MutatingStep] = m.rounds
	}
	if a.Mutation.Second && !equality.Semantic.DeepEqual(m.rounds.left, a.Object) {
		m.rounds.changed()
	}
	if m.namespace, err = m.p.namespaceOf(m.r); err != nil {
		return err
	}
	for i := range list {
		if err := m.invoke(ctx, &list[i]); err != nil {
			return err
		}
	}
	m.rounds.left = nil
	if o, ok := a.Object.(api.Object); ok && o != nil {
		m.rounds.left = o.DeepCopyObject()
	}
	return nil
}

// invoke runs the mutations of one policy. The error ends the request whatever the failure
// policy says.
func (m *mutation) invoke(ctx context.Context, i *invocation) error {
	a := m.r.A
	v := m.p.mutatorOf(i.hook)
	view, err := m.r.As(i.as)
	if err != nil {
		m.refuse(i.hook, i.binding, "", err)
		return nil
	}
	e := evaluation{view: view, params: i.params, namespace: m.namespace, authorizer: m.p.cfg.Authorizer}
	ok, err := m.r.Meets(ctx, v.conditions, view, e.bindings(true), m.p.owner(i.hook, "admit"))
	if err != nil {
		m.refuse(i.hook, i.binding, metav1.StatusReasonInvalid, err)
		return nil
	}
	if !ok || a.Mutation.Second && !slices.Contains(m.rounds.due, i.id()) {
		return nil
	}
	changed := false
	for _, mu := range v.mutations {
		if view.Object == nil {
			break // nothing to change
		}
		begin := time.Now()
		now, err := m.p.mutate(ctx, v, &mu, e)
		m.count(i, err, time.Since(begin))
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			return err
		}
		if err != nil {
			m.refuse(i.hook, i.binding, metav1.StatusReasonInvalid, err)
			continue
		}
		if !equality.Semantic.DeepEqual(now, view.Object) {
			changed = true
			view.Taken(now)
		}
	}
	if changed {
		if err := m.take(view); err != nil {
			return err
		}
		a.Mutation.Changed, a.Mutation.Again = true, true
		m.rounds.changed()
	}
	if v.again {
		m.rounds.invoked = append(m.rounds.invoked, i.id())
	}
	return nil
}

// take makes the view's object the request's.
func (m *mutation) take(v *match.View) error {
	a, now := m.r.A, v.Object
	if v.Whole() && v.As != a.Resource.Facts {
		back, err := m.p.cfg.Registry.Convert(now.(api.Object), v.As, a.Resource.Facts)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to convert object: %w", err))
		}
		now = back
	}
	a.Object = now
	m.r.Changed()
	return nil
}

func (p *Policies) mutatorOf(h *hook) *mutator {
	return p.compiledMutating.Get(compiledKey{h.uid, h.generation}, func() *mutator { return compileMutating(h.mutating) })
}

var (
	mutationTotal = webhook.Metric{Name: "apiserver_mutating_admission_policy_check_total",
		Help: "Mutation admission policy check total, labeled by policy and further identified by binding."}
	mutationSeconds = webhook.Metric{Name: "apiserver_mutating_admission_policy_check_duration_seconds",
		Help:    "Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
		Buckets: []float64{0.0000005, 0.001, 0.01, 0.1, 1.0}}
)

func (m *mutation) count(i *invocation, err error, took time.Duration) {
	kind := "no_error"
	switch {
	case err == nil:
	case strings.HasPrefix(err.Error(), "compilation"):
		kind = "compile_error"
	case strings.HasPrefix(err.Error(), "validation failed due to running out of cost budget"):
		kind = "out_of_budget"
	default:
		kind = "invalid_error"
	}
	m.p.observe(&mutationTotal, &mutationSeconds, took, "policy", i.hook.name, "policy_binding", i.binding.name, "error_type", kind)
}

// mutator is a compiled policy. It is safe for parallel use.
type mutator struct {
	set        *expression.Set
	conditions *expression.Conditions
	again      bool
	mutations  []patcher
}

// patcher is one mutation.
type patcher struct {
	expression *expression.Expression
	kind       admission.PatchType
}

func compileMutating(o *admission.MutatingAdmissionPolicy) *mutator {
	s := &o.Spec
	sc := expression.Scope{Params: s.ParamKind != nil, Authorizer: true, Variables: true}
	set := expression.NewSet(expression.Stored)
	for _, v := range s.Variables {
		set.Variable(v.Name, v.Expression, sc)
	}
	out := &mutator{set: set, conditions: set.Conditions(s.MatchConditions, sc), again: s.ReinvocationPolicy == admission.IfNeededReinvocationPolicy}
	sc.Patches = true
	for _, m := range s.Mutations {
		switch {
		case m.PatchType == admission.PatchTypeJSONPatch && m.JSONPatch != nil:
			out.mutations = append(out.mutations, patcher{set.Compile(m.JSONPatch.Expression, sc, expression.JSONPatchType()), m.PatchType})
		case m.PatchType == admission.PatchTypeApplyConfiguration && m.ApplyConfiguration != nil:
			out.mutations = append(out.mutations, patcher{set.Compile(m.ApplyConfiguration.Expression, sc, expression.ObjectType()), m.PatchType})
		}
	}
	return out
}
