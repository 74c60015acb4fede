package report

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
)

// State of a link.
type State string

// States: Unknown is a link that cannot be judged because one before it failed.
const (
	Good    State = "ok"
	Warn    State = "warning"
	Bad     State = "FAILED"
	Unknown State = "unknown"
)

// Link is one step of the way from the driver to the pod.
type Link struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Text is what was found, Act what to do about it.
	Text string `json:"text"`
	Act  string `json:"act,omitempty"`
}

// Chain is what was found on one node, or of one pod.
type Chain struct {
	Of    string `json:"of"`
	Links []Link `json:"links"`
}

// Failing tells whether a link failed.
func (c Chain) Failing() bool {
	return slices.ContainsFunc(c.Links, func(l Link) bool { return l.State == Bad })
}

func (c *Chain) add(name string, s State, text, act string) {
	c.Links = append(c.Links, Link{name, s, text, act})
}

// Node is what is known of a node: the object, and its report or why there is none.
type Node struct {
	Object *core.Node
	Report *Report
	Silent string
}

// ExamineNode follows the chain of a node: driver, cards, node, ledger. live tells whether
// a pod of that UID exists; nil: nobody knows.
func ExamineNode(n Node, live func(uid string) bool) Chain {
	c := Chain{Of: "node " + n.Object.Name}
	if n.Report == nil {
		c.add("node's agent", Bad, "it does not answer: "+n.Silent, "look at the agent of that node (systemctl status, its log) and at the way from it to the server")
		nodeLink(&c, n)
		return c
	}
	r := n.Report
	driverLink(&c, r)
	cardsLink(&c, r)
	nodeLink(&c, n)
	ledgerLink(&c, r, live)
	return c
}

func driverLink(c *Chain, r *Report) {
	if len(r.Cards) == 0 && len(r.Findings) == 0 {
		c.add("driver", Warn, "there is no NVIDIA GPU on the PCI bus of this node", "nothing to do, unless it has one: then look at `lspci -d 10de:`, the BIOS and the card's power; in a virtual machine pass the card through")
		return
	}
	for _, f := range r.Findings {
		state := Warn
		if f.Fatal {
			state = Bad
		}
		text, act, _ := strings.Cut(f.Message, ": ")
		c.add("driver", state, f.Reason+": "+text, act)
	}
	if len(r.Findings) == 0 {
		c.add("driver", Good, fmt.Sprintf("NVIDIA driver %s (CUDA %s) answers for %s", r.Driver, orNone(r.CUDA), cards(len(r.Cards))), "")
	}
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func cards(n int) string {
	if n == 1 {
		return "1 GPU"
	}
	return fmt.Sprintf("%d GPUs", n)
}

func cardsLink(c *Chain, r *Report) {
	if len(r.Cards) == 0 {
		return
	}
	ill := 0
	sick := func(what string, u Unit) {
		if u.Health != "Healthy" {
			ill++
			c.add("cards", Bad, fmt.Sprintf("%s is %s", what, u.Health), u.Sentence)
		}
	}
	for _, g := range r.Cards {
		before := ill
		sick(fmt.Sprintf("GPU %d (%s)", g.Index, g.UUID), g.Unit)
		if ill > before {
			continue // its parts share its trouble
		}
		for _, d := range g.Devices {
			sick(fmt.Sprintf("MIG device %d:%d (%s)", g.Index, d.Index, d.UUID), d.Unit)
		}
	}
	if r.Layout != "" {
		c.add("cards", Bad, "the MIG layout cannot be offered", r.Layout)
	} else if ill == 0 {
		c.add("cards", Good, "all are healthy", "")
	}
}

func nodeLink(c *Chain, n Node) {
	if why := notReady(n.Object); why != "" {
		c.add("node", Bad, "the node is not Ready: "+why, "mend the node first")
		return
	}
	if n.Object.Spec.Unschedulable {
		c.add("node", Warn, "the node is cordoned: no new pod comes here", "kubectl uncordon "+n.Object.Name)
	}
	if n.Report == nil || len(n.Report.Cards) == 0 {
		return
	}
	var have []string
	good := true
	for _, r := range n.Report.Resources {
		q := n.Object.Status.Allocatable[core.ResourceName(r.Name)]
		have = append(have, fmt.Sprintf("%s %d of %d", r.Name, q.Value(), r.Capacity))
		good = good && q.Value() == r.Allocatable
	}
	switch {
	case len(have) == 0:
		c.add("node", Bad, "the node has cards and offers no GPU resource", "look at the links above; a card with MIG on needs MIG devices: label the node nvidia.com/mig.config=all-balanced")
	case !good:
		c.add("node", Warn, "the node object lags behind: allocatable is "+strings.Join(have, ", "), "wait a few seconds and ask again; if it stays, look at the agent's log")
	default:
		c.add("node", Good, "allocatable is "+strings.Join(have, ", "), "")
	}
	for _, t := range n.Object.Spec.Taints {
		if strings.HasPrefix(t.Key, "nvidia.com/") && t.Effect != core.TaintEffectPreferNoSchedule {
			c.add("node", Warn, fmt.Sprintf("the node has the taint %s", t.ToString()), "pods need a toleration for it: key "+t.Key+", operator Exists")
		}
	}
}

func notReady(n *core.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == core.NodeReady {
			if c.Status == core.ConditionTrue {
				return ""
			}
			return c.Reason + ": " + c.Message
		}
	}
	return "it has no such condition yet"
}

func ledgerLink(c *Chain, r *Report, live func(string) bool) {
	if len(r.Cards) == 0 && len(r.Stray) == 0 {
		return
	}
	good := true
	gone := func(h Holder) {
		if h.Pod == "" {
			good = false
			c.add("ledger", Warn, fmt.Sprintf("%s is held by the claim %s/%s, which no pod uses any more", h.Device, h.Namespace, h.Claim), "its driver has not let go yet; if it stays, the agent's log says why")
			return
		}
		if live != nil && !live(h.UID) {
			good = false
			c.add("ledger", Bad, fmt.Sprintf("%s is held for pod %s/%s, which is gone", h.Device, h.Namespace, h.Pod), "the agent gives it back when its containers have ended; if it stays, restart orch on this node and send its log with `orch gpu record`")
		}
	}
	for _, h := range r.holders() {
		gone(h)
	}
	for _, h := range r.Stray {
		good = false
		c.add("ledger", Bad, fmt.Sprintf("pod %s/%s holds %s, which this machine does not have any more", h.Namespace, h.Pod, h.Device), "delete the pod: what it computes on is gone")
	}
	if !good {
		return
	}
	var held []string
	for _, x := range r.Resources {
		held = append(held, fmt.Sprintf("%d of %d %s", x.Held, x.Allocatable, x.Name))
	}
	if len(held) == 0 {
		held = []string{"none"}
	}
	c.add("ledger", Good, "held: "+strings.Join(held, ", "), "")
}

// holders are all that hold something that is there.
func (r *Report) holders() []Holder {
	var out []Holder
	for _, g := range r.Cards {
		out = append(out, g.Holders...)
		for _, d := range g.Devices {
			out = append(out, d.Holders...)
		}
	}
	return out
}

// ExamineAlone follows what a node knows by itself: driver, cards and ledger.
func ExamineAlone(n Node) Chain {
	c := Chain{Of: "node " + n.Object.Name}
	if n.Report == nil {
		c.add("node's agent", Bad, "it does not answer: "+n.Silent, "look at the log of orch on this host")
		return c
	}
	driverLink(&c, n.Report)
	cardsLink(&c, n.Report)
	ledgerLink(&c, n.Report, nil)
	return c
}
