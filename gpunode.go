package main

import (
	"context"
	"encoding/json"
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/gpus"
	"orch/api"
	"orch/api/client"
)

// gpuNode is the node's object as far as MIG layouts are asked for and told by it.
type gpuNode struct {
	client *client.Client
	name   string
}

// wishes has something in it when what is asked of the node's cards may be other.
func (n gpuNode) wishes(ctx context.Context) (<-chan struct{}, error) {
	out := make(chan struct{}, 1)
	err := subscribe(ctx, n.client, api.Nodes, func(old, now *core.Node) {
		if now == nil || now.Name != n.name {
			return
		}
		if old != nil && old.Labels[gpus.LabelMIG] == now.Labels[gpus.LabelMIG] && old.Annotations[api.AnnotationMIGDemand] == now.Annotations[api.AnnotationMIGDemand] {
			return
		}
		select {
		case out <- struct{}{}:
		default: // it has not looked yet
		}
	})
	return out, err
}

// pods are those that are bound to the node.
func (n gpuNode) pods() []*core.Pod {
	return slices.DeleteFunc(client.CachedList(n.client, api.Pods, "", nil), func(p *core.Pod) bool { return p.Spec.NodeName != n.name })
}

// wish is what the label asks for, and the state that the node shows.
func (n gpuNode) wish() (wish, state string) {
	if o := client.Cached(n.client, api.Nodes, "", n.name); o != nil {
		return o.Labels[gpus.LabelMIG], o.Labels[gpus.LabelMIGState]
	}
	return "", ""
}

// state sets the label that tells what became of the wish.
func (n gpuNode) state(ctx context.Context, state string) error {
	return n.patch(ctx, map[string]any{"labels": map[string]string{gpus.LabelMIGState: state}})
}

// demand are the pods that wait for the node's cards to be partitioned, where the server
// plans for that.
func (n gpuNode) demand() (list []api.MIGDemand, on bool) {
	o := client.Cached(n.client, api.Nodes, "", n.name)
	if o == nil {
		return nil, false
	}
	text, on := o.Annotations[api.AnnotationMIGDemand]
	if !on || json.Unmarshal([]byte(text), &list) != nil { // nonsense is no demand
		return nil, on
	}
	return list[:min(len(list), api.MaxMIGDemand)], true
}

// potential says what the node could offer; nil takes it back.
func (n gpuNode) potential(ctx context.Context, potential map[string]int) error {
	var value any
	if potential != nil {
		text, err := json.Marshal(potential)
		if err != nil {
			return err
		}
		value = string(text)
	} else if o := client.Cached(n.client, api.Nodes, "", n.name); o == nil || o.Annotations[api.AnnotationMIGPotential] == "" {
		return nil
	}
	return n.patch(ctx, map[string]any{"annotations": map[string]any{api.AnnotationMIGPotential: value}})
}

func (n gpuNode) patch(ctx context.Context, metadata map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, n.client, api.Nodes, client.Target{Name: n.name}, types.MergePatchType, patch)
	return err
}
