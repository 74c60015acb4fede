// Package pods runs the pods of this node: a goroutine per pod (worker.go) keeps
// what is known of it, asks the pure package plan what is next, has that done by
// operations of their own goroutines (setup.go, start.go, kill.go, teardown.go),
// and reports the status. Operations never touch a worker's state: they post
// their outcome to its mailbox. It refuses to know networks, volumes and
// runtimes but by their interfaces. Start reading at Pods.Run, then worker.step;
// build.go is what a container is made of, files.go where a pod's files lie.
package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/cgroup"
	"orch/agent/host"
	"orch/agent/image"
	"orch/agent/pods/spec"
	"orch/agent/pods/status"
	"orch/agent/report"
	"orch/api"
	"orch/api/client"
	"orch/runtime/engine"
)

// Config is read-only after New.
type Config struct {
	NodeName string
	// HostIPs are the node's addresses, the primary one first.
	HostIPs []string
	// RootDir holds pod directories (/var/lib/kubelet), RunDir what ends with a reboot.
	RootDir, RunDir string
	// LogDir gets <namespace>_<name>_<uid>/<container>/<attempt>.log, LinkDir links to those.
	LogDir, LinkDir string
	// PauseDir gets the program that holds shared PID namespaces; programs may be run from it.
	PauseDir     string
	DNS          spec.DNS
	PodPidsLimit int64
	LogMaxBytes  int64
	LogMaxFiles  int
	// OOMFloor is the lowest oom_score_adj that can be set.
	OOMFloor int
	// ParallelStarts bounds how many containers are made at a time.
	ParallelStarts int
}

// Recorder writes events.
type Recorder interface {
	EventAt(ref core.ObjectReference, eventType, reason, message string)
}

// Admit says why a pod cannot run here, given those that do; nil if it can.
type Admit func(pod *core.Pod, running []*core.Pod) *status.Verdict

// Deps are what the pods are run with.
type Deps struct {
	Client     *client.Client
	Engine     engine.Engine
	Network    host.PodNetwork
	Namespaces host.Namespaces
	Volumes    host.Volumes
	// Devices gives pods what they ask for as extended resources; nil where there is nothing.
	Devices host.Devices
	Cgroups *cgroup.Tree
	Puller  *image.Puller
	Events  Recorder
	Admit   Admit
	// Allocatable is what the node has for pods, MemoryCapacity all its memory.
	Allocatable    func() core.ResourceList
	MemoryCapacity int64
	Log            *slog.Logger
}

// Pods are the pods of this node.
type Pods struct {
	config Config
	Deps
	runtime string // scheme of container IDs
	writer  *report.Writer
	starts  chan struct{}
	synced  chan struct{}
	// kept is closed once the network dropped what pods that are gone held: no pod
	// joins it before.
	kept chan struct{}

	places places

	// mu guards the maps; workers are entered and left by it, nothing else.
	mu      sync.Mutex
	workers map[types.UID]*worker
	byName  map[types.NamespacedName]types.UID
	wg      sync.WaitGroup
}

// New checks what it gets.
func New(c Config, d Deps) (*Pods, error) {
	switch {
	case c.NodeName == "" || c.RootDir == "" || c.RunDir == "" || c.LogDir == "":
		return nil, errors.New("making the pods of a node: the node's name or a directory is missing")
	case d.Client == nil || d.Engine == nil || d.Network == nil || d.Namespaces == nil || d.Volumes == nil || d.Cgroups == nil || d.Puller == nil || d.Events == nil || d.Log == nil:
		return nil, errors.New("making the pods of a node: a dependency is missing")
	}
	if c.PauseDir == "" {
		c.PauseDir = filepath.Join(c.RootDir, "pause")
	}
	if c.ParallelStarts <= 0 {
		c.ParallelStarts = 8
	}
	return &Pods{
		config: c, Deps: d, runtime: runtimeName(d.Engine.Version()),
		starts: make(chan struct{}, c.ParallelStarts), synced: make(chan struct{}), kept: make(chan struct{}), places: newPlaces(),
		workers: map[types.UID]*worker{}, byName: map[types.NamespacedName]types.UID{},
	}, nil
}

// Synced is closed once the pods that were there at the start are taken up.
func (p *Pods) Synced() <-chan struct{} { return p.synced }

// Run takes up the pods of this node and those that come until ctx ends; then it
// leaves their containers alone and returns.
func (p *Pods) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer p.wg.Wait()
	defer cancel()
	p.writer = report.New(ctx, p.Client, p.Log)
	events := p.Engine.Events(ctx)
	left, err := p.find(ctx)
	if err != nil {
		return fmt.Errorf("taking up pods: %w", err)
	}
	taken := map[types.UID]bool{}
	var first sync.Mutex // the initial content and later changes come from different goroutines
	err = p.Client.Subscribe(ctx, api.Pods.Facts, func(c client.Change) {
		first.Lock()
		defer first.Unlock()
		if pod, ok := c.New.(*core.Pod); ok && taken != nil {
			taken[pod.UID] = true
		}
		p.change(ctx, c, left)
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watching the pods of the node: %w", err)
	}
	first.Lock()
	initial := taken
	taken = nil
	first.Unlock()
	live := p.orphans(ctx, left, initial)
	p.wg.Go(func() { p.keep(ctx, live) })
	if p.Devices != nil {
		p.wg.Go(func() { p.followDevices(ctx) })
	}
	close(p.synced)
	for e := range events {
		p.event(ctx, e)
	}
	<-ctx.Done()
	return nil
}

// change routes one change of a pod to its worker.
func (p *Pods) change(ctx context.Context, c client.Change, left map[types.UID]*remains) {
	if old, ok := c.Old.(*core.Pod); ok {
		pod, _ := c.New.(*core.Pod)
		if pod == nil || pod.UID != old.UID {
			p.removed(old)
		}
	}
	pod, ok := c.New.(*core.Pod)
	if !ok || pod.Spec.NodeName != p.config.NodeName {
		return
	}
	p.mu.Lock()
	w := p.workers[pod.UID]
	if w == nil {
		if ctx.Err() != nil {
			p.mu.Unlock()
			return
		}
		w = newWorker(p, pod)
		if r := left[pod.UID]; r != nil {
			w.adopt(r)
		}
		p.enterLocked(ctx, w)
	}
	p.mu.Unlock()
	w.box.post(func() { w.observe(pod) })
}

// followDevices makes pods that hold devices report how those are.
func (p *Pods) followDevices(ctx context.Context) {
	for {
		changed := p.Devices.Changed()
		p.mu.Lock()
		workers := maps.Clone(p.workers)
		p.mu.Unlock()
		for uid, w := range workers {
			if len(p.Devices.Status(uid)) > 0 {
				w.box.post(func() {})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// enterLocked makes a worker known and lets it run.
func (p *Pods) enterLocked(ctx context.Context, w *worker) {
	w.show()
	p.workers[w.pod.UID] = w
	p.byName[types.NamespacedName{Namespace: w.pod.Namespace, Name: w.pod.Name}] = w.pod.UID
	p.wg.Go(func() {
		w.run(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		if ctx.Err() == nil {
			p.writer.Forget(w.pod.UID)
		}
		delete(p.workers, w.pod.UID)
		if key := (types.NamespacedName{Namespace: w.pod.Namespace, Name: w.pod.Name}); p.byName[key] == w.pod.UID {
			delete(p.byName, key)
		}
	})
}

// removed tells a worker that its object is gone.
func (p *Pods) removed(pod *core.Pod) {
	p.mu.Lock()
	w := p.workers[pod.UID]
	p.mu.Unlock()
	if w != nil {
		p.leaves(pod.UID)
		w.box.post(func() { w.objectGone(pod) })
	}
}

// event routes one event of the engine. What an exit left behind is looked at
// here, so that the worker need not wait for it.
func (p *Pods) event(ctx context.Context, e engine.Event) {
	if e.Kind != "exit" {
		return
	}
	p.mu.Lock()
	w := p.workers[types.UID(e.Pod)]
	p.mu.Unlock()
	if w == nil {
		return
	}
	p.wg.Go(func() {
		end := p.inspectEnd(ctx, e)
		w.box.post(func() { w.exited(end) })
	})
}

// reference is what events of a pod or of one of its containers are about.
func (p *Pods) reference(pod *core.Pod, fieldPath string) core.ObjectReference {
	return core.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		ResourceVersion: pod.ResourceVersion, FieldPath: fieldPath,
	}
}

// mailbox carries what others have to say to a worker, in order. It is bounded by
// the operations of one pod and the changes of one object.
type mailbox struct {
	mu   sync.Mutex
	list []func()
	wake chan struct{}
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

func (m *mailbox) post(f func()) {
	m.mu.Lock()
	m.list = append(m.list, f)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.list
	m.list = nil
	return l
}

// after is a timer that may be off.
func after(at, now time.Time) (<-chan time.Time, func()) {
	if at.IsZero() {
		return nil, func() {}
	}
	t := time.NewTimer(max(0, at.Sub(now)))
	return t.C, func() { t.Stop() }
}
