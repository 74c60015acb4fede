// Package agent is one node: it registers the machine and runs the pods bound to
// it. It puts its parts together (node, pods, images, control groups, probes)
// and owns none of the host itself: network, namespaces and volumes come in as
// the interfaces of agent/host, containers as an engine. Start reading at New.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/admit"
	"orch/agent/cgroup"
	"orch/agent/host"
	"orch/agent/image"
	"orch/agent/node"
	"orch/agent/pods"
	"orch/agent/pods/spec"
	"orch/agent/pods/status"
	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/runtime/engine"
)

// Deps are what an agent works with. The client acts as the node's user; its
// cache holds the pods of this node, Nodes and Services.
type Deps struct {
	Client     *client.Client
	Engine     engine.Engine
	Network    host.PodNetwork
	Namespaces host.Namespaces
	Volumes    host.Volumes
	// Devices gives pods what they ask for as extended resources, Extra is what that
	// says of the node; nil where there is nothing.
	Devices host.Devices
	Extra   node.Extra
	// Arrivals waits while images come in another way than by a pull, until there is
	// enough; nil where none do.
	Arrivals func(ctx context.Context, enough func() bool)
	// Parts run beside the pods for as long as the agent does: the volumes'
	// updates, proxy, DNS, the node API.
	Parts []host.Part
	Log   *slog.Logger
}

// Agent is one node.
type Agent struct {
	config   Config
	deps     Deps
	recorder *events.Recorder
	cgroups  *cgroup.Tree
	node     *node.Node
	pods     *pods.Pods
	ready    chan struct{}
}

// New checks the config and looks at the machine. It changes nothing on it.
func New(c Config, d Deps) (*Agent, error) {
	c, err := c.Complete()
	if err != nil {
		return nil, err
	}
	if d.Client == nil || d.Engine == nil || d.Network == nil || d.Namespaces == nil || d.Volumes == nil {
		return nil, errors.New("making the agent: a dependency is missing")
	}
	if d.Log == nil {
		d.Log = slog.Default()
	}
	a := &Agent{config: c, deps: d, ready: make(chan struct{})}
	if a.recorder, err = events.New(events.Config{Client: d.Client, Component: "kubelet", Host: c.NodeName}); err != nil {
		return nil, err
	}
	if a.cgroups, err = cgroup.New(cgroup.Config{Root: c.CgroupRoot}); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.RootDir, 0o750); err != nil {
		return nil, fmt.Errorf("making the root directory: %w", err)
	}
	ips := addresses(c.NodeIP)
	if a.node, err = a.newNode(ips); err != nil {
		return nil, err
	}
	a.pods, err = a.newPods(ips)
	return a, err
}

func (a *Agent) newNode(ips []string) (*node.Node, error) {
	c := a.config
	labels, err := parseLabels(c.NodeLabels)
	if err != nil {
		return nil, err
	}
	taints, err := parseTaints(c.NodeTaints)
	if err != nil {
		return nil, err
	}
	reserved, err := parseReserved(c.SystemReserved)
	if err != nil {
		return nil, err
	}
	hostname, err := os.Hostname()
	if err != nil || a.config.DataDir != DefaultDataDir {
		hostname = c.NodeName // several nodes of one machine are told apart by their names
	}
	return node.New(node.Config{
		Name: c.NodeName, IPs: ips, ExternalIPs: addresses(c.NodeExternalIP), Hostname: strings.ToLower(hostname), Labels: labels, Taints: taints,
		Annotations: c.Annotations, MaxPods: c.MaxPods, Reserved: reserved,
		Version: Version, Runtime: a.deps.Engine.Version(), Port: c.Port, Dir: c.RootDir,
	}, node.Deps{
		Client: a.deps.Client, Images: a.deps.Engine.Images(), NetworkReady: a.deps.Network.Ready, Changed: a.deps.Network.Changed,
		Extra: a.deps.Extra, Say: a.sayOfNode, Log: a.deps.Log,
	})
}

// sayOfNode records an event of the node. As upstream's agent, it names the node where a
// UID stands; kubectl describe looks for that.
func (a *Agent) sayOfNode(reason, message string) {
	name := a.config.NodeName
	a.recorder.EventAt(core.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: types.UID(name)}, core.EventTypeNormal, reason, message)
}

func (a *Agent) newPods(ips []string) (*pods.Pods, error) {
	c, d := a.config, a.deps
	size, err := resource.ParseQuantity(c.LogMaxSize)
	if err != nil {
		return nil, fmt.Errorf("parsing the size of logs: %w", err)
	}
	puller := image.NewPuller(d.Engine.Images(), int64(c.ParallelPulls), a.node.Poke)
	puller.Arrivals = d.Arrivals
	dns := spec.DNS{Servers: c.ClusterDNS, Domain: c.ClusterDomain}
	text, err := os.ReadFile(c.ResolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the host's resolv.conf: %w", err)
	}
	dns.Host = spec.ParseResolver(string(text))
	return pods.New(pods.Config{
		NodeName: c.NodeName, HostIPs: ips, RootDir: c.RootDir, RunDir: c.RunDir, LogDir: c.LogDir, LinkDir: c.LinkDir, DNS: dns,
		PauseDir:     filepath.Join(c.DataDir, "agent", "pause"),
		PodPidsLimit: c.PodPidsLimit, LogMaxBytes: size.Value(), LogMaxFiles: c.LogMaxFiles, OOMFloor: oomFloor(),
	}, pods.Deps{
		Client: d.Client, Engine: d.Engine, Network: d.Network, Namespaces: d.Namespaces, Volumes: d.Volumes, Devices: d.Devices, Cgroups: a.cgroups,
		Puller: puller, Events: a.recorder,
		Admit: func(pod *core.Pod, running []*core.Pod) *status.Verdict {
			n := client.Cached(d.Client, api.Nodes, "", c.NodeName)
			if d.Devices != nil {
				n = admit.AtLeast(n, d.Devices.Allocated(pod.UID))
			}
			return admit.Check(pod, n, running, c.UnsafeSysctls)
		},
		Allocatable: a.node.Allocatable, MemoryCapacity: a.node.MemoryCapacity(), Log: d.Log,
	})
}

// Pods are the pods of this node, for the node API and statistics.
func (a *Agent) Pods() *pods.Pods { return a.pods }

// Config is the config with its defaults.
func (a *Agent) Config() Config { return a.config }

// ImagesCame tells that images have come without a pull: the node says so soon, and pods
// that wait to pull again look whether it was theirs.
func (a *Agent) ImagesCame() {
	a.node.Poke()
	a.pods.ImagesCame()
}

// Ready is closed once the pods that were there are taken up and the cluster knows
// that the node is Ready.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Run works until ctx ends, and leaves all containers running. An error of a part
// ends the others.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.prepare(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	run := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("running the agent's %s: %w", name, err))
			}
		})
	}
	run("events", a.recorder.Run)
	for i, p := range a.deps.Parts {
		run("part "+strconv.Itoa(i), p.Run)
	}
	run("node", a.node.Run)
	run("pods", a.pods.Run)
	run("image collection", a.collect)
	wg.Go(func() {
		for _, c := range []<-chan struct{}{a.pods.Synced(), a.node.Ready()} {
			select {
			case <-c:
			case <-ctx.Done():
				return
			}
		}
		close(a.ready)
	})
	<-ctx.Done()
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// prepare makes what pods need on the host.
func (a *Agent) prepare() error {
	c := a.config
	for _, d := range []string{c.RunDir, filepath.Join(c.RunDir, "pods"), filepath.Join(c.RootDir, "pods"), c.LogDir, c.LinkDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("making the agent's directories: %w", err)
		}
	}
	allocatable := a.node.Allocatable()
	return a.cgroups.Prepare(cgroup.Limits{
		CPUShares:   spec.Shares(allocatable.Cpu().MilliValue()),
		MemoryBytes: a.node.MemoryCapacity() - reservedMemory(c.SystemReserved),
	})
}

func reservedMemory(m map[string]string) int64 {
	list, err := parseReserved(m)
	if err != nil {
		return 0 // refused by Validate before
	}
	return list.Memory().Value()
}

// collect deletes unused images when the disk fills.
func (a *Agent) collect(ctx context.Context) error {
	images := a.deps.Engine.Images()
	return image.Collect(ctx, images, image.GCConfig{
		Dir: a.config.DataDir, HighPercent: a.config.ImageGCHighPercent, LowPercent: a.config.ImageGCLowPercent,
		MinAge: 2 * time.Minute, Every: 5 * time.Minute, InUse: a.imagesInUse, Log: a.deps.Log,
	})
}

// imagesInUse lists the images of all containers and volumes that are there.
func (a *Agent) imagesInUse(ctx context.Context) (map[string]bool, error) {
	list, err := a.deps.Engine.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	out := map[string]bool{}
	for _, c := range list {
		out[c.ImageID] = true
	}
	mounted, err := a.deps.Volumes.Images()
	if err != nil {
		return nil, fmt.Errorf("listing images that are volumes: %w", err)
	}
	for _, id := range mounted {
		out[id] = true
	}
	return out, nil
}
