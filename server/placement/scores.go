package placement

import (
	"math"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// maxScore is the best a node can get from one scorer before its weight.
const maxScore = 100

// scorer rates the nodes that fit. prepare returns nil when it has no opinion.
type scorer struct {
	name      string
	weight    int64
	prepare   func(c *Cluster, p *Pod, fit []*Node) func(*Node) int64
	normalise func([]int64)
}

// scorers with upstream's default weights.
var scorers = []scorer{
	{"TaintToleration", 3, preferUntainted, fewestBest},
	{"NodeAffinity", 2, preferredAffinity, mostBest},
	{"PodTopologySpread", 2, preferSpread, fewestBest},
	{"InterPodAffinity", 2, preferCompany, fromMinToMax},
	{"NodeResourcesFit", 1, leastAllocated, asItIs},
	{"NodeResourcesBalancedAllocation", 1, balanced, asItIs},
	{"ImageLocality", 1, imageLocality, asItIs},
	{"DynamicResources", 2, preferFirstAlternatives, mostBest},
	{"GPUShares", 5, preferSharedCards, asItIs}, // ours: more than all that spreads
}

func asItIs([]int64) {}

// mostBest scales so that the highest value becomes maxScore.
func mostBest(v []int64) {
	if top := slices.Max(v); top > 0 {
		for i := range v {
			v[i] = v[i] * maxScore / top
		}
	}
}

// fewestBest scales so that 0 becomes maxScore and the highest value 0.
func fewestBest(v []int64) {
	top := slices.Max(v)
	for i := range v {
		if top > 0 {
			v[i] = maxScore - v[i]*maxScore/top
		} else {
			v[i] = maxScore
		}
	}
}

// fromMinToMax spreads values, negative ones too, over 0..maxScore.
func fromMinToMax(v []int64) {
	low, high := slices.Min(v), slices.Max(v)
	for i := range v {
		if high > low {
			v[i] = maxScore * (v[i] - low) / (high - low)
		} else {
			v[i] = 0
		}
	}
}

func preferUntainted(_ *Cluster, p *Pod, fit []*Node) func(*Node) int64 {
	soft := func(t core.Taint) bool { return t.Effect == core.TaintEffectPreferNoSchedule }
	if !slices.ContainsFunc(fit, func(n *Node) bool { return slices.ContainsFunc(n.Spec.Taints, soft) }) {
		return nil
	}
	return func(n *Node) int64 {
		count := int64(0)
		for _, t := range n.Spec.Taints {
			if soft(t) && !tolerates(p, t) {
				count++
			}
		}
		return count
	}
}

func preferredAffinity(_ *Cluster, p *Pod, _ []*Node) func(*Node) int64 {
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil
	}
	return func(n *Node) int64 { return terms.Score(n.Node) }
}

func preferSpread(c *Cluster, p *Pod, _ []*Node) func(*Node) int64 {
	constraints := c.constraints(p, core.ScheduleAnyway)
	if len(constraints) == 0 {
		return nil
	}
	return func(n *Node) int64 {
		total := int64(0)
		for _, k := range constraints {
			v, ok := n.Labels[k.TopologyKey]
			if !ok {
				return math.MaxInt32
			}
			total += k.counts[v]
		}
		return total
	}
}

// preferCompany sums the preferred terms of the pod over the pods of each
// domain, and those of the pods that are there about this one.
func preferCompany(c *Cluster, p *Pod, _ []*Node) func(*Node) int64 {
	sums := map[domain]int64{}
	for _, n := range c.order {
		if n.affine == 0 && len(p.terms.prefer)+len(p.terms.avoid) == 0 {
			continue
		}
		add := func(ts []term, sign int64, subject *Pod) {
			for _, t := range ts {
				if d, ok := n.domain(t.key); ok && t.matches(c, subject) {
					sums[d] += sign * max(1, t.weight)
				}
			}
		}
		for _, other := range n.pods {
			add(p.terms.prefer, 1, other)
			add(p.terms.avoid, -1, other)
			add(other.terms.prefer, 1, p)
			add(other.terms.require, 1, p)
			add(other.terms.avoid, -1, p)
		}
	}
	if len(sums) == 0 {
		return nil
	}
	return func(n *Node) int64 {
		total := int64(0)
		for d, v := range sums {
			if n.Labels[d.key] == d.value {
				total += v
			}
		}
		return total
	}
}

// free is the share of a resource that is left, 0..maxScore.
func free(used, have int64) int64 {
	if have <= 0 || used > have {
		return 0
	}
	return (have - used) * maxScore / have
}

func leastAllocated(_ *Cluster, p *Pod, _ []*Node) func(*Node) int64 {
	return func(n *Node) int64 {
		cpu := free(n.scored.MilliCPU+p.scored.MilliCPU, n.Allocatable.MilliCPU)
		memory := free(n.scored.Memory+p.scored.Memory, n.Allocatable.Memory)
		return (cpu + memory) / 2
	}
}

// balanced prefers nodes whose CPU and memory would be used in like shares.
func balanced(_ *Cluster, p *Pod, _ []*Node) func(*Node) int64 {
	share := func(used, have int64) float64 {
		if have <= 0 {
			return 1
		}
		return math.Min(1, float64(used)/float64(have))
	}
	return func(n *Node) int64 {
		cpu := share(n.Requested.MilliCPU+p.Requests.MilliCPU, n.Allocatable.MilliCPU)
		memory := share(n.Requested.Memory+p.Requests.Memory, n.Allocatable.Memory)
		return int64((1 - math.Abs(cpu-memory)/2) * maxScore)
	}
}

// Image sizes below the first count for nothing, above the second for the full score.
const (
	minImageBytes = 23 << 20
	maxImageBytes = 1000 << 20
)

func imageLocality(c *Cluster, p *Pod, fit []*Node) func(*Node) int64 {
	spread := map[string]int64{} // how many nodes have an image: a common one attracts more
	for _, n := range fit {
		for _, k := range p.Spec.Containers {
			if _, ok := n.image(k.Image); ok {
				spread[k.Image]++
			}
		}
	}
	if len(spread) == 0 {
		return nil
	}
	ceiling := int64(maxImageBytes * len(p.Spec.Containers))
	return func(n *Node) int64 {
		sum := int64(0)
		for _, k := range p.Spec.Containers {
			if size, ok := n.image(k.Image); ok {
				sum += size * spread[k.Image] / int64(len(fit))
			}
		}
		sum = min(max(sum, minImageBytes), ceiling)
		return maxScore * (sum - minImageBytes) / (ceiling - minImageBytes)
	}
}

// image finds an image by the name a pod gives or its normalised form.
func (n *Node) image(name string) (int64, bool) {
	if last := name[strings.LastIndex(name, "/")+1:]; !strings.ContainsAny(last, ":@") {
		name += ":latest"
	}
	if size, ok := n.images[name]; ok {
		return size, true
	}
	size, ok := n.images["docker.io/library/"+name]
	return size, ok
}

// preferSharedCards keeps cards whole: parts go where cards are shared already.
func preferSharedCards(c *Cluster, p *Pod, _ []*Node) func(*Node) int64 {
	if !p.limits.Parts() {
		return nil
	}
	return func(n *Node) int64 {
		if c.Devices.Joins(n.Name, p.limits) {
			return maxScore
		}
		return 0
	}
}
