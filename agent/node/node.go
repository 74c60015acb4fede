// Package node is this machine as a Node of the cluster: it registers it, renews
// its lease, and keeps its status true. The status is written when it changes
// and every five minutes; the lease, which is cheap, every ten seconds. It
// refuses to know pods. Start reading at Node.Run; status.go is pure.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/runtime/engine"
)

const (
	leaseEvery    = 10 * time.Second
	leaseDuration = 40 // seconds
	statusEvery   = 5 * time.Minute
	firstRetry    = 100 * time.Millisecond
	maxRetry      = 5 * time.Second
	// conflicts is how often in a row others may be faster with a change of the node.
	conflicts = 5
)

// Config is read-only after New.
type Config struct {
	Name string
	// IPs are the node's internal addresses, the primary one first.
	IPs, ExternalIPs []string
	Hostname         string
	Labels           map[string]string
	Annotations      map[string]string
	Taints           []core.Taint
	MaxPods          int
	Reserved         core.ResourceList
	// Version is kubeletVersion, Runtime containerRuntimeVersion.
	Version, Runtime string
	// Port of the node API; 0 if it is only reached through the tunnel.
	Port int
	// Dir lies on the file system that holds the pods.
	Dir string
}

// Deps of a Node.
type Deps struct {
	Client *client.Client
	Images engine.Images
	// NetworkReady says why pods cannot be joined to the network; nil when they can.
	NetworkReady func() error
	// Changed fires when NetworkReady may answer anew.
	Changed func() <-chan struct{}
	// Extra is what devices say of the node; nil: there are none.
	Extra Extra
	// Say records an event of the node; nil: nobody listens. It must not block.
	Say func(reason, message string)
	Log *slog.Logger
}

// Node is the machine as the cluster sees it.
type Node struct {
	config  Config
	deps    Deps
	machine Machine
	ready   chan struct{}
	poke    chan struct{}

	mu sync.Mutex
	// written is the object after the last write.
	written *core.Node
	wrote   time.Time

	// The rest belongs to Run's goroutine.
	health Health
	images []core.ContainerImage
	// stale makes the images be listed anew.
	stale bool
	// said is the node of which all was said.
	said *core.Node
}

// New inspects the machine.
func New(c Config, d Deps) (*Node, error) {
	if c.Name == "" || len(c.IPs) == 0 || d.Client == nil || d.NetworkReady == nil || d.Changed == nil || d.Log == nil {
		return nil, errors.New("making the node: its name, an address or a dependency is missing")
	}
	if d.Extra == nil {
		d.Extra = none{}
	}
	m, err := Inspect(c.Dir)
	if err != nil {
		return nil, err
	}
	m.Info.KubeletVersion, m.Info.ContainerRuntimeVersion = c.Version, c.Runtime
	return &Node{config: c, deps: d, machine: m, ready: make(chan struct{}), poke: make(chan struct{}, 1), stale: true}, nil
}

// Ready is closed once the server was told that the node is Ready.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Poke makes the status be looked at soon: an image came, a part changed.
func (n *Node) Poke() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

// Allocatable is what the node has for pods.
func (n *Node) Allocatable() core.ResourceList {
	return Allocatable(n.machine.capacity(n.config.MaxPods), n.config.Reserved)
}

// MemoryCapacity is the memory of the machine in bytes.
func (n *Node) MemoryCapacity() int64 { return n.machine.MemoryBytes }

// Run registers the node and keeps it up to date until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	if n.deps.Say != nil {
		n.deps.Say("Starting", "Starting kubelet.")
	}
	if !n.insist(ctx, "registering the node", n.register) {
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { n.renew(ctx) })
	look := time.NewTicker(leaseEvery)
	defer look.Stop()
	for {
		changed, extra := n.deps.Changed(), n.deps.Extra.Changed()
		if !n.insist(ctx, "writing the node's status", n.report) || !n.insist(ctx, "labelling the node", n.label) {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-extra:
		case <-n.poke:
			n.stale = true
		case <-look.C:
		}
	}
}

// insist does something until it succeeds; false when ctx ended first.
func (n *Node) insist(ctx context.Context, what string, do func(context.Context) error) bool {
	for wait := firstRetry; ; wait = min(2*wait, maxRetry) {
		err := do(ctx)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			return true
		}
		n.deps.Log.Warn(what+" failed", "node", n.config.Name, "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// labels that every node has, and those that were asked for.
func (n *Node) labels() map[string]string {
	l := map[string]string{
		core.LabelHostname: n.config.Hostname, core.LabelOSStable: "linux", core.LabelArchStable: n.machine.Info.Architecture,
	}
	if l[core.LabelHostname] == "" {
		l[core.LabelHostname] = n.config.Name
	}
	maps.Copy(l, n.config.Labels)
	return l
}

// register creates the Node, or brings the labels of the one that is there up to date.
// Taints are only set on creation: later they are the cluster's business.
func (n *Node) register(ctx context.Context) error {
	have, err := client.Get(ctx, n.deps.Client, api.Nodes, "", n.config.Name)
	if apierrors.IsNotFound(err) {
		node := &core.Node{ObjectMeta: metav1.ObjectMeta{Name: n.config.Name, Labels: n.labels(), Annotations: n.config.Annotations}}
		node.Spec.Taints = n.config.Taints
		n.check()
		node.Status = Merge(core.NodeStatus{}, n.status(ctx), n.deps.Extra, time.Now())
		if have, err = client.Create(ctx, n.deps.Client, api.Nodes, node); err == nil {
			n.said = nil
			n.say(have)
		}
	}
	if err != nil {
		return err
	}
	if n.said == nil {
		n.said = have // a former agent has said it
	}
	n.note(have)
	changed := have.DeepCopy()
	if !overlay(&changed.Labels, n.labels()) && !overlay(&changed.Annotations, n.config.Annotations) {
		return nil
	}
	overlay(&changed.Annotations, n.config.Annotations)
	have, err = client.Update(ctx, n.deps.Client, api.Nodes, changed)
	if err != nil {
		return err
	}
	n.note(have)
	return nil
}

// overlay puts want into m and tells whether that changed it.
func overlay(m *map[string]string, want map[string]string) bool {
	changed := false
	for k, v := range want {
		if have, ok := (*m)[k]; !ok || have != v {
			if *m == nil {
				*m = map[string]string{}
			}
			(*m)[k], changed = v, true
		}
	}
	return changed
}

func (n *Node) note(o *core.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.written = o
}

// status is what the agent has to say.
func (n *Node) status(ctx context.Context) core.NodeStatus {
	s := core.NodeStatus{
		Capacity: n.machine.capacity(n.config.MaxPods), Allocatable: n.Allocatable(),
		NodeInfo: n.machine.Info, Conditions: n.health.conditions(),
	}
	s.DaemonEndpoints.KubeletEndpoint.Port = int32(n.config.Port)
	for _, ip := range n.config.IPs {
		s.Addresses = append(s.Addresses, core.NodeAddress{Type: core.NodeInternalIP, Address: ip})
	}
	for _, ip := range n.config.ExternalIPs {
		s.Addresses = append(s.Addresses, core.NodeAddress{Type: core.NodeExternalIP, Address: ip})
	}
	s.Addresses = append(s.Addresses, core.NodeAddress{Type: core.NodeHostName, Address: n.labels()[core.LabelHostname]})
	s.Images = n.listImages(ctx)
	extend(&s, n.deps.Extra)
	return s
}

// listImages asks the engine only when an image may have come or gone.
func (n *Node) listImages(ctx context.Context) []core.ContainerImage {
	if !n.stale && time.Since(n.wrote) < statusEvery {
		return n.images
	}
	list, err := n.deps.Images.List(ctx)
	if err != nil {
		if ctx.Err() == nil {
			n.deps.Log.Warn("listing images for the node's status failed", "err", err)
		}
		return n.images
	}
	n.images, n.stale = images(list), false
	return n.images
}

// report writes the status if it differs from the server's, or is due.
func (n *Node) report(ctx context.Context) error {
	n.check()
	own := n.status(ctx)
	n.mu.Lock()
	base, wrote := n.written, n.wrote
	n.mu.Unlock()
	if cached := client.Cached(n.deps.Client, api.Nodes, "", n.config.Name); cached != nil && newer(cached, base) {
		base = cached
	}
	for range conflicts {
		now := time.Now()
		merged := Merge(base.Status, own, n.deps.Extra, now)
		same := Same(merged, base.Status, equality.Semantic.DeepEqual)
		if same && !wrote.IsZero() && now.Sub(wrote) < statusEvery {
			n.say(base)
			n.reached()
			return nil
		}
		changed := base.DeepCopy()
		changed.Status = merged
		answer, err := client.UpdateStatus(ctx, n.deps.Client, api.Nodes, changed)
		switch {
		case err == nil:
			n.mu.Lock()
			n.written, n.wrote = answer, now
			n.mu.Unlock()
			n.say(answer)
			n.reached()
			return nil
		case apierrors.IsNotFound(err): // deleted under us: register again
			return n.register(ctx)
		case !apierrors.IsConflict(err):
			return err
		}
		if base, err = client.Get(ctx, n.deps.Client, api.Nodes, "", n.config.Name); err != nil {
			return err
		}
	}
	return errors.New("the node is changed by others all the time")
}

func newer(a, b *core.Node) bool {
	if b == nil || a.UID != b.UID {
		return true
	}
	return len(a.ResourceVersion) > len(b.ResourceVersion) || len(a.ResourceVersion) == len(b.ResourceVersion) && a.ResourceVersion > b.ResourceVersion
}

// reached closes Ready once the server knows a Ready node.
func (n *Node) reached() {
	if n.health.Problem != "" {
		return
	}
	select {
	case <-n.ready:
	default:
		close(n.ready)
	}
}

// renew keeps the lease, by which the cluster knows that the node is alive.
func (n *Node) renew(ctx context.Context) {
	var lease leaseState
	tick := time.NewTicker(leaseEvery)
	defer tick.Stop()
	for {
		if !n.insist(ctx, "renewing the node's lease", func(ctx context.Context) error { return lease.renew(ctx, n) }) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Taint parses key=value:Effect, key:Effect.
func Taint(text string) (core.Taint, error) {
	var t core.Taint
	rest, effect, ok := cutLast(text, ":")
	if !ok {
		return t, fmt.Errorf("taint %q has no effect; write key=value:NoSchedule", text)
	}
	t.Effect = core.TaintEffect(effect)
	if !slices.Contains([]core.TaintEffect{core.TaintEffectNoSchedule, core.TaintEffectPreferNoSchedule, core.TaintEffectNoExecute}, t.Effect) {
		return t, fmt.Errorf("taint %q has an unknown effect; use NoSchedule, PreferNoSchedule or NoExecute", text)
	}
	t.Key, t.Value, _ = cutLast(rest, "=")
	if t.Key == "" {
		t.Key, t.Value = rest, ""
	}
	return t, nil
}
