package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent"
	"orch/agent/claims"
	"orch/agent/devices"
	"orch/agent/draplugins"
	"orch/agent/gpus"
	"orch/agent/plugins"
	"orch/agent/pods"
	"orch/agent/publish"
	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/gpu/cdi"
	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/health"
	"orch/gpu/inventory"
	"orch/gpu/metrics"
	"orch/gpu/mig"
	"orch/gpu/mps"
	"orch/gpu/nodes"
	"orch/gpu/nvml"
	"orch/gpu/report"
	"orch/gpu/share"
	"orch/gpu/sysfs"
	"orch/runtime/bundle"
	"orch/runtime/engine"
)

// gpuConfig is what a person may say about a node's GPUs.
type gpuConfig struct {
	GPUConfig, MIGConfig, GPUDriverRoot, GPUDevRoot, GPURecording, GPUMetrics, CDIDir string
	// PartsByMPS and MPSExclusive are how cards are shared that several pods have parts of.
	PartsByMPS, MPSExclusive bool
	// DynamicMIG has MIG devices made for claims.
	DynamicMIG bool
}

func (c *gpuConfig) addFlags(f *pflag.FlagSet) {
	f.StringVar(&c.GPUConfig, "gpu-config", "", "how GPUs are shared: a file as NVIDIA's device plugin reads it (version v1)")
	f.StringVar(&c.MIGConfig, "mig-config-file", "", "MIG layouts that the node label "+gpus.LabelMIG+" may name, beside those that follow from the cards (all-disabled, all-1g.10gb, all-balanced): a file as NVIDIA's mig-parted reads it (version v1)")
	f.BoolVar(&c.DynamicMIG, "gpu-dynamic-mig", false, "make MIG devices for the claims that are allocated them, on cards whose MIG mode is on, and take them away afterwards")
	f.StringVar(&c.GPUDriverRoot, "gpu-driver-root", "", "where the NVIDIA driver's files lie, if not below /")
	f.StringVar(&c.GPUDevRoot, "gpu-dev-root", "", "folder whose dev has the GPUs' device nodes, if not /")
	f.StringVar(&c.GPURecording, "gpu-recording", "", "file of a recorded machine that is played instead of this one's GPUs, to try things out")
	f.BoolVar(&c.PartsByMPS, "gpu-shares-by-mps", false, "parts of a GPU (nvidia.com/gpumem, nvidia.com/gpucores, gpu-fraction) are kept by NVIDIA's MPS where the driver cannot limit memory itself; without it a watchdog ends containers that use more memory than their part")
	f.BoolVar(&c.MPSExclusive, "gpu-mps-exclusive", false, "GPUs that MPS serves are in the compute mode EXCLUSIVE_PROCESS meanwhile, so that no process goes past it")
	f.StringVar(&c.GPUMetrics, "gpu-metrics-address", ":9400", "address of the GPU metrics, under the names of NVIDIA's DCGM exporter; they are served where there are GPUs")
	f.StringVar(&c.CDIDir, "cdi-dir", "", "folder of the CDI file by which other container engines of this host give GPUs to containers (default /var/run/cdi)")
}

// complete fills in what was left open.
func (c *gpuConfig) complete(dataDir string) {
	if c.CDIDir == "" {
		c.CDIDir = "/var/run/cdi"
		if dataDir != agent.DefaultDataDir { // several nodes can live on one machine
			c.CDIDir = filepath.Join(dataDir, "agent", "cdi")
		}
	}
}

// nodeGPUs is what a node has for its GPUs.
type nodeGPUs struct {
	config    gpuConfig
	log       *slog.Logger
	inventory *inventory.Inventory
	driver    inventory.Driver
	mig       gpus.MIGDriver // driver again, to partition cards
	cards     cardSettings   // driver again, to share cards
	mps       *mps.Daemons
	lost      chan gpus.Loss
	layouts   mig.File
	helper    *nvml.Client // nil when a recording is played, or without the helper
	provider  *gpus.GPUs
	plugins   *nodePlugins
	devices   *devices.Manager
	bound     func() []*core.Pod // those of this node
	claims    *claims.Claims
	drivers   *draplugins.Plugins
	page      *gpus.Page
	socket    string // of the paths below, for people on this host
	// released, freed and unshared have something in them after devices were given back: for
	// those who mend cards, who partition them, and who share them.
	released, freed, unshared chan struct{}
}

// newGPUs puts the parts together. Nothing is asked of a driver yet.
func newGPUs(c nodeConfig, imageFile func(ctx context.Context, ref, path string, max int64) ([]byte, error), log *slog.Logger) (_ *nodeGPUs, err error) {
	g := &nodeGPUs{config: c.gpuConfig, log: log, released: make(chan struct{}, 1), freed: make(chan struct{}, 1), unshared: make(chan struct{}, 1), lost: make(chan gpus.Loss, maxLosses), socket: filepath.Join(c.RunDir, report.Socket)}
	sharing, err := g.sharing()
	if err != nil {
		return nil, err
	}
	if g.layouts, err = g.migFile(); err != nil {
		return nil, err
	}
	if err := g.sources(filepath.Join(c.DataDir, "agent", "gpu-health.json")); err != nil {
		return nil, err
	}
	guard, err := g.guard(c.RunDir)
	if err != nil {
		return nil, err
	}
	var dynamic *gpus.Dynamic
	if g.config.DynamicMIG {
		dynamic = &gpus.Dynamic{Driver: g.mig, Refresh: g.inventory.Refresh}
	}
	g.provider, err = gpus.New(gpus.Config{
		Node: c.NodeName, Look: g.look, Changes: g.inventory.Subscribe, Share: sharing, Files: g.files, Use: g.use, Guard: guard, Dynamic: dynamic,
		ImageCache: func(ctx context.Context, i engine.Image) ([]byte, error) {
			return imageFile(ctx, i.ID, "/etc/ld.so.cache", maxLoaderCache)
		},
		DevRoot: g.config.GPUDevRoot, Dir: filepath.Join(c.RunDir, "gpu"), Log: log,
	})
	if err != nil {
		return nil, err
	}
	if g.plugins, err = newPlugins(c, g.provider, log); err != nil {
		return nil, err
	}
	g.devices, err = devices.New(devices.Config{
		Path: filepath.Join(c.DataDir, "agent", "devices.json"), Released: g.poke, Log: log,
		Bound: func() []*core.Pod {
			if g.bound == nil { // nobody is asked before there is a client
				return nil
			}
			return g.bound()
		},
		Providers: []devices.Provider{g.plugins, g.provider, plugins.Gone{Plugins: g.plugins.Plugins}},
	})
	if err != nil {
		return nil, err
	}
	g.page = gpus.NewPage(g.provider, c.NodeName, g.figures, g.devices.Holdings)
	return g, nil
}

// maxLoaderCache bounds what is read of an image.
const maxLoaderCache = 16 << 20

func (g *nodeGPUs) poke() {
	for _, c := range []chan struct{}{g.released, g.freed, g.unshared} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (g *nodeGPUs) sharing() (share.Config, error) {
	if g.config.GPUConfig == "" {
		return share.Config{MIG: share.Mixed}, nil
	}
	text, err := os.ReadFile(g.config.GPUConfig)
	if err != nil {
		return share.Config{}, fmt.Errorf("reading the sharing configuration of --gpu-config: %w", err)
	}
	return share.Parse(text)
}

func (g *nodeGPUs) migFile() (mig.File, error) {
	if g.config.MIGConfig == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	text, err := os.ReadFile(g.config.MIGConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the layouts of --mig-config-file: %w", err)
	}
	return mig.Parse(text)
}

// sources makes the inventory: of this machine, or of a recorded one. Its memory is a file.
func (g *nodeGPUs) sources(memory string) (err error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("telling one boot of the machine from another: %w", err)
	}
	keep := inventory.Config{Memory: memory, Boot: strings.TrimSpace(string(boot)), Log: g.log}
	if g.config.GPURecording != "" {
		f, err := os.Open(g.config.GPURecording)
		if err != nil {
			return fmt.Errorf("opening the machine of --gpu-recording: %w", err)
		}
		defer f.Close()
		rec, err := device.ReadRecording(f)
		if err != nil {
			return err
		}
		player := &replay{Player: fakenvml.New(rec), path: g.config.GPURecording}
		g.driver, g.mig, g.cards = player, player, player
		keep.Host, keep.Driver = player, player
		g.inventory, err = inventory.New(keep)
		return err
	}
	root := g.config.GPUDriverRoot
	if g.helper, err = nvml.New(nvml.Config{Program: func() (*os.File, error) { return bundle.Open(bundle.NVML) }, Root: root, Log: g.log}); err != nil {
		return err
	}
	g.driver, g.mig, g.cards = g.helper, g.helper, g.helper
	owner := nodes.New(nodes.Config{Log: g.log})
	keep.Host = sysfs.New(sysfs.Config{Log: g.log, Library: func() (path, version string) {
		if found := nvml.Find(root); len(found) > 0 {
			return found[0], nvml.LibraryVersion(found[0])
		}
		return "", ""
	}})
	keep.Driver, keep.Prepare, keep.Reset = g.helper, owner.Prepare, owner.Reset
	g.inventory, err = inventory.New(keep)
	return err
}

// look is the inventory's state as the agent sees it.
func (g *nodeGPUs) look() gpus.View {
	s := g.inventory.State()
	v := gpus.View{Machine: s.Machine, Allocatable: s.Allocatable}
	for _, c := range inventory.Conditions(s) {
		v.Conditions = append(v.Conditions, gpus.Conditioned(c.Type, c.Status, c.Reason, c.Message))
	}
	for _, f := range s.Findings {
		v.Findings = append(v.Findings, report.Finding(f))
	}
	for k, u := range s.Units {
		v.Units = append(v.Units, gpus.Unit{UUID: k.UUID, GI: k.GI, Draining: u.State == health.Draining, Evict: u.Evict, State: string(u.State), Sentence: u.Sentence(), Taints: u.Taints()})
	}
	v.XIDs = map[string]metrics.XIDs{}
	for uuid := range s.XIDs {
		last, counts := s.Lately(uuid, time.Now())
		v.XIDs[uuid] = metrics.XIDs{Last: last, Counts: counts}
	}
	slices.SortFunc(v.Units, func(a, b gpus.Unit) int { return cmp.Or(cmp.Compare(a.UUID, b.UUID), cmp.Compare(a.GI, b.GI)) })
	for _, n := range s.Notices {
		v.Notices = append(v.Notices, gpus.Notice{Seq: n.Seq, Type: n.Type, Reason: n.Reason, Message: n.Message})
	}
	return v
}

func (g *nodeGPUs) files(m device.Machine) (cdi.Files, error) {
	root := cmp.Or(m.Driver.Root, g.config.GPUDriverRoot, "/")
	w := cdi.Where{FS: os.DirFS(root), Root: root, Arch: runtime.GOARCH, Version: cmp.Or(m.Driver.Version, m.Module.Version), Integrated: m.Integrated()}
	if dir, err := filepath.Rel(root, filepath.Dir(m.Driver.Library)); err == nil && m.Driver.Library != "" && filepath.IsLocal(dir) {
		w.First = "/" + dir
	}
	return cdi.Find(w)
}

// figures reads all cards, and lets health look at them too.
func (g *nodeGPUs) figures(ctx context.Context) ([]device.Figures, error) {
	var cards []string
	for _, c := range g.inventory.State().Machine.GPUs {
		if c.UUID != "" {
			cards = append(cards, c.UUID)
		}
	}
	f, err := g.driver.Figures(ctx, cards...)
	if err != nil {
		return nil, err
	}
	return f, g.inventory.Observe(ctx, f)
}

// publish keeps the CDI file. Pods do without it.
func (g *nodeGPUs) publish(ctx context.Context) error {
	if err := g.provider.Publish(ctx, g.config.CDIDir); err != nil {
		g.log.Warn("no CDI file for other container engines", "err", err)
	}
	<-ctx.Done()
	return nil
}

func (g *nodeGPUs) use(ctx context.Context, card string) ([]device.Figures, []device.Process, error) {
	f, err := g.driver.Figures(ctx, card)
	if err != nil {
		return nil, nil, err
	}
	p, err := g.driver.Processes(ctx, card)
	return f, p, err
}

// record is the machine as it answers now, for a bug report.
func (g *nodeGPUs) record(ctx context.Context) (device.Recording, error) {
	rec, err := g.inventory.Record(ctx)
	rec.Taken, rec.By = time.Now().UTC().Format(time.RFC3339), "orch "+version
	return rec, err
}

// paths are those that the node's own API has for its GPUs.
func (g *nodeGPUs) paths() map[string]http.Handler {
	return map[string]http.Handler{
		report.Path:        http.HandlerFunc(g.page.ServeReport),
		report.RecordPath:  gpus.Recorder(g.record),
		report.MetricsPath: g.page,
	}
}

// partition keeps the cards as the node's label wishes. It alone waits for the server.
func (g *nodeGPUs) partition(ctx context.Context, node gpuNode, event func(eventType, reason, message string), podEvent func(api.MIGDemand, string, string)) error {
	wishes, err := node.wishes(ctx)
	if err != nil {
		return endOr(ctx, err)
	}
	return g.provider.Partition(ctx, gpus.Partition{
		Driver: g.mig, File: g.layouts, Ready: g.inventory.Ready(), Wish: node.wish, Wishes: wishes, State: node.state, Event: event,
		Reserve: g.devices.Reserve, Holdings: g.devices.Holdings, Promised: g.devices.Promised, Refresh: g.inventory.Refresh, Reset: g.inventory.ResetCard,
		Planner: gpus.Planner{Demand: node.demand, Potential: node.potential, PodEvent: podEvent},
	}, g.freed)
}

// claim puts the owner of pods' claims together; it asks the server for them.
func (g *nodeGPUs) claim(config nodeConfig, c *client.Client) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("reading which boot of the machine this is: %w", err)
	}
	g.bound = gpuNode{c, config.NodeName}.pods
	if g.drivers, err = newDrivers(config, c, g.log); err != nil {
		return err
	}
	g.claims, err = claims.New(claims.Config{
		Ledger: g.devices, Ready: g.inventory.Ready(), Boot: strings.TrimSpace(string(boot)), Log: g.log, Say: claims.Writer(c),
		Get: func(ctx context.Context, namespace, name string) (*resource.ResourceClaim, error) {
			return client.Get(ctx, c, api.ResourceClaims, namespace, name)
		},
		Driver: func(name string) (claims.Driver, bool) {
			d, ok := g.drivers.Driver(name)
			if !ok && name == api.GPUDriver { // NVIDIA's own takes the place of ours
				return gpus.Claims{GPUs: g.provider}, true
			}
			return d, ok
		},
	})
	return err
}

// publisher keeps the node's ResourceSlices.
func (g *nodeGPUs) publisher(c *client.Client, nodeName string) (*publish.Publisher, error) {
	others := func(resource string) bool { _, ok := g.plugins.Offer()[resource]; return ok }
	return publish.New(publish.Config{
		Driver: api.GPUDriver, Node: nodeName, Client: c, Ready: g.inventory.Ready(), Changed: g.devices.Changed, Log: g.log,
		Aside: func() bool { return g.drivers.Registered(api.GPUDriver) },
		Want:  func() []resource.ResourceSliceSpec { return g.provider.Slices(others) },
	})
}

// run keeps all of it going until ctx ends.
func (g *nodeGPUs) run(ctx context.Context, c *client.Client, nodeName string, pods *pods.Pods) error {
	recorder, err := events.New(events.Config{Client: c, Component: "orch-gpu", Host: nodeName})
	if err != nil {
		return err
	}
	ref := core.ObjectReference{Kind: "Node", APIVersion: "v1", Name: nodeName, UID: types.UID(nodeName)}
	care := gpus.Care{
		Drained: func(ctx context.Context, uuid string, gi int) error {
			return g.inventory.Drained(ctx, inventory.Key{UUID: uuid, GI: gi})
		},
		Holdings: g.devices.Holdings,
		Event:    func(t, reason, message string) { recorder.EventAt(ref, t, reason, message) },
		Evict: func(ctx context.Context, h devices.Holding, why string) error {
			pod := core.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: h.Namespace, Name: h.Pod, UID: h.UID}
			recorder.EventAt(pod, core.EventTypeWarning, "GPUFailed", "Evicted: "+why)
			err := client.Delete(ctx, c, api.Pods, h.Namespace, h.Pod, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &h.UID}})
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another of that name
				return nil
			}
			return err
		},
	}
	podEvent := func(d api.MIGDemand, reason, message string) {
		recorder.EventAt(core.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: d.Namespace, Name: d.Pod, UID: d.UID}, core.EventTypeNormal, reason, message)
	}
	slices, err := g.publisher(c, nodeName)
	if err != nil {
		return err
	}
	parts := []func(context.Context) error{
		slices.Run, g.claims.Run, g.drivers.Run,
		func(ctx context.Context) error { return follow(ctx, g.drivers, g.provider.Tell) },
		func(ctx context.Context) error { return g.partition(ctx, gpuNode{c, nodeName}, care.Event, podEvent) },
		g.inventory.Run, g.provider.Run, g.publish, g.devices.Run, recorder.Run,
		func(ctx context.Context) error { return g.plugins.run(ctx, care.Event) },
		func(ctx context.Context) error { return g.provider.Tend(ctx, care, g.released) },
		g.mps.Run, func(ctx context.Context) error { return g.keep(ctx, recorder, pods) },
		func(ctx context.Context) error { return g.page.Serve(ctx, g.config.GPUMetrics) },
		func(ctx context.Context) error { return g.page.ServeLocal(ctx, g.socket, g.paths()) },
	}
	if g.helper != nil {
		parts = append(parts, g.helper.Run)
	}
	return both(parts...)(ctx)
}
