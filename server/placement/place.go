package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"orch/server/placement/devices"
)

// Decision is the outcome for one pod.
type Decision struct {
	// Node to bind to; empty when no node fits.
	Node string
	// Considered is the number of nodes looked at.
	Considered int
	// Reasons counts, for a pod that fits nowhere, how many nodes refused it why.
	Reasons map[string]int
	// Helpless counts the nodes whose refusal would stand even without any other
	// pod on them: preemption cannot help there.
	Helpless int
	// Scores of the nodes that fit, in order of node name.
	Scores []Score
	// Grant and Units are the devices that the pod gets on Node.
	Grant devices.Grant
	Units devices.Units
	// Early is why no node was looked at: the pod's claims are not as they must be.
	Early error
	// Unavailable claims have allocations that kept nodes from fitting.
	Unavailable devices.Unavailable
	// Err is a claim or class that cannot be worked with; it is no matter of nodes.
	Err error
}

// Score is what one node got.
type Score struct {
	Node  string
	Total int64
}

// Message is the sentence of upstream's scheduler for a pod that fits nowhere.
func (d Decision) Message() string {
	if d.Considered == 0 {
		return "no nodes available to schedule pods"
	}
	if d.Err != nil {
		return d.Err.Error()
	}
	if d.Early != nil {
		return fmt.Sprintf("0/%d nodes are available: %s.", d.Considered, d.Early)
	}
	parts := make([]string, 0, len(d.Reasons))
	for reason, n := range d.Reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", d.Considered, strings.Join(parts, ", "))
}

// refusal is why a node does not fit; the zero value means that it does.
type refusal struct {
	reasons []string
	// helpless: removing pods from the node would not change it.
	helpless bool
	// unavailable are claims because of whose allocations the node does not fit.
	unavailable devices.Unavailable
	// err ends the search.
	err error
}

func (r refusal) fits() bool { return r.reasons == nil && r.err == nil }

func refuse(reason string) refusal    { return refusal{reasons: []string{reason}} }
func refuseFor(reason string) refusal { return refusal{reasons: []string{reason}, helpless: true} }

// askedInFull is up to how many nodes each is asked for devices that a claim selects, though the best may have
// them: a claim whose selector fails for devices of any is not to be had, lest its mistake stays hidden.
// Upstream's scheduler (minFeasibleNodesToFind) promises as much, of classes too; those stay as quick as they are.
const askedInFull = 100

// Place finds the best node for p. pick chooses among n equally good nodes
// (0 <= pick(n) < n), so that the caller owns the randomness.
func (c *Cluster) Place(p *Pod, pick func(n int) int) Decision {
	d := Decision{Considered: len(c.order), Reasons: map[string]int{}}
	attempt, err := c.attempt(p)
	if err != nil {
		d.Early, d.Helpless = err, d.Considered
		return d
	}
	first, late := c.checks(p)
	switch {
	case attempt.HasAlternatives(): // what they are worth shows only where they are found
		first, late = slices.Concat(first, late), nil
	case attempt.Selects() && len(c.order) <= askedInFull: // a selector that fails shows only where it fails
		first, late = slices.Concat(first, late), nil
	}
	fit := d.ask(first, c.order)
	if len(fit) == 0 || d.Err != nil {
		return d
	}
	d.Scores = c.score(p, fit)
	node := d.best(late, c, pick)
	if node == nil {
		return d
	}
	if d.Grant, d.Units, d.Err = c.grant(p, attempt, node); d.Err == nil {
		d.Node = node.Name
	}
	return d
}

// ask returns the nodes that pass the checks, and notes why the others do not. An error
// ends it.
func (d *Decision) ask(checks []check, nodes []*Node) (fit []*Node) {
	for _, n := range nodes {
		r := firstRefusal(checks, n)
		if r.fits() {
			fit = append(fit, n)
			continue
		}
		if r.err != nil {
			d.Err, d.Helpless = r.err, d.Considered
			return nil
		}
		d.Unavailable = append(d.Unavailable, r.unavailable...)
		for _, reason := range r.reasons {
			d.Reasons[reason]++
		}
		if r.helpless {
			d.Helpless++
		}
	}
	return fit
}

// best is the node with the most points that passes the late checks too; nil for none. Scores
// keeps those that were not found wanting.
func (d *Decision) best(late []check, c *Cluster, pick func(n int) int) *Node {
	order := slices.Clone(d.Scores)
	slices.SortStableFunc(order, func(a, b Score) int { return cmp.Compare(b.Total, a.Total) })
	for i, end := 0, 0; i < len(order); i++ {
		for end < len(order) && order[end].Total == order[i].Total { // equals
			end++
		}
		k := i + pick(end-i)
		order[i], order[k] = order[k], order[i]
		n := c.nodes[order[i].Node]
		if len(d.ask(late, []*Node{n})) > 0 {
			return n
		}
		if d.Err != nil {
			return nil
		}
		d.Scores = slices.DeleteFunc(d.Scores, func(s Score) bool { return s.Node == n.Name })
	}
	return nil
}

func firstRefusal(checks []check, n *Node) refusal {
	for _, check := range checks {
		if r := check(n); !r.fits() {
			return r
		}
	}
	return refusal{}
}

// checks prepares every filter that has a say about p.
func (c *Cluster) checks(p *Pod) (first, late []check) {
	first = make([]check, 0, len(filters))
	for _, f := range filters {
		switch check := f.prepare(c, p); {
		case check == nil:
		case f.late:
			late = append(late, check)
		default:
			first = append(first, check)
		}
	}
	return first, late
}

// refusal is that of all checks.
func (c *Cluster) refusal(p *Pod, n *Node) refusal {
	first, late := c.checks(p)
	if r := firstRefusal(first, n); !r.fits() {
		return r
	}
	return firstRefusal(late, n)
}

// score sums the weighted, normalised scores of the nodes that fit.
func (c *Cluster) score(p *Pod, fit []*Node) []Score {
	totals := make([]Score, len(fit))
	for i, n := range fit {
		totals[i].Node = n.Name
	}
	if len(fit) == 1 {
		return totals
	}
	values := make([]int64, len(fit))
	for _, s := range scorers {
		f := s.prepare(c, p, fit)
		if f == nil {
			continue
		}
		for i, n := range fit {
			values[i] = f(n)
		}
		s.normalise(values)
		for i, v := range values {
			totals[i].Total += s.weight * v
		}
	}
	return totals
}
