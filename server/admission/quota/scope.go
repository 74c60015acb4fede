package quota

import (
	"slices"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/server/defaults"
)

// Matches tells whether the quota's scopes take the object in. A quota with
// scopes is about pods, or about claims by their VolumeAttributesClass.
func Matches(q *core.ResourceQuota, o api.Object) bool {
	return !slices.ContainsFunc(requirements(q), func(r core.ScopedResourceSelectorRequirement) bool { return !satisfies(o, r) })
}

// requirements are the scopes of a quota, in one form.
func requirements(q *core.ResourceQuota) (out []core.ScopedResourceSelectorRequirement) {
	for _, s := range q.Spec.Scopes {
		out = append(out, core.ScopedResourceSelectorRequirement{ScopeName: s, Operator: core.ScopeSelectorOpExists})
	}
	if q.Spec.ScopeSelector != nil {
		out = append(out, q.Spec.ScopeSelector.MatchExpressions...)
	}
	return out
}

// satisfies tells whether an object is in a scope; only pods and claims are in any.
func satisfies(o api.Object, r core.ScopedResourceSelectorRequirement) bool {
	switch o := o.(type) {
	case *core.Pod:
		return inScope(o, r)
	case *core.PersistentVolumeClaim:
		return r.ScopeName == core.ResourceQuotaScopeVolumeAttributesClass && ofAttributes(o, r)
	}
	return false
}

// ofAttributes asks for the classes that a claim has, gets or is being changed to.
func ofAttributes(c *core.PersistentVolumeClaim, r core.ScopedResourceSelectorRequirement) bool {
	var names []string
	add := func(s *string) {
		if s != nil && *s != "" {
			names = append(names, *s)
		}
	}
	add(c.Spec.VolumeAttributesClassName)
	add(c.Status.CurrentVolumeAttributesClassName)
	if m := c.Status.ModifyVolumeStatus; m != nil {
		add(&m.TargetVolumeAttributesClassName)
	}
	if len(names) == 0 {
		return selects(r, "")
	}
	return slices.ContainsFunc(names, func(n string) bool { return selects(r, n) })
}

// selects asks a requirement about a name; none is empty.
func selects(r core.ScopedResourceSelectorRequirement, name string) bool {
	switch r.Operator {
	case core.ScopeSelectorOpExists:
		return name != ""
	case core.ScopeSelectorOpDoesNotExist:
		return name == ""
	case core.ScopeSelectorOpIn:
		return name != "" && slices.Contains(r.Values, name)
	case core.ScopeSelectorOpNotIn:
		return !slices.Contains(r.Values, name)
	}
	return false
}

func inScope(p *core.Pod, r core.ScopedResourceSelectorRequirement) bool {
	switch r.ScopeName {
	case core.ResourceQuotaScopeTerminating:
		return p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
	case core.ResourceQuotaScopeNotTerminating:
		return p.Spec.ActiveDeadlineSeconds == nil
	case core.ResourceQuotaScopeBestEffort:
		return defaults.QOS(p) == core.PodQOSBestEffort
	case core.ResourceQuotaScopeNotBestEffort:
		return defaults.QOS(p) != core.PodQOSBestEffort
	case core.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossNamespace(p)
	case core.ResourceQuotaScopePriorityClass:
		return selects(r, p.Spec.PriorityClassName)
	}
	return false
}

func crossNamespace(p *core.Pod) bool {
	a := p.Spec.Affinity
	if a == nil {
		return false
	}
	var terms []core.PodAffinityTerm
	add := func(required []core.PodAffinityTerm, preferred []core.WeightedPodAffinityTerm) {
		terms = append(terms, required...)
		for _, w := range preferred {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	if a.PodAffinity != nil {
		add(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		add(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t core.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
