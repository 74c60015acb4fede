package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent"
	"orch/agent/claims"
	"orch/agent/gpus"
	"orch/agent/join"
	"orch/agent/podresources"
	"orch/agent/stream"
	"orch/agent/volume"
	"orch/api"
	"orch/api/client"
	"orch/network/netns"
	"orch/runtime/containerd"
	"orch/runtime/image"
	"orch/server"
)

// nodeConfig is what a person may say about a node beside what agent.Config has.
type nodeConfig struct {
	agent.Config
	Backend, Bridge, CNIConfDir, CNIBinDir string
	Registries                             string
	gpuConfig
}

func (c *nodeConfig) AddFlags(f *pflag.FlagSet) {
	c.Config.AddFlags(f)
	f.StringVar(&c.Backend, "flannel-backend", "vxlan", "how pods of different nodes reach each other: vxlan, or host-gw where all nodes share a segment")
	f.StringVar(&c.Bridge, "bridge", "orch0", "network device that the pods of this node hang on")
	f.StringVar(&c.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "folder whose network configuration, if there is one, wins over orch's own")
	f.StringVar(&c.CNIBinDir, "cni-bin-dir", "/opt/cni/bin", "folder of CNI plugins that are programs")
	f.StringVar(&c.Registries, "private-registry", "/etc/orch/registries.yaml", "registry mirrors and their credentials")
	c.gpuConfig.addFlags(f)
}

// complete fills in what was left open. The node's first address is the one that
// other nodes use.
func (c *nodeConfig) complete() (err error) {
	if c.Config, err = c.Config.Complete(); err != nil {
		return err
	}
	c.gpuConfig.complete(c.DataDir)
	return nil
}

// cluster is what a node must know of the cluster it is in.
type cluster struct {
	api.JoinAnswer
	client *client.Client
	// run keeps the client's cache and identity alive; nil where the server is in
	// this process.
	run func(context.Context) error
	// serve makes the stream handler reachable for the server until ctx ends.
	serve func(context.Context, http.Handler) error
}

// node is the parts of one node.
type node struct {
	nodeConfig
	cluster
	log     *slog.Logger
	engine  *containerd.Engine
	network *nodeNetwork
	volumes *volume.Volumes
	agent   *agent.Agent
	images  *image.Dir
	streams *stream.Handler
	gpus    *nodeGPUs
	// podResources tells exporters what pods hold.
	podResources *podresources.Server
}

// needsRoot says that a node is not for the user uid, before anything is written or opened.
func needsRoot(uid int) error {
	if uid != 0 {
		return fmt.Errorf("a node starts containers and makes network devices: run orch as root, not as the user %d (orch server --disable-agent does without)", uid)
	}
	return nil
}

// newNode makes the parts, each from those before it. containerd runs afterwards;
// close it, or Run.
func newNode(c nodeConfig, cl cluster, log *slog.Logger) (*node, error) {
	n := &node{nodeConfig: c, cluster: cl, log: log}
	n.Config.ClusterDNS, n.Config.ClusterDomain = []string{cl.ClusterDNS}, cl.ClusterDomain
	for _, step := range []func() error{n.makeGPUs, n.makeNetwork, n.makeEngine, n.makeAgent} {
		if err := step(); err != nil {
			if n.engine != nil {
				err = errors.Join(err, n.engine.Close())
			}
			return nil, err
		}
	}
	return n, nil
}

func (n *node) makeNetwork() error {
	address, _, _ := strings.Cut(n.NodeIP, ",")
	c := networkConfig{NodeName: n.NodeName, Domain: n.cluster.ClusterDomain, ResolvConf: n.ResolvConf, Backend: n.Backend, Bridge: n.Bridge,
		DataDir: n.DataDir, CNIConfDir: n.CNIConfDir, CNIBinDir: n.CNIBinDir, Log: n.log}
	for _, p := range []struct {
		what, text string
		to         any
	}{{"node IP", address, &c.NodeIP}, {"cluster DNS", n.cluster.ClusterDNS, &c.DNS}, {"cluster CIDR", n.ClusterCIDR, &c.ClusterCIDR}, {"service CIDR", n.ServiceCIDR, &c.ServiceCIDR}} {
		if err := parse(p.text, p.to); err != nil {
			return fmt.Errorf("reading the %s: %w", p.what, err)
		}
	}
	var err error
	n.network, err = newNodeNetwork(c, n.client)
	return err
}

func parse(s string, to any) (err error) {
	switch v := to.(type) {
	case *netip.Addr:
		*v, err = netip.ParseAddr(s)
	case *netip.Prefix:
		*v, err = netip.ParsePrefix(s)
	}
	return err
}

func (n *node) makeEngine() (err error) {
	n.engine, err = containerd.New(containerd.Config{Root: filepath.Join(n.DataDir, "agent", "containerd"), State: filepath.Join(n.RunDir, "containerd"),
		BinDir: filepath.Join(n.DataDir, "agent", "bin"), Registries: n.Registries, Log: n.log})
	if err != nil {
		return err
	}
	n.images, err = image.NewDir(image.DirConfig{Path: filepath.Join(n.DataDir, "agent", "images"), Images: n.engine.Images(),
		Imported: func() { n.agent.ImagesCame() }, Log: n.log})
	return err
}

func (n *node) makeGPUs() (err error) {
	n.gpus, err = newGPUs(n.nodeConfig, func(ctx context.Context, ref, path string, max int64) ([]byte, error) {
		return n.engine.ImageFile(ctx, ref, path, max)
	}, n.log)
	return err
}

func (n *node) makeAgent() (err error) {
	if err = netns.Prepare(filepath.Join(n.RunDir, "ns")); err != nil {
		return err
	}
	allocatable := func() core.ResourceList {
		if o := client.Cached(n.client, api.Nodes, "", n.NodeName); o != nil {
			return o.Status.Allocatable
		}
		return nil
	}
	if n.volumes, err = volume.New(volume.Config{Root: n.RootDir, Client: n.client, Fields: fields{allocatable}, Images: n.engine.Images(), Log: n.log}); err != nil {
		return err
	}
	if err = n.gpus.claim(n.nodeConfig, n.client); err != nil {
		return err
	}
	n.agent, err = agent.New(n.Config, agent.Deps{Client: n.client, Engine: n.engine, Network: joined{n.network}, Namespaces: pinned{},
		Volumes: n.volumes, Devices: claims.Devices{Manager: n.gpus.devices, Claimed: n.gpus.claims}, Extra: gpus.Extra{Manager: n.gpus.devices, GPUs: n.gpus.provider}, Arrivals: n.images.Wait, Log: n.log})
	if err != nil {
		return err
	}
	if n.podResources, err = podResources(n.nodeConfig, n.client, n.gpus.devices, n.log); err != nil {
		return err
	}
	pages, err := n.statistics()
	if err != nil {
		return err
	}
	n.streams, err = stream.New(stream.Config{Pods: shown{n.agent.Pods()}, Engine: n.engine, Dialer: podDialer{}, Reach: n.network.has, More: pages, HostLogs: "/var/log", Log: n.log})
	return err
}

// Run runs the node until ctx ends. Containers, devices and rules stay.
func (n *node) Run(ctx context.Context) error {
	running := make(chan error, 1)
	engineCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	go func() { running <- n.engine.Run(engineCtx) }()
	parts := []func(context.Context) error{
		n.network.Run, n.volumes.Run, n.images.Run, n.agent.Run, n.streams.Run,
		func(ctx context.Context) error { return n.serve(ctx, n.streams) },
		func(ctx context.Context) error { return n.gpus.run(ctx, n.client, n.NodeName, n.agent.Pods()) }, n.podResources.Run,
	}
	if n.run != nil {
		parts = append(parts, n.run)
	}
	err := both(parts...)(ctx)
	stop()
	return errors.Join(err, <-running)
}

// agentPart is `orch agent`: a node of a server elsewhere.
type agentPart struct {
	log           *slog.Logger
	config        nodeConfig
	server, token string
	tokenFile     string
}

func (a *agentPart) AddFlags(f *pflag.FlagSet) {
	a.config.AddFlags(f)
	f.StringVarP(&a.server, "server", "s", "", "URL of the server to join, as https://HOST:6443")
	f.StringVarP(&a.token, "token", "t", "", "join token, from <data-dir>/server/token on the server")
	f.StringVar(&a.tokenFile, "token-file", "", "file to read the join token from")
}

// join takes the URL of `orch agent join URL`.
func (a *agentPart) join(url string) error {
	if a.server != "" && a.server != url {
		return fmt.Errorf("the server is given twice: %s and --server %s", url, a.server)
	}
	a.server = url
	return join.CheckURL(url)
}

// Run joins the server and runs the node until ctx ends.
func (a *agentPart) Run(ctx context.Context) error {
	takeLibraryLogs(a.log)
	if a.server == "" {
		return errors.New("which server? Run `orch agent join https://HOST:6443 --token T`")
	}
	if a.tokenFile != "" {
		b, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return fmt.Errorf("reading the token: %w", err)
		}
		a.token = string(b)
	}
	if err := a.config.complete(); err != nil {
		return err
	}
	if err := needsRoot(os.Geteuid()); err != nil {
		return err
	}
	m, err := join.Join(ctx, join.Config{Server: a.server, Token: a.token, NodeName: a.config.NodeName, Dir: filepath.Join(a.config.DataDir, "agent"), Log: a.log})
	if err != nil {
		return err
	}
	cl, err := elsewhere(m, a.config.NodeName)
	if err != nil {
		return err
	}
	n, err := newNode(a.config, cl, a.log)
	if err != nil {
		return err
	}
	go announceNode(ctx, a.log, n.agent)
	return both(giveBack, n.Run)(ctx)
}

func announceNode(ctx context.Context, log *slog.Logger, a *agent.Agent) {
	select {
	case <-a.Ready():
		log.Info("orch is ready")
		notify("READY=1")
	case <-ctx.Done():
	}
}

// elsewhere is the cluster seen through HTTP, as a joined node sees it.
func elsewhere(m *join.Membership, nodeName string) (cluster, error) {
	transport, err := client.NewHTTP(client.HTTPConfig{Server: m.Server(), CA: m.CA(), Certificate: m.Certificate, UserAgent: "kubelet/" + kubernetesVersion + " (" + runtime.GOOS + "/" + runtime.GOARCH + ") orch/" + version})
	if err != nil {
		return cluster{}, err
	}
	cache := client.NewCache(transport, map[*api.Facts]client.Scope{
		api.Pods.Facts:           {FieldSelector: "spec.nodeName=" + nodeName},
		api.Nodes.Facts:          {},
		api.Services.Facts:       {},
		api.EndpointSlices.Facts: {},
	})
	return cluster{JoinAnswer: m.Cluster(), client: &client.Client{Transport: transport, Cache: cache}, run: both(cache.Run, m.Run), serve: m.Serve}, nil
}

// nodePart is the server's own node, over the in-process client.
func (s *serverPart) nodePart(control *server.Server) (server.Part, error) {
	c := control.Resolved()
	s.node.DataDir, s.node.NodeName, s.node.NodeIP = c.DataDir, c.NodeName, strings.Join(c.NodeIP, ",")
	if err := s.node.complete(); err != nil {
		return server.Part{}, err
	}
	local := cluster{
		JoinAnswer: api.JoinAnswer{ClusterCIDR: c.ClusterCIDR, ServiceCIDR: c.ServiceCIDR, ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain, ServiceNodePortRange: c.ServiceNodePortRange},
		client:     control.Client(api.UserNodePrefix+c.NodeName, api.GroupNodes),
		serve: func(ctx context.Context, h http.Handler) error {
			stop := control.Tunnel().Local(c.NodeName, h)
			<-ctx.Done()
			stop()
			return nil
		},
	}
	n, err := newNode(s.node, local, s.log)
	if err != nil {
		return server.Part{}, err
	}
	s.ready = n.agent.Ready()
	admin := control.Client(api.ControllerUser)
	return server.Part{Name: "node", Run: both(n.Run, func(ctx context.Context) error { return markControlPlane(ctx, admin, c.NodeName) })}, nil
}

// markControlPlane labels the server's own node with its role. A node may not say
// so of itself, hence the control plane does.
func markControlPlane(ctx context.Context, c *client.Client, name string) error {
	registered := make(chan struct{})
	var once sync.Once
	err := subscribe(ctx, c, api.Nodes, func(_, now *core.Node) {
		if now != nil && now.Name == name {
			once.Do(func() { close(registered) })
		}
	})
	if err != nil {
		return endOr(ctx, err)
	}
	select {
	case <-registered:
	case <-ctx.Done():
		return nil
	}
	patch := []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":"true"}}}`)
	if _, err := client.Patch(ctx, c, api.Nodes, client.Target{Name: name}, types.MergePatchType, patch); err != nil {
		return endOr(ctx, fmt.Errorf("labelling the server's node: %w", err))
	}
	<-ctx.Done()
	return nil
}
