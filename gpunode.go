package main

import (
	"context"
	"encoding/json"

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

// wishes has something in it when the node's labels may be others.
func (n gpuNode) wishes(ctx context.Context) (<-chan struct{}, error) {
	out := make(chan struct{}, 1)
	err := subscribe(ctx, n.client, api.Nodes, func(old, now *core.Node) {
		if now == nil || now.Name != n.name || old != nil && old.Labels[gpus.LabelMIG] == now.Labels[gpus.LabelMIG] {
			return
		}
		select {
		case out <- struct{}{}:
		default: // it has not looked yet
		}
	})
	return out, err
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
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{gpus.LabelMIGState: state}}})
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, n.client, api.Nodes, client.Target{Name: n.name}, types.MergePatchType, patch)
	return err
}
