package placement

import (
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// term is one pod (anti-)affinity term, with its selectors made ready.
type term struct {
	namespaces map[string]bool
	namespace  labels.Selector // selects namespaces by label; nil for none
	pods       labels.Selector
	key        string // topology key
	weight     int64  // of preferred terms
}

// affinityTerms are the terms of one pod by kind.
type affinityTerms struct {
	require, forbid, prefer, avoid []term
}

func (a affinityTerms) any() bool {
	return len(a.require)+len(a.forbid)+len(a.prefer)+len(a.avoid) > 0
}

func newAffinityTerms(p *core.Pod) affinityTerms {
	var out affinityTerms
	if p.Spec.Affinity == nil {
		return out
	}
	if a := p.Spec.Affinity.PodAffinity; a != nil {
		out.require = terms(p, a.RequiredDuringSchedulingIgnoredDuringExecution)
		out.prefer = weighted(p, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := p.Spec.Affinity.PodAntiAffinity; a != nil {
		out.forbid = terms(p, a.RequiredDuringSchedulingIgnoredDuringExecution)
		out.avoid = weighted(p, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return out
}

func terms(p *core.Pod, in []core.PodAffinityTerm) []term {
	var out []term
	for _, t := range in {
		out = append(out, newTerm(p, t))
	}
	return out
}

func weighted(p *core.Pod, in []core.WeightedPodAffinityTerm) []term {
	var out []term
	for _, w := range in {
		t := newTerm(p, w.PodAffinityTerm)
		t.weight = int64(w.Weight)
		out = append(out, t)
	}
	return out
}

// newTerm resolves a term. A selector that does not parse (validation refuses
// those) selects nothing.
func newTerm(p *core.Pod, in core.PodAffinityTerm) term {
	t := term{key: in.TopologyKey, namespaces: map[string]bool{}, pods: selector(withLabelKeys(p, in.LabelSelector, in.MatchLabelKeys, in.MismatchLabelKeys))}
	for _, ns := range in.Namespaces {
		t.namespaces[ns] = true
	}
	if in.NamespaceSelector != nil {
		t.namespace = selector(in.NamespaceSelector)
	} else if len(in.Namespaces) == 0 {
		t.namespaces[p.Namespace] = true
	}
	return t
}

// withLabelKeys adds the pod's own values of the keys to the selector.
func withLabelKeys(p *core.Pod, s *metav1.LabelSelector, match, mismatch []string) *metav1.LabelSelector {
	if s == nil || len(match)+len(mismatch) == 0 {
		return s
	}
	s = s.DeepCopy()
	add := func(keys []string, op metav1.LabelSelectorOperator) {
		for _, k := range keys {
			if v, ok := p.Labels[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	add(match, metav1.LabelSelectorOpIn)
	add(mismatch, metav1.LabelSelectorOpNotIn)
	return s
}

func selector(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return out
}

// matches tells whether the term means the pod p.
func (t term) matches(c *Cluster, p *Pod) bool {
	if !t.namespaces[p.Namespace] && (t.namespace == nil || !t.namespace.Matches(c.namespaces[p.Namespace])) {
		return false
	}
	return t.pods.Matches(labels.Set(p.Labels))
}

// domain is one value of a topology key.
type domain struct{ key, value string }

func (n *Node) domain(key string) (domain, bool) {
	v, ok := n.Labels[key]
	return domain{key, v}, ok
}

// interPodAffinity counts, once per pod to place, which domains hold pods that
// the required terms ask for or forbid, from both sides.
func interPodAffinity(c *Cluster, p *Pod) check {
	wanted := make([]map[domain]int, len(p.terms.require))
	for i := range wanted {
		wanted[i] = map[domain]int{}
	}
	forbidden, refused := map[domain]bool{}, map[domain]bool{}
	for _, n := range c.order {
		if len(p.terms.require)+len(p.terms.forbid) == 0 && n.affine == 0 {
			continue
		}
		for _, other := range n.pods {
			for i, t := range p.terms.require {
				if d, ok := n.domain(t.key); ok && t.matches(c, other) {
					wanted[i][d]++
				}
			}
			for _, t := range p.terms.forbid {
				if d, ok := n.domain(t.key); ok && t.matches(c, other) {
					forbidden[d] = true
				}
			}
			for _, t := range other.terms.forbid {
				if d, ok := n.domain(t.key); ok && t.matches(c, p) {
					refused[d] = true
				}
			}
		}
	}
	if len(p.terms.require) == 0 && len(forbidden) == 0 && len(refused) == 0 {
		return nil
	}
	first := firstOfItsKind(c, p, wanted)
	return func(n *Node) refusal {
		for i, t := range p.terms.require {
			if d, ok := n.domain(t.key); !ok || (wanted[i][d] == 0 && !first) {
				return refuseFor("node(s) didn't match pod affinity rules")
			}
		}
		for d := range forbidden {
			if n.Labels[d.key] == d.value {
				return refuse("node(s) didn't match pod anti-affinity rules")
			}
		}
		for d := range refused {
			if n.Labels[d.key] == d.value {
				return refuse("node(s) didn't satisfy existing pods anti-affinity rules")
			}
		}
		return refusal{}
	}
}

// firstOfItsKind: no pod anywhere satisfies the terms and the pod itself would,
// so it may start the group (upstream's rule for self-affine pods).
func firstOfItsKind(c *Cluster, p *Pod, wanted []map[domain]int) bool {
	for i, t := range p.terms.require {
		if len(wanted[i]) > 0 || !t.matches(c, p) {
			return false
		}
	}
	return true
}
