package admission

import (
	"context"
	"fmt"
	"strings"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// Causes of a refused resize, as upstream names them.
const (
	causeNodeCapacity metav1.CauseType = "NodeCapacity"
	causePlatform     metav1.CauseType = "UnsupportedPlatform"
)

// podResize refuses what the node of a pod can never give, or not in place.
func (l *List) podResize(_ context.Context, a *registry.Attributes) error {
	p, ok := a.Object.(*core.Pod)
	o := old[core.Pod](a)
	if a.Subresource != "resize" || !ok || o == nil || p.Spec.NodeName == "" || o.Generation == p.Generation {
		return nil
	}
	n := client.Cached(l.cache, api.Nodes, "", p.Spec.NodeName)
	if n == nil {
		return forbid(a, "node %q not found", p.Spec.NodeName)
	}
	if os, known := n.Labels[core.LabelOSStable]; known && os != "linux" {
		return refuseResize(a, causePlatform, fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", n.Name, os))
	}
	if err := withinNode(p, n.Status.Allocatable); err != nil {
		return refuseResize(a, causeNodeCapacity, err)
	}
	return nil
}

func refuseResize(a *registry.Attributes, cause metav1.CauseType, err error) error {
	out := forbidden(a, err)
	out.ErrStatus.Details.Causes = append(out.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	return out
}

// withinNode compares what a pod asks for with all that its node has.
func withinNode(p *core.Pod, has core.ResourceList) error {
	asks := resource.PodRequests(p, resource.PodResourcesOptions{})
	var over []string
	if is, most := asks.Cpu(), has.Cpu(); is.Cmp(*most) > 0 {
		over = append(over, fmt.Sprintf("cpu, requested: %d, allocatable: %d", is.MilliValue(), most.MilliValue()))
	}
	if is, most := asks.Memory(), has.Memory(); is.Cmp(*most) > 0 {
		over = append(over, fmt.Sprintf("memory, requested: %d, allocatable: %d", is.Value(), most.Value()))
	}
	if len(over) > 0 {
		return fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(over, "; "))
	}
	return nil
}
