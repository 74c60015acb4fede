// Package placement decides where a pod runs: (cluster, pod) -> decision and
// reasons. It is pure logic: it reads no clock, no store, no randomness, and never
// binds; what it may look at is the Cluster value, which its owner (the
// scheduler's loop) keeps up to date. Filters, scores and the choice of victims are rows of
// tables (filters.go, scores.go). Start reading at Place.
package placement

import (
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"orch/server/placement/devices"
)

// Amounts are quantities of resources: CPU in thousandths of a core, memory and
// ephemeral storage in bytes, everything else in its own unit.
type Amounts struct {
	MilliCPU, Memory, Ephemeral int64
	Scalar                      map[core.ResourceName]int64
}

// AmountsOf reads a resource list; "pods" is left out, it is counted.
func AmountsOf(l core.ResourceList) Amounts {
	var a Amounts
	for name, q := range l {
		switch name {
		case core.ResourceCPU:
			a.MilliCPU = q.MilliValue()
		case core.ResourceMemory:
			a.Memory = q.Value()
		case core.ResourceEphemeralStorage:
			a.Ephemeral = q.Value()
		case core.ResourcePods:
		default:
			if a.Scalar == nil {
				a.Scalar = map[core.ResourceName]int64{}
			}
			a.Scalar[name] = q.Value()
		}
	}
	return a
}

// add adds sign times b.
func (a *Amounts) add(b Amounts, sign int64) {
	a.MilliCPU += sign * b.MilliCPU
	a.Memory += sign * b.Memory
	a.Ephemeral += sign * b.Ephemeral
	for name, v := range b.Scalar {
		if a.Scalar == nil {
			a.Scalar = map[core.ResourceName]int64{}
		}
		a.Scalar[name] += sign * v
	}
}

// What a pod without requests counts as in scores, so that such pods spread too.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// Pod is a pod with everything that placement derives from it once.
type Pod struct {
	*core.Pod
	Requests Amounts
	// scored is Requests with the defaults for pods that request nothing.
	scored Amounts
	ports  []hostPort
	terms  affinityTerms
	// limits are those that units of devices may serve, holding is what the pod has of them.
	limits  devices.Limits
	holding devices.Holding
}

// NewPod prepares p, which must not change afterwards.
func NewPod(p *core.Pod) *Pod {
	out := &Pod{Pod: p, Requests: AmountsOf(resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})), ports: hostPorts(p)}
	out.scored = Amounts{MilliCPU: out.Requests.MilliCPU, Memory: out.Requests.Memory}
	if out.scored.MilliCPU == 0 {
		out.scored.MilliCPU = defaultMilliCPU
	}
	if out.scored.Memory == 0 {
		out.scored.Memory = defaultMemory
	}
	out.terms = newAffinityTerms(p)
	out.limits = devices.LimitsOf(p)
	out.holding = devices.HoldingOf(p, out.limits)
	return out
}

// With is the pod once it has been given units of devices.
func (p *Pod) With(u devices.Units) *Pod {
	out := *p
	out.holding = u.Holding()
	return &out
}

// Unnamed: the pod's node has yet to say which devices it has.
func (p *Pod) Unnamed() bool { return len(p.holding.Unnamed) > 0 }

// WantsDevices: a device that becomes free may make room for the pod.
func (p *Pod) WantsDevices() bool {
	return len(p.Spec.ResourceClaims) > 0 || len(p.limits.Asks) > 0 || len(p.Requests.Scalar) > 0
}

// Social pods look at other pods: one that is bound elsewhere may make room for them.
func (p *Pod) Social() bool {
	return p.terms.any() || len(p.Spec.TopologySpreadConstraints) > 0
}

// Priority of the pod; 0 where it has none.
func (p *Pod) Priority() int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// Node is a node with the pods on it and the sums over them.
type Node struct {
	*core.Node
	name        string // also while the node itself is not known
	devices     *devices.State
	Allocatable Amounts
	MaxPods     int64
	Requested   Amounts
	scored      Amounts
	pods        map[types.UID]*Pod
	ports       map[hostPort]int
	images      map[string]int64
	// affine counts the pods that have pod (anti-)affinity terms.
	affine int
}

func (n *Node) place(p *Pod, sign int) {
	n.Requested.add(p.Requests, int64(sign))
	n.scored.add(p.scored, int64(sign))
	for _, port := range p.ports {
		if n.ports[port] += sign; n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
	if p.terms.any() {
		n.affine += sign
	}
	if sign > 0 {
		n.pods[p.UID] = p
		n.devices.Hold(n.name, p.UID, p.holding)
	} else {
		delete(n.pods, p.UID)
		n.devices.Release(n.name, p.UID)
	}
}

// imagine places a pod (sign 1) or takes it away (-1) to see what would be: the claims
// that only it uses come and go with it, which they do not when a pod merely ends.
func (n *Node) imagine(p *Pod, sign int) {
	n.place(p, sign)
	if sign > 0 {
		n.devices.Resume(p.UID)
	} else {
		n.devices.Suspend(p.UID)
	}
}

// forDevices is the node as devices.Attempt looks at it.
func (n *Node) forDevices() devices.Node {
	return devices.Node{Node: n.Node, Allocatable: func(r core.ResourceName) int64 { return n.Allocatable.Scalar[r] }}
}

// Pods on the node in order of name, for printing and for choosing victims.
func (n *Node) Pods() []*Pod {
	out := make([]*Pod, 0, len(n.pods))
	for _, p := range n.pods {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *Pod) int {
		if a.Namespace != b.Namespace {
			return compare(a.Namespace, b.Namespace)
		}
		return compare(a.Name, b.Name)
	})
	return out
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// Cluster is what placement looks at. It has one owner and no lock.
type Cluster struct {
	nodes map[string]*Node
	// order is the nodes by name: decisions do not depend on map order.
	order      []*Node
	pods       map[types.UID]string
	namespaces map[string]labels.Set
	// Devices is what there is of them, and who has which. Pods that are added hold theirs.
	Devices *devices.State
}

// NewCluster returns an empty one.
func NewCluster() *Cluster {
	return &Cluster{nodes: map[string]*Node{}, pods: map[types.UID]string{}, namespaces: map[string]labels.Set{}, Devices: devices.New()}
}

// SetNode adds or replaces a node; the pods that are on it stay.
func (c *Cluster) SetNode(o *core.Node) {
	n := c.node(o.Name)
	c.Devices.SetNode(n.Node, o)
	n.Node = o
	n.Allocatable = AmountsOf(o.Status.Allocatable)
	n.MaxPods = o.Status.Allocatable.Pods().Value()
	n.images = map[string]int64{}
	for _, image := range o.Status.Images {
		for _, name := range image.Names {
			n.images[name] = image.SizeBytes
		}
	}
	c.reorder()
}

// node finds or makes the entry; pods may be known before their node.
func (c *Cluster) node(name string) *Node {
	n := c.nodes[name]
	if n == nil {
		n = &Node{name: name, devices: c.Devices, pods: map[types.UID]*Pod{}, ports: map[hostPort]int{}}
		c.nodes[name] = n
	}
	return n
}

func (c *Cluster) reorder() {
	c.order = c.order[:0]
	for _, n := range c.nodes {
		if n.Node != nil {
			c.order = append(c.order, n)
		}
	}
	slices.SortFunc(c.order, func(a, b *Node) int { return compare(a.Name, b.Name) })
}

// RemoveNode forgets a node.
func (c *Cluster) RemoveNode(name string) {
	n := c.nodes[name]
	if n == nil {
		return
	}
	n.Node = nil
	c.Devices.RemoveNode(name)
	if len(n.pods) == 0 {
		delete(c.nodes, name)
	}
	c.reorder()
}

// Node returns a node by name, nil if there is none.
func (c *Cluster) Node(name string) *Node {
	if n := c.nodes[name]; n != nil && n.Node != nil {
		return n
	}
	return nil
}

// Len is the number of nodes.
func (c *Cluster) Len() int { return len(c.order) }

// AddPod counts p on a node; a pod that was counted before (by UID) moves.
func (c *Cluster) AddPod(p *Pod, node string) {
	c.RemovePod(p.UID)
	c.node(node).place(p, 1)
	c.pods[p.UID] = node
}

// Pod returns a pod that is counted, nil if it is not.
func (c *Cluster) Pod(uid types.UID) *Pod {
	if name, ok := c.pods[uid]; ok {
		return c.nodes[name].pods[uid]
	}
	return nil
}

// RemovePod stops counting a pod.
func (c *Cluster) RemovePod(uid types.UID) {
	name, ok := c.pods[uid]
	if !ok {
		return
	}
	delete(c.pods, uid)
	n := c.nodes[name]
	n.place(n.pods[uid], -1)
	if n.Node == nil && len(n.pods) == 0 {
		delete(c.nodes, name)
	}
}

// SetNamespace notes a namespace's labels, for affinity by namespaceSelector; nil forgets it.
func (c *Cluster) SetNamespace(name string, l labels.Set) {
	if l == nil {
		delete(c.namespaces, name)
		return
	}
	c.namespaces[name] = l
}
