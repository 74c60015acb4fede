// Package migplanner has idle GPUs partitioned for pods that wait (--gpu-mig-planner): of the pods
// that no node offers enough of nvidia.com/gpu or nvidia.com/mig-*, it tells each to one node
// that could offer it, by an annotation. The node's agent, which alone knows its cards exactly,
// plans and does the change (gpu/mig.Reshape), and says in another annotation what it could
// offer. Nodes whose layout a label wishes are left out. Start reading at assign.
package migplanner

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resources "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

const (
	capable = "nvidia.com/mig.capable" // label of nodes with a card that can be partitioned
	wish    = "nvidia.com/mig.config"  // label of nodes whose layout somebody wishes
	whole   = "nvidia.com/gpu"
	part    = "nvidia.com/mig-"
)

// all is the one key: pods are told to nodes together.
var all = reconcile.Key{Name: "all pods that wait"}

// Specs is the controller; without the wish it only takes back.
func Specs(c *client.Client, wished bool) []reconcile.Spec {
	p := planner{c, wished}
	return []reconcile.Spec{{Name: "migplanner", Do: p.do, Watches: []reconcile.Watch{
		reconcile.Map(api.Pods, func(was, is *core.Pod) []reconcile.Key {
			if !wished || !slices.Equal(waits(was), waits(is)) {
				return []reconcile.Key{all}
			}
			return nil
		}),
		reconcile.Map(api.Nodes, func(was, is *core.Node) []reconcile.Key {
			if is != nil && (was == nil || facts(was) != facts(is)) {
				return []reconcile.Key{all}
			}
			return nil
		}),
	}}}
}

type planner struct {
	client *client.Client
	wished bool
}

func (p planner) do(ctx context.Context, _ reconcile.Key) (reconcile.Result, error) {
	nodes := client.CachedList(p.client, api.Nodes, "", nil)
	slices.SortFunc(nodes, func(a, b *core.Node) int { return strings.Compare(a.Name, b.Name) })
	var pods []*core.Pod
	if p.wished {
		p.client.Each(api.Pods.Facts, "", func(o api.Object) bool {
			if pod := o.(*core.Pod); len(waits(pod)) > 0 {
				pods = append(pods, pod)
			}
			return true
		})
	}
	plan := assign(pods, nodes, p.wished)
	for _, n := range nodes {
		want, on := plan[n.Name]
		if err := p.tell(ctx, n, want, on); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{}, nil
}

// tell writes a node's annotation, or takes it away.
func (p planner) tell(ctx context.Context, n *core.Node, want []api.MIGDemand, on bool) error {
	is, has := n.Annotations[api.AnnotationMIGDemand]
	var value any
	if on {
		text, err := json.Marshal(append([]api.MIGDemand{}, want...))
		if err != nil {
			return err
		}
		if has && is == string(text) {
			return nil
		}
		value = string(text)
	} else if !has {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{api.AnnotationMIGDemand: value}}})
	if err != nil {
		return err
	}
	if _, err := client.Patch(ctx, p.client, api.Nodes, client.Target{Name: n.Name}, types.MergePatchType, patch); err != nil {
		return fmt.Errorf("telling node %s which pods wait for its GPUs: %w", n.Name, err)
	}
	return nil
}

// facts are what assign reads of a node.
func facts(n *core.Node) string {
	return fmt.Sprint(n.Labels, n.Annotations[api.AnnotationMIGDemand], n.Annotations[api.AnnotationMIGPotential], n.Spec.Taints, n.Spec.Unschedulable)
}

// waits are the resources, with their counts, that keep a pod from every node.
func waits(p *core.Pod) []api.MIGDemand {
	if p == nil || p.Spec.NodeName != "" || p.DeletionTimestamp != nil {
		return nil
	}
	message := ""
	for _, c := range p.Status.Conditions {
		if c.Type == core.PodScheduled && c.Status == core.ConditionFalse && c.Reason == core.PodReasonUnschedulable {
			message = c.Message
		}
	}
	if !strings.Contains(message, "Insufficient nvidia.com/") {
		return nil
	}
	var out []api.MIGDemand
	requests := resources.PodRequests(p, resources.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		n := requests[name]
		s := string(name)
		if n.Value() < 1 || s != whole && !strings.HasPrefix(s, part) {
			continue
		}
		out = append(out, api.MIGDemand{Namespace: p.Namespace, Pod: p.Name, UID: p.UID, Resource: s, Count: int(min(n.Value(), 1<<20))})
	}
	return out
}

// candidate is a node that may be told of pods.
type candidate struct {
	*core.Node
	potential map[string]int
	demand    []api.MIGDemand
}

// assign says which pods each node is told of, the oldest first. A pod stays with the node it
// was told to as long as that could offer what it asks for; else it goes to the one that could
// offer the least beyond it, which keeps room for larger ones elsewhere.
func assign(pods []*core.Pod, nodes []*core.Node, wished bool) map[string][]api.MIGDemand {
	plan := map[string][]api.MIGDemand{}
	if !wished {
		return plan
	}
	var able []*candidate
	told := map[types.UID]string{}
	for _, n := range nodes {
		if n.Labels[capable] != "true" || n.Labels[wish] != "" {
			continue
		}
		c := &candidate{Node: n, potential: map[string]int{}}
		var before []api.MIGDemand
		_ = json.Unmarshal([]byte(n.Annotations[api.AnnotationMIGPotential]), &c.potential) // what it has not said it cannot do
		_ = json.Unmarshal([]byte(n.Annotations[api.AnnotationMIGDemand]), &before)         // and what is no list was told nobody
		for _, d := range before {
			told[d.UID] = n.Name
		}
		able = append(able, c)
	}
	slices.SortFunc(pods, func(a, b *core.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
	})
	for _, p := range pods {
		wants := waits(p)
		var best *candidate
		for _, c := range able {
			if c.takes(p, wants) && (best == nil || c.before(best, wants, told[p.UID])) {
				best = c
			}
		}
		if best != nil {
			best.give(wants)
		}
	}
	for _, c := range able {
		plan[c.Name] = c.demand
	}
	return plan
}

// takes tells whether the pod may run on the node, and that could offer what it waits for.
func (c *candidate) takes(p *core.Pod, wants []api.MIGDemand) bool {
	if c.Spec.Unschedulable || len(c.demand)+len(wants) > api.MaxMIGDemand {
		return false
	}
	for _, w := range wants {
		if c.potential[w.Resource] < w.Count {
			return false
		}
	}
	if fits, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(c.Node); err != nil || !fits {
		return false
	}
	_, untolerated := corev1.FindMatchingUntoleratedTaint(klog.Background(), c.Spec.Taints, p.Spec.Tolerations,
		func(t *core.Taint) bool {
			return t.Effect == core.TaintEffectNoSchedule || t.Effect == core.TaintEffectNoExecute
		}, false)
	return !untolerated
}

func (c *candidate) before(other *candidate, wants []api.MIGDemand, told string) bool {
	if c.Name == told || other.Name == told {
		return c.Name == told
	}
	for _, w := range wants {
		if a, b := c.potential[w.Resource], other.potential[w.Resource]; a != b {
			return a < b
		}
	}
	return false // they come by name
}

func (c *candidate) give(wants []api.MIGDemand) {
	for _, w := range wants {
		c.potential[w.Resource] -= w.Count
	}
	c.demand = append(c.demand, wants...)
}
