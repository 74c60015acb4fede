package podspec

import (
	"fmt"

	core "k8s.io/api/core/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// checkPlacement checks all that says where a pod may run.
func (c *spec) checkPlacement(p *field.Path) {
	e := &c.Errors
	e.Labels(p.Child("nodeSelector"), c.NodeSelector)
	e.Join(rule.Tolerations(p.Child("tolerations"), c.Tolerations))
	for i := range c.TopologySpreadConstraints {
		c.spread(i, p.Child("topologySpreadConstraints").Index(i))
	}
	if c.Affinity == nil {
		return
	}
	p = p.Child("affinity")
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if a, p := c.Affinity.NodeAffinity, p.Child("nodeAffinity"); a != nil {
		if s := a.RequiredDuringSchedulingIgnoredDuringExecution; s != nil {
			e.Join(rule.NodeSelector(p.Child(required), s))
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			term, at := &a.PreferredDuringSchedulingIgnoredDuringExecution[i], p.Child(preferred).Index(i)
			c.weight(term.Weight, at)
			e.Join(rule.NodeSelectorTerm(at.Child("preference"), &term.Preference))
		}
	}
	pods := func(hard []core.PodAffinityTerm, soft []core.WeightedPodAffinityTerm, p *field.Path) {
		for i := range hard {
			c.podTerm(&hard[i], p.Child(required).Index(i))
		}
		for i := range soft {
			c.weight(soft[i].Weight, p.Child(preferred).Index(i))
			c.podTerm(&soft[i].PodAffinityTerm, p.Child(preferred).Index(i).Child("podAffinityTerm"))
		}
	}
	if a := c.Affinity.PodAffinity; a != nil {
		pods(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAffinity"))
	}
	if a := c.Affinity.PodAntiAffinity; a != nil {
		pods(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAntiAffinity"))
	}
}

func (c *spec) weight(w int32, p *field.Path) {
	if w <= 0 || w > 100 {
		c.Invalid(p.Child("weight"), w, "must be in the range 1-100")
	}
}

func (c *spec) podTerm(t *core.PodAffinityTerm, p *field.Path) {
	e := &c.Errors
	e.Selector(p.Child("labelSelector"), t.LabelSelector)
	e.Selector(p.Child("namespaceSelector"), t.NamespaceSelector)
	for _, name := range t.Namespaces {
		e.Each(p.Child("namespace"), name, apimachinery.ValidateNamespaceName(name, false))
	}
	c.matchKeys(t.MatchLabelKeys, t.LabelSelector, p.Child("matchLabelKeys"))
	c.matchKeys(t.MismatchLabelKeys, t.LabelSelector, p.Child("mismatchLabelKeys"))
	mismatched := rule.Unique{}
	for _, key := range t.MismatchLabelKeys {
		mismatched[key] = true
	}
	for i, key := range t.MatchLabelKeys {
		if mismatched[key] {
			e.Invalid(p.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
		if t.LabelSelector != nil && twice(t.LabelSelector, key) {
			e.Invalid(p.Index(i), key, "exists in both matchLabelKeys and labelSelector")
		}
	}
	if t.TopologyKey == "" {
		e.Required(p.Child("topologyKey"), "can not be empty")
	}
	e.LabelName(p.Child("topologyKey"), t.TopologyKey)
}

// twice tells whether the selector names the key more often than once: once is
// what the server itself wrote there for matchLabelKeys.
func twice(s *metav1.LabelSelector, key string) bool {
	n := 0
	if _, has := s.MatchLabels[key]; has {
		n++
	}
	for _, r := range s.MatchExpressions {
		if r.Key == key {
			n++
		}
	}
	return n > 1
}

func (c *spec) matchKeys(keys []string, s *metav1.LabelSelector, p *field.Path) {
	if len(keys) > 0 && s == nil {
		c.Forbidden(p, "must not be specified when labelSelector is not set")
		return
	}
	for i, key := range keys {
		c.LabelName(p.Index(i), key)
	}
}

func (c *spec) spread(i int, p *field.Path) {
	e, t := &c.Errors, &c.TopologySpreadConstraints[i]
	if t.MaxSkew <= 0 {
		e.Invalid(p.Child("maxSkew"), t.MaxSkew, rule.Positive)
	}
	if t.TopologyKey == "" {
		e.Required(p.Child("topologyKey"), "can not be empty")
	}
	rule.Among(e, p.Child("whenUnsatisfiable"), t.WhenUnsatisfiable, core.DoNotSchedule, core.ScheduleAnyway)
	for _, other := range c.TopologySpreadConstraints[i+1:] {
		if other.TopologyKey == t.TopologyKey && other.WhenUnsatisfiable == t.WhenUnsatisfiable {
			e.Duplicate(p.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable))
			break
		}
	}
	if m := t.MinDomains; m != nil {
		if *m <= 0 {
			e.Invalid(p.Child("minDomains"), *m, rule.Positive)
		}
		if t.WhenUnsatisfiable != core.DoNotSchedule {
			e.Invalid(p.Child("minDomains"), *m, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", core.DoNotSchedule, t.WhenUnsatisfiable))
		}
	}
	inclusion := func(name string, policy *core.NodeInclusionPolicy) {
		if policy != nil {
			rule.Among(e, p.Child(name), *policy, core.NodeInclusionPolicyIgnore, core.NodeInclusionPolicyHonor)
		}
	}
	inclusion("nodeAffinityPolicy", t.NodeAffinityPolicy)
	inclusion("nodeTaintsPolicy", t.NodeTaintsPolicy)
	c.matchKeys(t.MatchLabelKeys, t.LabelSelector, p.Child("matchLabelKeys"))
	for j, key := range t.MatchLabelKeys {
		if t.LabelSelector != nil && named(t.LabelSelector, key) {
			e.Invalid(p.Child("matchLabelKeys").Index(j), key, "exists in both matchLabelKeys and labelSelector")
		}
	}
	e.Selector(p.Child("labelSelector"), t.LabelSelector)
}

func named(s *metav1.LabelSelector, key string) bool {
	_, has := s.MatchLabels[key]
	for _, r := range s.MatchExpressions {
		has = has || r.Key == key
	}
	return has
}
