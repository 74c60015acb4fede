// Package match tells which requests users' policies and webhooks mean, as upstream's
// matching package: rules and excluded rules, equivalent kinds, namespace and object selectors.
// And it shows a request's objects in the version that a policy asks for, each made once.
// It changes nothing. Start reading at Criteria and Request.Matches; view.go has the versions.
package match

import (
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// Criteria is a compiled MatchResources. The zero value takes every request.
type Criteria struct {
	rules, excluded     []admission.NamedRuleWithOperations
	equivalent          bool
	namespaces, objects labels.Selector // nil takes all
	broken              error
}

// Compile compiles what a policy or a binding means; nil means everything.
func Compile(m *admission.MatchResources) *Criteria {
	c := &Criteria{}
	if m == nil {
		return c
	}
	c.rules, c.excluded = m.ResourceRules, m.ExcludeResourceRules
	c.equivalent = m.MatchPolicy != nil && *m.MatchPolicy == admission.Equivalent
	c.namespaces, c.objects = c.selector(m.NamespaceSelector), c.selector(m.ObjectSelector)
	return c
}

// CompileRules compiles what a webhook means.
func CompileRules(rules []admission.RuleWithOperations, policy *admission.MatchPolicyType, namespaces, objects *metav1.LabelSelector) *Criteria {
	m := &admission.MatchResources{MatchPolicy: policy, NamespaceSelector: namespaces, ObjectSelector: objects}
	for _, r := range rules {
		m.ResourceRules = append(m.ResourceRules, admission.NamedRuleWithOperations{RuleWithOperations: r})
	}
	return Compile(m)
}

func (c *Criteria) selector(s *metav1.LabelSelector) labels.Selector {
	if s == nil || len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return nil
	}
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		c.broken = err
	}
	return out
}

// Matches tells whether the request is meant, and as which kind.
func (r *Request) Matches(c *Criteria) (as *api.Facts, ok bool, err error) {
	ok, missing := r.Selected(c)
	if missing == nil && !ok || c.broken != nil {
		return nil, false, missing
	}
	if f := r.ruled(c.excluded, c.equivalent); f != nil {
		return nil, false, nil
	}
	as = r.A.Resource.Facts
	if len(c.rules) > 0 {
		if as = r.Ruled(c); as == nil {
			return nil, false, nil
		}
	}
	return as, missing == nil, missing // that the namespace is missing counts only if the rules mean the request
}

// Selected tells whether the selectors take the request in.
func (r *Request) Selected(c *Criteria) (bool, error) {
	if c.broken != nil {
		return false, c.broken
	}
	if c.objects != nil && !labelled(r.A.Object, c.objects) && !labelled(r.A.Old, c.objects) {
		return false, nil
	}
	if c.namespaces == nil || r.Namespace() == "" {
		return true, nil
	}
	set, err := r.namespaceLabels()
	return err == nil && c.namespaces.Matches(set), err
}

// Ruled gives the kind as which the rules name the request's resource, nil if they do not.
// Nothing else of the request counts than its kind, operation and subresource, whether
// it has a namespace, and, where rules list them, its name.
func (r *Request) Ruled(c *Criteria) *api.Facts { return r.ruled(c.rules, c.equivalent) }

// ruled gives the kind as which the rules name the request's resource: its own, else the
// first equivalent one; nil for none.
func (r *Request) ruled(rules []admission.NamedRuleWithOperations, equivalent bool) *api.Facts {
	own := r.A.Resource.Facts
	for i := range rules {
		if r.meets(&rules[i], own) {
			return own
		}
	}
	if !equivalent || len(rules) == 0 {
		return nil
	}
	others := r.m.equivalent(own, r.A.Subresource)
	for i := range rules {
		for _, o := range others {
			if r.meets(&rules[i], o.Facts) {
				return o.Facts
			}
		}
	}
	return nil
}

func (r *Request) meets(n *admission.NamedRuleWithOperations, f *api.Facts) bool {
	cluster := r.A.Resource.Facts == api.Namespaces.Facts || r.Namespace() == ""
	if s := n.Scope; s != nil && (*s == admission.NamespacedScope && cluster || *s == admission.ClusterScope && !cluster) {
		return false
	}
	op, sub := admission.OperationType(r.A.Operation), r.A.Subresource
	return (slices.Contains(n.Operations, admission.OperationAll) || slices.Contains(n.Operations, op)) &&
		anyOf(n.APIGroups, f.Group) && anyOf(n.APIVersions, f.Version) &&
		slices.ContainsFunc(n.Resources, func(text string) bool {
			resource, s, _ := strings.Cut(text, "/")
			return (resource == "*" || resource == f.Plural) && (s == "*" || s == sub)
		}) &&
		(len(n.ResourceNames) == 0 || slices.Contains(n.ResourceNames, r.Name()))
}

func anyOf(list []string, s string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, s)
}

// Namespace is the namespace as admission shows it: a Namespace is in itself.
func (r *Request) Namespace() string {
	if r.A.Resource.Facts == api.Namespaces.Facts {
		return r.A.Name
	}
	return r.A.Namespace
}

// namespaceLabels are those of the request's namespace; of a Namespace that is written,
// those it is about to have.
func (r *Request) namespaceLabels() (labels.Set, error) {
	a := r.A
	if a.Resource.Facts == api.Namespaces.Facts && a.Subresource == "" && (a.Operation == registry.Create || a.Operation == registry.Update) {
		if o, ok := a.Object.(metav1.Object); ok {
			return o.GetLabels(), nil
		}
	}
	if ns := client.Cached(r.m.Cache, api.Namespaces, "", r.Namespace()); ns != nil {
		return ns.Labels, nil
	}
	return nil, apierrors.NewNotFound(api.Namespaces.GroupResource(), r.Namespace())
}

func labelled(o runtime.Object, s labels.Selector) bool {
	m, ok := present(o).(metav1.Object)
	return ok && s.Matches(labels.Set(m.GetLabels()))
}
