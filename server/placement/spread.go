package placement

import (
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// constraint is one topology spread constraint made ready for a pod.
type constraint struct {
	core.TopologySpreadConstraint
	pods labels.Selector
	self int64 // 1 if the pod itself is counted
	// eligible says whether a node's domain takes part.
	eligible func(*Node) bool
	counts   map[string]int64 // by topology value
}

// constraints of p with the given reaction, and their counts over the cluster.
func (c *Cluster) constraints(p *Pod, reaction core.UnsatisfiableConstraintAction) []constraint {
	var out []constraint
	for _, in := range p.Spec.TopologySpreadConstraints {
		if in.WhenUnsatisfiable != reaction {
			continue
		}
		k := constraint{TopologySpreadConstraint: in, counts: map[string]int64{}, eligible: eligible(p, in),
			pods: selector(withLabelKeys(p.Pod, in.LabelSelector, in.MatchLabelKeys, nil))}
		if k.pods.Matches(labels.Set(p.Labels)) {
			k.self = 1
		}
		for _, n := range c.order {
			v, ok := n.Labels[in.TopologyKey]
			if !ok || !k.eligible(n) {
				continue
			}
			k.counts[v] += n.count(p.Namespace, k.pods)
		}
		out = append(out, k)
	}
	return out
}

// eligible applies nodeAffinityPolicy (Honor by default) and nodeTaintsPolicy
// (Ignore by default).
func eligible(p *Pod, in core.TopologySpreadConstraint) func(*Node) bool {
	affinity := nodeaffinity.GetRequiredNodeAffinity(p.Pod)
	ignoreAffinity := in.NodeAffinityPolicy != nil && *in.NodeAffinityPolicy == core.NodeInclusionPolicyIgnore
	honorTaints := in.NodeTaintsPolicy != nil && *in.NodeTaintsPolicy == core.NodeInclusionPolicyHonor
	taints := taintToleration(nil, p)
	return func(n *Node) bool {
		if ok, err := affinity.Match(n.Node); !ignoreAffinity && (err != nil || !ok) {
			return false
		}
		return !honorTaints || taints(n).reasons == nil
	}
}

func (n *Node) count(namespace string, s labels.Selector) int64 {
	count := int64(0)
	for _, p := range n.pods {
		if p.Namespace == namespace && p.DeletionTimestamp == nil && s.Matches(labels.Set(p.Labels)) {
			count++
		}
	}
	return count
}

// least is the count of the emptiest domain; with fewer domains than minDomains it is 0.
func (k constraint) least() int64 {
	if k.MinDomains != nil && len(k.counts) < int(*k.MinDomains) {
		return 0
	}
	first, out := true, int64(0)
	for _, v := range k.counts {
		if first || v < out {
			first, out = false, v
		}
	}
	return out
}

func topologySpread(c *Cluster, p *Pod) check {
	constraints := c.constraints(p, core.DoNotSchedule)
	if len(constraints) == 0 {
		return nil
	}
	least := make([]int64, len(constraints))
	for i, k := range constraints {
		least[i] = k.least()
	}
	return func(n *Node) refusal {
		for i, k := range constraints {
			v, ok := n.Labels[k.TopologyKey]
			if !ok {
				return refuseFor("node(s) didn't match pod topology spread constraints (missing required label)")
			}
			if k.counts[v]+k.self-least[i] > int64(k.MaxSkew) {
				return refuse("node(s) didn't match pod topology spread constraints")
			}
		}
		return refusal{}
	}
}
