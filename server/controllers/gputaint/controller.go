// Package gputaint keeps pods that ask for no GPU off the nodes that have some, where that
// is wished (--gpu-taint): such nodes carry nvidia.com/gpu:NoSchedule, which admission lets
// pods that ask for NVIDIA's resources tolerate. It takes back what it set, when the cards or the
// wish are gone, and leaves a taint that somebody else set as it is. Start reading at plan.
package gputaint

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

const (
	// annotation marks the nodes whose taint is ours.
	annotation = "orch.io/gpu-taint"
	// present is the label of a node whose bus has a card, working or not.
	present = "nvidia.com/gpu.present"
	vendor  = "nvidia.com/"
)

// Specs is the controller; without the wish it only takes back.
func Specs(c *client.Client, wished bool) []reconcile.Spec {
	return []reconcile.Spec{{
		Name: "gputaint", Watches: []reconcile.Watch{reconcile.Map(api.Nodes, nodesOf(wished))},
		Do: func(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
			n := client.Cached(c, api.Nodes, "", key.Name)
			if n == nil {
				return reconcile.Result{}, nil
			}
			next, changed := plan(n, wished)
			if !changed {
				return reconcile.Result{}, nil
			}
			if _, err := client.Update(ctx, c, api.Nodes, next); err != nil {
				return reconcile.Result{}, fmt.Errorf("tainting node %s for its GPUs: %w", n.Name, err)
			}
			return reconcile.Result{}, nil
		},
	}}
}

// nodesOf names a node when it is not as it should be, which heartbeats do not change.
func nodesOf(wished bool) func(was, is *core.Node) []reconcile.Key {
	return func(_, is *core.Node) []reconcile.Key {
		if is == nil {
			return nil
		}
		if _, changed := plan(is, wished); !changed {
			return nil
		}
		return []reconcile.Key{{Name: is.Name}}
	}
}

// plan is the node as it should be.
func plan(n *core.Node, wished bool) (next *core.Node, changed bool) {
	_, ours := n.Annotations[annotation]
	want := wished && hasGPUs(n)
	is := slices.ContainsFunc(n.Spec.Taints, wanted)
	switch {
	case want && !is:
		next = n.DeepCopy()
		next.Spec.Taints = append(next.Spec.Taints, core.Taint{Key: api.GPUTaintKey, Value: "present", Effect: core.TaintEffectNoSchedule})
		next.Annotations = maps.Clone(n.Annotations)
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[annotation] = "true"
	case !want && ours:
		next = n.DeepCopy()
		next.Spec.Taints = slices.DeleteFunc(next.Spec.Taints, wanted)
		delete(next.Annotations, annotation)
	default:
		return n, false
	}
	return next, !equality.Semantic.DeepEqual(n, next)
}

func wanted(t core.Taint) bool {
	return t.Key == api.GPUTaintKey && t.Effect == core.TaintEffectNoSchedule
}

// hasGPUs: a card that fails at the moment still is one.
func hasGPUs(n *core.Node) bool {
	if n.Labels[present] == "true" {
		return true
	}
	for name, q := range n.Status.Capacity {
		if strings.HasPrefix(string(name), vendor) && !q.IsZero() {
			return true
		}
	}
	return false
}
