package placement

import (
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"orch/gpu/share"
)

// check says whether a node suits the pod that it was prepared for.
type check func(*Node) refusal

// filter is one reason not to run somewhere. prepare looks at pod and cluster
// once and returns nil when the filter has no say about the pod.
type filter struct {
	name    string
	prepare func(*Cluster, *Pod) check
	// late: it costs so much that only nodes are asked which all others let through, the
	// best first, until one passes.
	late bool
}

// filters in the order in which they are asked; the first refusal counts. The
// names are those of upstream's scheduler plugins.
var filters = []filter{
	{"NodeUnschedulable", nodeUnschedulable, false},
	{"NodeName", nodeName, false},
	{"TaintToleration", taintToleration, false},
	{"NodeAffinity", nodeAffinity, false},
	{"NodePorts", nodePorts, false},
	{"NodeResourcesFit", nodeResourcesFit, false},
	{"PodTopologySpread", topologySpread, false},
	{"InterPodAffinity", interPodAffinity, false},
	{"DynamicResources", dynamicResources, true},
}

var unschedulableTaint = core.Taint{Key: core.TaintNodeUnschedulable, Effect: core.TaintEffectNoSchedule}

func tolerates(p *Pod, taint core.Taint) bool {
	return corev1.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, &taint, false)
}

func nodeUnschedulable(_ *Cluster, p *Pod) check {
	if tolerates(p, unschedulableTaint) {
		return nil
	}
	return func(n *Node) refusal {
		if n.Spec.Unschedulable {
			return refuseFor("node(s) were unschedulable")
		}
		return refusal{}
	}
}

func nodeName(_ *Cluster, p *Pod) check {
	want := p.Spec.NodeName
	if want == "" {
		return nil
	}
	return func(n *Node) refusal {
		if n.Name != want {
			return refuseFor("node(s) didn't match the requested node name")
		}
		return refusal{}
	}
}

func taintToleration(_ *Cluster, p *Pod) check {
	return func(n *Node) refusal {
		for _, t := range n.Spec.Taints {
			if t.Effect != core.TaintEffectPreferNoSchedule && !tolerates(p, t) {
				return refuseFor("node(s) had untolerated taint(s)")
			}
		}
		return refusal{}
	}
}

func nodeAffinity(_ *Cluster, p *Pod) check {
	if p.Spec.NodeSelector == nil && (p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil) {
		return nil
	}
	required := nodeaffinity.GetRequiredNodeAffinity(p.Pod)
	return func(n *Node) refusal {
		if ok, err := required.Match(n.Node); err != nil || !ok {
			return refuseFor("node(s) didn't match Pod's node affinity/selector")
		}
		return refusal{}
	}
}

// hostPort is a port of the node that a container asks for; ip is empty for all.
type hostPort struct {
	ip       string
	protocol core.Protocol
	port     int32
}

func hostPorts(p *core.Pod) []hostPort {
	var out []hostPort
	add := func(cs []core.Container) {
		for _, c := range cs {
			for _, port := range c.Ports {
				if port.HostPort == 0 {
					continue
				}
				h := hostPort{port.HostIP, port.Protocol, port.HostPort}
				if h.ip == "0.0.0.0" || h.ip == "::" {
					h.ip = ""
				}
				if h.protocol == "" {
					h.protocol = core.ProtocolTCP
				}
				out = append(out, h)
			}
		}
	}
	add(p.Spec.Containers)
	add(slices.DeleteFunc(slices.Clone(p.Spec.InitContainers), func(c core.Container) bool {
		return c.RestartPolicy == nil || *c.RestartPolicy != core.ContainerRestartPolicyAlways
	}))
	return out
}

func (a hostPort) conflicts(b hostPort) bool {
	return a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == "" || b.ip == "")
}

func nodePorts(_ *Cluster, p *Pod) check {
	if len(p.ports) == 0 {
		return nil
	}
	return func(n *Node) refusal {
		for _, want := range p.ports {
			for used := range n.ports {
				if want.conflicts(used) {
					return refuse("node(s) didn't have free ports for the requested pod ports")
				}
			}
		}
		return refusal{}
	}
}

func nodeResourcesFit(c *Cluster, p *Pod) check {
	want, parts := p.Requests, p.limits.Parts()
	return func(n *Node) refusal {
		var r refusal
		short := func(name string, want, used, have int64) {
			if want > 0 && want > have-used {
				r.reasons = append(r.reasons, "Insufficient "+name)
				r.helpless = r.helpless || want > have
			}
		}
		if int64(len(n.pods))+1 > n.MaxPods {
			r.reasons = append(r.reasons, "Too many pods")
		}
		short("cpu", want.MilliCPU, n.Requested.MilliCPU, n.Allocatable.MilliCPU)
		short("memory", want.Memory, n.Requested.Memory, n.Allocatable.Memory)
		short("ephemeral-storage", want.Ephemeral, n.Requested.Ephemeral, n.Allocatable.Ephemeral)
		for name, v := range want.Scalar {
			units, have := p.limits.Need[string(name)], n.Allocatable.Scalar[name]
			switch {
			case parts && (name == share.GPU && units == 0 || share.Amounts(name)) && c.Devices.Serves(n.Name, share.GPU): // by card, below
			case units > 0 && c.Devices.Serves(n.Name, name):
				if fits, ever := c.Devices.Room(n.Name, string(name), units); !fits {
					r.reasons = append(r.reasons, "Insufficient "+string(name))
					r.helpless = r.helpless || !ever
				}
			case have == 0 && c.Devices.Class(name): // a claim is made for it
			default:
				short(string(name), v, n.Requested.Scalar[name], have)
			}
		}
		if parts && r.reasons == nil {
			if why, ever := c.Devices.PartsFit(n.Name, p.limits); why != "" {
				r.reasons, r.helpless = []string{why}, !ever
			}
		}
		return r
	}
}
