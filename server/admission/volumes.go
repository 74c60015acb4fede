package admission

import (
	"context"
	"slices"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// inUseProtection keeps claims, volumes and volume attributes classes that are deleted until
// nobody uses them: server/controllers/volumeprotection takes the finalizer away then.
func (l *List) inUseProtection(_ context.Context, a *registry.Attributes) error {
	o, ok := a.Object.(api.Object)
	if !ok || a.Operation != registry.Create || a.Subresource != "" {
		return nil
	}
	finalizer := ""
	switch o.(type) {
	case *core.PersistentVolumeClaim:
		finalizer = api.ClaimProtection
	case *core.PersistentVolume:
		finalizer = api.VolumeProtection
	case *storage.VolumeAttributesClass:
		finalizer = api.AttributesProtection
	}
	if f := o.GetFinalizers(); finalizer != "" && !slices.Contains(f, finalizer) {
		o.SetFinalizers(append(slices.Clone(f), finalizer))
	}
	return nil
}

// topologyLabels are those of its node that a pod gets when it is bound.
var topologyLabels = []string{core.LabelTopologyZone, core.LabelTopologyRegion}

// podTopology gives a pod the zone and region of its node: in the Binding, from which the
// registry copies them, or at once where the pod comes with a node.
func (l *List) podTopology(_ context.Context, a *registry.Attributes) error {
	if a.Operation != registry.Create {
		return nil
	}
	node, labels := "", (*map[string]string)(nil)
	switch o := a.Object.(type) {
	case *core.Binding:
		if o != nil && (o.Target.Kind == "" || o.Target.Kind == "Node") {
			node, labels = o.Target.Name, &o.Labels
		}
	case *core.Pod:
		if o != nil && a.Subresource == "" {
			node, labels = o.Spec.NodeName, &o.Labels
		}
	}
	if node == "" {
		return nil
	}
	n := client.Cached(l.cache, api.Nodes, "", node)
	if n == nil {
		return nil // binding to a node that is not there is for others to judge
	}
	for _, k := range topologyLabels {
		if v, ok := n.Labels[k]; ok {
			if *labels == nil {
				*labels = map[string]string{}
			}
			(*labels)[k] = v
		}
	}
	return nil
}
