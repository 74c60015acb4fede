package report

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/gpu/share"
)

// prefix of the resources that are GPUs.
const prefix = "nvidia.com/"

// ExaminePod follows a pod to its GPUs: what it asks for, where it was put, what it got.
// The chain of its node is to be shown beside it.
func ExaminePod(p *core.Pod, nodes []Node) Chain {
	c := Chain{Of: "pod " + p.Namespace + "/" + p.Name}
	asked := requests(p)
	if len(asked) == 0 && len(p.Spec.ResourceClaims) == 0 {
		c.add("request", Bad, "no container asks for a GPU, so it gets none (NVIDIA_VISIBLE_DEVICES of an image gives nothing)",
			"add resources: {limits: {nvidia.com/gpu: 1}} to the container that needs it")
		return c
	}
	var texts []string
	for _, name := range names(asked) {
		texts = append(texts, fmt.Sprintf("%d %s", asked[name], name))
	}
	for _, claim := range p.Spec.ResourceClaims {
		texts = append(texts, "the claim "+claimName(p, claim))
	}
	c.add("request", Good, "it asks for "+strings.Join(texts, ", "), "")
	if p.Spec.NodeName == "" {
		unscheduled(&c, p, asked, nodes)
		return c
	}
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Object.Name == p.Spec.NodeName })
	if i < 0 {
		c.add("placement", Bad, "it was put on node "+p.Spec.NodeName+", which does not exist", "delete the pod")
		return c
	}
	c.add("placement", Good, "it is on node "+p.Spec.NodeName, "")
	given(&c, p, nodes[i])
	started(&c, p)
	return c
}

// claimName is what a claim of the pod is called in its namespace, as far as that is known.
func claimName(p *core.Pod, claim core.PodResourceClaim) string {
	if claim.ResourceClaimName != nil {
		return *claim.ResourceClaimName
	}
	for _, s := range p.Status.ResourceClaimStatuses {
		if s.Name == claim.Name && s.ResourceClaimName != nil {
			return *s.ResourceClaimName
		}
	}
	return claim.Name + ", which is not made yet"
}

// requests sums what the containers of a pod ask for, the way the scheduler counts: init
// containers pass their devices on.
func requests(p *core.Pod) map[string]int64 {
	out, before := map[string]int64{}, map[string]int64{}
	for _, c := range p.Spec.Containers {
		for name, q := range c.Resources.Limits {
			if strings.HasPrefix(string(name), prefix) && !q.IsZero() {
				out[string(name)] += q.Value()
			}
		}
	}
	for _, c := range p.Spec.InitContainers {
		lasting := c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways
		for name, q := range c.Resources.Limits {
			switch n := string(name); {
			case !strings.HasPrefix(n, prefix) || q.IsZero():
			case lasting:
				out[n] += q.Value()
			default:
				before[n] = max(before[n], q.Value())
			}
		}
	}
	for n, v := range before {
		out[n] = max(out[n], v)
	}
	return out
}

func names(m map[string]int64) []string {
	out := make([]string, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// unscheduled says what the scheduler said, and of each node what stands in the way of
// the GPUs.
func unscheduled(c *Chain, p *core.Pod, asked map[string]int64, nodes []Node) {
	said := "the scheduler has not looked at it yet"
	for _, x := range p.Status.Conditions {
		if x.Type == core.PodScheduled && x.Status == core.ConditionFalse {
			said = x.Reason + ": " + x.Message
		}
	}
	if len(p.Spec.SchedulingGates) > 0 {
		c.add("placement", Bad, "it has scheduling gates: "+said, "whoever set the gate must remove it")
		return
	}
	c.add("placement", Bad, said, "")
	placement := len(c.Links)
	defer func() { c.Links[placement-1].Act = waits(p, len(c.Links) > placement) }()
	parts := share.Shares(p)
	for _, n := range nodes {
		for _, name := range names(asked) {
			if share.Amounts(core.ResourceName(name)) || parts && name == share.GPU {
				if q := n.Object.Status.Allocatable[core.ResourceName(name)]; q.IsZero() && name != share.GPU {
					c.add("node "+n.Object.Name, Bad, "it has no parts of cards to give ("+name+"): its cards are partitioned, offered in replicas, or not there", "ask for one of its MIG devices or replicas, or give it another layout: `orch gpu status -o wide` shows what it offers")
				}
				continue // how much is short by card the scheduler says
			}
			text, act := wants(n, name, asked[name])
			if text != "" {
				c.add("node "+n.Object.Name, Bad, text, act)
			}
		}
		if t, ok := untolerated(p, n.Object); ok {
			c.add("node "+n.Object.Name, Bad, "the pod does not tolerate the taint "+t.ToString(), fmt.Sprintf("add tolerations: [{key: %s, operator: Exists, effect: %s}]", t.Key, t.Effect))
		}
		for k, v := range p.Spec.NodeSelector {
			if have, ok := n.Object.Labels[k]; !ok || have != v {
				c.add("node "+n.Object.Name, Bad, fmt.Sprintf("the pod selects %s=%s, the node has %q", k, v, have), "choose a label value that the node has: kubectl get node --show-labels")
			}
		}
	}
}

// waits says what to do about a pod that no node takes. Of claims and parts of cards the
// scheduler alone knows what is short; nodes then have no link of their own.
func waits(p *core.Pod, nodes bool) string {
	switch {
	case nodes:
		return "look at the nodes below"
	case len(p.Spec.ResourceClaims) > 0:
		return "compare what it asks for (kubectl describe resourceclaim) with what there is (kubectl get deviceclasses,resourceslices -o yaml) and who holds it (orch gpu status); make what is missing, or ask for less"
	case share.Shares(p):
		return "ask for less of a card, or wait until one of those that `orch gpu status` names ends"
	}
	return "ask again in a moment; if this stays, look at the server's log"
}

func untolerated(p *core.Pod, n *core.Node) (core.Taint, bool) {
	for _, t := range n.Spec.Taints {
		if t.Effect == core.TaintEffectPreferNoSchedule {
			continue
		}
		if !slices.ContainsFunc(p.Spec.Tolerations, func(x core.Toleration) bool {
			return (x.Key == "" || x.Key == t.Key) && (x.Effect == "" || x.Effect == t.Effect) && (x.Operator == core.TolerationOpExists || x.Value == t.Value)
		}) {
			return t, true
		}
	}
	return core.Taint{}, false
}

// wants says why a node cannot give n of a resource; empty if it can.
func wants(node Node, name string, n int64) (text, act string) {
	if node.Report == nil {
		return "its agent does not answer: " + node.Silent, "look at the agent of that node"
	}
	r := node.Report
	for _, f := range r.Findings {
		if f.Fatal {
			return f.Reason + ": " + f.Message, "mend the driver of that node"
		}
	}
	i := slices.IndexFunc(r.Resources, func(x Resource) bool { return x.Name == name })
	if i < 0 {
		var have []string
		for _, x := range r.Resources {
			have = append(have, x.Name)
		}
		if len(have) == 0 {
			return "it has no GPU to offer", "a node with a card and the NVIDIA driver offers it by itself: `orch gpu doctor " + "--node " + node.Object.Name + "`"
		}
		return fmt.Sprintf("it does not offer %s, but %s", name, strings.Join(have, ", ")), "ask for a resource that it offers, or give its cards another MIG layout"
	}
	x := r.Resources[i]
	switch {
	case x.Capacity < n:
		return fmt.Sprintf("it has %d %s in all, the pod asks for %d", x.Capacity, name, n), "ask for less, or use a larger node: one pod's GPUs are all on one node"
	case x.Allocatable < n:
		return fmt.Sprintf("%d of its %d %s are healthy, the pod asks for %d", x.Allocatable, x.Capacity, name, n), "`orch gpu doctor --node " + node.Object.Name + "` says what is the matter with the others"
	case x.Allocatable-x.Held < n:
		return fmt.Sprintf("Insufficient %s: %d of %d are free, the pod asks for %d; they are held by %s", name, max(x.Allocatable-x.Held, 0), x.Allocatable, n, holdersOf(r, name)),
			"wait for one of them to end, delete one, or share the cards (--gpu-config)"
	}
	return "", ""
}

// maxNamed bounds the holders that a sentence names.
const maxNamed = 8

func holdersOf(r *Report, resource string) string {
	var out []string
	for _, h := range append(r.holders(), r.Stray...) {
		if name := h.Name(); h.Resource == resource && !h.Admin && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if n := len(out); n > maxNamed {
		return strings.Join(out[:maxNamed], ", ") + fmt.Sprintf(" and %d more", n-maxNamed)
	}
	return strings.Join(out, ", ")
}

// given says what the ledger has for the pod.
func given(c *Chain, p *core.Pod, n Node) {
	if n.Report == nil {
		c.add("ledger", Unknown, "the node's agent does not answer: "+n.Silent, "")
		return
	}
	found := false
	show := func(what string, u Unit) {
		for _, h := range u.Holders {
			if h.UID != string(p.UID) {
				continue
			}
			found = true
			text := fmt.Sprintf("container %s holds %s (%s)", h.Container, what, h.Device)
			if h.Share != "" {
				text = fmt.Sprintf("container %s holds %s of %s (%s), kept within it by: %s", h.Container, h.Share, what, h.Device, h.Enforced)
			}
			if h.Claim != "" {
				text += " by the claim " + h.Claim
			}
			if u.Health != "Healthy" {
				c.add("ledger", Bad, text+", which is "+u.Health, u.Sentence)
			} else {
				c.add("ledger", Good, text, "")
			}
		}
	}
	for _, g := range n.Report.Cards {
		show(fmt.Sprintf("GPU %d, %s", g.Index, g.Model), g.Unit)
		for _, d := range g.Devices {
			show(fmt.Sprintf("MIG device %d:%d, %s of a %s", g.Index, d.Index, d.Profile, g.Model), d.Unit)
		}
	}
	ended := p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed
	for _, h := range n.Report.Stray {
		if h.UID == string(p.UID) {
			found = true
			c.add("ledger", Bad, "container "+h.Container+" holds "+h.Device+", which the machine does not have any more", "delete the pod")
		}
	}
	switch {
	case found:
	case ended:
		c.add("ledger", Good, "the pod has ended and holds nothing", "")
	default:
		c.add("ledger", Bad, "the node's ledger has nothing for the pod", "see the next link; if it is silent, look at the agent's log")
	}
}

// started says how the containers that asked for a GPU are.
func started(c *Chain, p *core.Pod) {
	if p.Status.Phase == core.PodFailed {
		c.add("pod", Bad, strings.TrimSpace("it has failed: "+p.Status.Reason+" "+p.Status.Message), "an UnexpectedAdmissionError means that the devices were gone when it came: a controller makes a new pod, a bare one is to be made again")
		return
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil && w.Message != "" {
			c.add("pod", Bad, fmt.Sprintf("container %s waits: %s: %s", s.Name, w.Reason, w.Message), "the message names what is missing; `kubectl describe pod` has the events")
			return
		}
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			c.add("pod", Bad, fmt.Sprintf("container %s ended with %d %s", s.Name, t.ExitCode, t.Reason), "its log says why: kubectl logs "+p.Name+" -c "+s.Name)
			return
		}
	}
	c.add("pod", Good, "it is "+string(p.Status.Phase), "")
}
