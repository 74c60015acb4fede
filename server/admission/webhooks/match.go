package webhooks

import (
	"context"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/api/client"
	"orch/server/expression"
	"orch/server/registry"
)

// asked is all of a request that rules look at.
type asked struct {
	kind      *api.Facts
	operation registry.Operation
	sub       string
	cluster   bool // no namespace, or a Namespace itself
	mutating  bool
}

// candidate is a hook one of whose rules is about the request.
type candidate struct {
	*hook
	// index among all hooks of its sort.
	index int
	// as is the kind in whose version the hook sees the object.
	as *api.Facts
}

// exempt kinds are never shown to webhooks: what governs admission itself, as nobody could
// mend it then; and reviews, which are questions, not writes.
func exempt(f *api.Facts) bool {
	switch f.Group {
	case "admissionregistration.k8s.io":
		return true
	case "authentication.k8s.io", "authorization.k8s.io":
		return f.Computed
	}
	return false
}

// candidates are the hooks whose rules are about the request, in order. Most kinds
// of requests concern nobody; that is found out once for each.
func (w *Webhooks) candidates(a *registry.Attributes, mutating bool) []candidate {
	c := w.current()
	hooks := c.validating
	if mutating {
		hooks = c.mutating
	}
	if len(hooks) == 0 || exempt(a.Resource.Facts) {
		return nil
	}
	key := asked{a.Resource.Facts, a.Operation, a.Subresource, a.Resource.Facts == api.Namespaces.Facts || namespaceOf(a) == "", mutating}
	c.mu.Lock()
	defer c.mu.Unlock()
	if list, ok := c.matched[key]; ok {
		return list
	}
	var list []candidate
	for i, h := range hooks {
		if as := w.about(h, &key); as != nil {
			list = append(list, candidate{h, i, as})
		}
	}
	if len(c.matched) >= maxMatched {
		clear(c.matched)
	}
	c.matched[key] = list
	return list
}

// about gives the kind as which a hook's rules name the request's resource: the request's
// own, or, where the hook takes equivalent ones, the first that a rule names.
func (w *Webhooks) about(h *hook, k *asked) *api.Facts {
	for i := range h.rules {
		if ruleMatches(&h.rules[i], k, k.kind) {
			return k.kind
		}
	}
	if !h.equivalent {
		return nil
	}
	others := w.cfg.Registry.Equivalent(k.kind, k.sub)
	for i := range h.rules {
		for _, o := range others {
			if ruleMatches(&h.rules[i], k, o.Facts) {
				return o.Facts
			}
		}
	}
	return nil
}

func ruleMatches(r *admission.RuleWithOperations, k *asked, f *api.Facts) bool {
	if s := r.Scope; s != nil && (*s == admission.NamespacedScope && k.cluster || *s == admission.ClusterScope && !k.cluster) {
		return false
	}
	op := admission.OperationType(k.operation)
	return (slices.Contains(r.Operations, admission.OperationAll) || slices.Contains(r.Operations, op)) &&
		anyOf(r.APIGroups, f.Group) && anyOf(r.APIVersions, f.Version) &&
		slices.ContainsFunc(r.Resources, func(text string) bool {
			resource, sub, _ := strings.Cut(text, "/")
			return (resource == "*" || resource == f.Plural) && (sub == "*" || sub == k.sub)
		})
}

func anyOf(list []string, s string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, s)
}

// namespaceOf is the namespace as admission reviews show it: a Namespace is in itself.
func namespaceOf(a *registry.Attributes) string {
	if a.Resource.Facts == api.Namespaces.Facts {
		return a.Name
	}
	return a.Namespace
}

// selected tells whether the hook's selectors take the request in.
func (w *Webhooks) selected(h *hook, a *registry.Attributes) (bool, error) {
	if h.broken != nil {
		return false, apierrors.NewInternalError(h.broken)
	}
	if !h.namespaces.Empty() && namespaceOf(a) != "" {
		set, err := w.namespaceLabels(a)
		if err != nil {
			return false, err
		}
		if !h.namespaces.Matches(set) {
			return false, nil
		}
	}
	return h.objects.Empty() || labelled(a.Object, h.objects) || labelled(a.Old, h.objects), nil
}

// namespaceLabels are those of the request's namespace; of a Namespace that is written, those it
// is about to have.
func (w *Webhooks) namespaceLabels(a *registry.Attributes) (labels.Set, error) {
	if a.Resource.Facts == api.Namespaces.Facts && a.Subresource == "" && (a.Operation == registry.Create || a.Operation == registry.Update) {
		if o, ok := a.Object.(metav1.Object); ok {
			return o.GetLabels(), nil
		}
	}
	name := namespaceOf(a)
	if ns := client.Cached(w.cfg.Cache, api.Namespaces, "", name); ns != nil {
		return ns.Labels, nil
	}
	return nil, apierrors.NewNotFound(api.Namespaces.GroupResource(), name)
}

func labelled(o runtime.Object, s labels.Selector) bool {
	m, ok := o.(metav1.Object)
	return ok && s.Matches(labels.Set(m.GetLabels()))
}

// wanted asks selectors and conditions of a candidate.
func (w *Webhooks) wanted(ctx context.Context, c *candidate, v *views, kind string) (bool, error) {
	ok, err := w.selected(c.hook, v.a)
	if err != nil || !ok {
		return false, err
	}
	conditions := c.conditions()
	if conditions == nil {
		return true, nil
	}
	shown, err := v.as(c.as)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	ok, no, err := conditions.Match(ctx, shown.request(v.a, c.as), expression.Bindings{Authorizer: w.cfg.Authorizer}, c.failure())
	switch {
	case err != nil:
		w.numbers.Count(&conditionErrors, "name", c.name, "kind", "webhook", "type", kind, "operation", string(v.a.Operation))
		return false, apierrors.NewForbidden(v.a.Resource.GroupResource(), v.a.Name, err)
	case !ok && no != "":
		w.numbers.Count(&conditionExclusions, "name", c.name, "kind", "webhook", "type", kind, "operation", string(v.a.Operation))
	}
	return ok, nil
}
