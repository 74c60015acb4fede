// Package admit decides whether this node can run a pod that was bound to it: the
// last word after the scheduler, whose view may be old. It is pure. Reasons and
// messages are upstream's. Start reading at Check.
package admit

import (
	"fmt"
	"maps"
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resources "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"orch/agent/pods/status"
	"orch/api"
	"orch/gpu/share"
)

// Check returns nil if the pod can run on the node beside those that run there. unsafe are the kernel
// parameters that pods may set here beside those that concern them alone.
func Check(pod *core.Pod, node *core.Node, running []*core.Pod, unsafe []string) *status.Verdict {
	if v := sysctls(pod, unsafe); v != nil {
		return v
	}
	if os, ok := pod.Labels[core.LabelOSStable]; ok && os != string(core.Linux) {
		return &status.Verdict{Reason: "PodOSSelectorNodeLabelDoesNotMatch", Message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if os := pod.Spec.OS; os != nil && os.Name != core.Linux {
		return &status.Verdict{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if node == nil {
		return nil
	}
	if v := fits(pod, node, running); v != nil {
		return v
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err == nil && !ok {
		return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
	}
	if taken(pod, running) {
		return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports")
	}
	return nil
}

// AtLeast is the node with no less of each resource than is allocated on it. A pod that
// has its devices from before keeps them while whoever offers them is away.
func AtLeast(node *core.Node, allocated map[core.ResourceName]int64) *core.Node {
	if node == nil || len(allocated) == 0 {
		return node
	}
	out := *node
	out.Status.Allocatable = node.Status.Allocatable.DeepCopy()
	for name, n := range allocated {
		if have, ok := out.Status.Allocatable[name]; !ok || have.Value() < n {
			out.Status.Allocatable[name] = *resource.NewQuantity(n, resource.DecimalSI)
		}
	}
	return &out
}

func predicate(name, text string) *status.Verdict {
	return &status.Verdict{Reason: name, Message: fmt.Sprintf("Pod was rejected: Predicate %s failed: %s", name, text)}
}

func fits(pod *core.Pod, node *core.Node, running []*core.Pod) *status.Verdict {
	free := node.Status.Allocatable
	if n, ok := free[core.ResourcePods]; ok && int64(len(running)+1) > n.Value() {
		return outOf(core.ResourcePods, 1, int64(len(running)), n.Value())
	}
	want := requests(pod)
	used := core.ResourceList{}
	for _, p := range running {
		for name, q := range requests(p) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	names := make([]core.ResourceName, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		w, u := number(name, want[name]), number(name, used[name])
		if c := number(name, free[name]); w > 0 && w+u > c {
			return outOf(name, w, u, c)
		}
	}
	return nil
}

// requests are what a pod counts for in sums. Cards that it has parts of are not: who may
// have which of them is the ledger's to say. Nor are devices that it has by a claim.
func requests(pod *core.Pod) core.ResourceList {
	sum := resources.PodRequests(pod, resources.PodResourcesOptions{})
	maps.DeleteFunc(sum, func(name core.ResourceName, _ resource.Quantity) bool { return api.ByClaim(pod, name) })
	return share.Counted(pod, sum)
}

// number counts CPUs in thousandths and everything else in units.
func number(name core.ResourceName, q resource.Quantity) int64 {
	if name == core.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func outOf(name core.ResourceName, want, used, capacity int64) *status.Verdict {
	return &status.Verdict{
		Reason: "OutOf" + string(name),
		Message: fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			name, want, used, capacity),
	}
}

// taken tells whether a host port of the pod is in use. An unset host IP is all.
func taken(pod *core.Pod, running []*core.Pod) bool {
	for _, want := range hostPorts(pod) {
		for _, p := range running {
			for _, have := range hostPorts(p) {
				if want.HostPort == have.HostPort && protocol(want) == protocol(have) && (any(want) || any(have) || want.HostIP == have.HostIP) {
					return true
				}
			}
		}
	}
	return false
}

func any(p core.ContainerPort) bool {
	return p.HostIP == "" || p.HostIP == "0.0.0.0" || p.HostIP == "::"
}

func protocol(p core.ContainerPort) core.Protocol {
	if p.Protocol == "" {
		return core.ProtocolTCP
	}
	return p.Protocol
}

func hostPorts(pod *core.Pod) []core.ContainerPort {
	var out []core.ContainerPort
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				out = append(out, p)
			}
		}
	}
	return out
}
