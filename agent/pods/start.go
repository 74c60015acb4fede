package pods

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
	"orch/agent/image"
	"orch/agent/pause"
	"orch/agent/pods/plan"
	"orch/agent/pods/spec"
	"orch/agent/pods/status"
	"orch/api"
	"orch/api/client"
	"orch/runtime/engine"
)

// starting is one attempt to start a container: what the operation needs, copied
// from the worker, and how it tells of progress.
type starting struct {
	p       *Pods
	box     *mailbox
	sandbox *sandbox
	pod     *core.Pod
	named   plan.Named
	attempt int
	// stale are containers of earlier attempts to be removed.
	stale []string
	event func(eventType, reason, message string)
	// volumes are the images that the container mounts, by the volume's name.
	volumes map[string]engine.Image
	// pid is the PID namespace: "host", a path, or empty for one of its own.
	pid string
	// made is what the container's devices want done before its process runs.
	made []func(ctx context.Context, cgroup string) error
	// created and running report to the worker.
	created, running func(plan.Instance)
}

// failure is why a start did not succeed, as the status says it.
type failure struct {
	reason, message string
	// image is the one that could not be had.
	image string
	// ran is true when the container was made and counts as an attempt.
	ran bool
}

// start begins the next attempt of a container.
func (w *worker) start(ctx context.Context, a plan.Action, now time.Time) {
	named, _ := plan.Find(w.pod, a.Container)
	c := w.container(a.Container)
	var stale []string
	if c.Ended() {
		c.Crash = c.Crash.Next(now)
		if c.Last != nil {
			stale = append(stale, c.Last.ID)
		}
		c.Last, c.Current = c.Current, nil
	}
	c.Busy, c.Restart, c.Waiting = plan.Starting, false, plan.Waiting{}
	c.Startup, c.Liveness, c.Readiness = plan.Unknown, plan.Unknown, plan.Unknown
	delete(w.backoffs, a.Container)

	opCtx, cancel := context.WithCancel(ctx)
	op := &operation{cancel: cancel, hurry: make(chan time.Time, 1), began: now}
	w.ops[a.Container] = op
	s := &starting{
		p: w.p, box: w.box, sandbox: w.sandbox, pod: w.pod, named: named, attempt: a.Attempt, stale: stale, pid: w.pidNamespace(a.Container),
		created: func(i plan.Instance) { w.box.post(func() { w.created(c, i) }) },
		running: func(i plan.Instance) { w.box.post(func() { w.started(c, i) }) },
	}
	pod := w.pod // events of the operation speak of the pod as it was
	s.event = func(t, reason, message string) {
		w.p.Events.EventAt(w.p.reference(pod, fieldPath(pod, named.Name)), t, reason, message)
	}
	w.p.wg.Go(func() {
		f := s.run(opCtx)
		cancel()
		w.box.post(func() { w.startEnded(a.Container, op, f) })
	})
}

// pidNamespace is whose processes a container sees: its own, the host's, or, for a
// debugger, those of the container it looks into.
func (w *worker) pidNamespace(name string) string {
	if w.pod.Spec.HostPID {
		return "host"
	}
	for _, e := range w.pod.Spec.EphemeralContainers {
		if e.Name != name || e.TargetContainerName == "" {
			continue
		}
		if c := w.containers[e.TargetContainerName]; c.Running() && c.Current.PID > 0 {
			return fmt.Sprintf("/proc/%d/ns/pid", c.Current.PID)
		}
	}
	return ""
}

func (w *worker) created(c *plan.Container, i plan.Instance) {
	c.Current, c.NextAttempt = &i, i.Attempt+1
}

// started is told once the process runs. The exit may have come first.
func (w *worker) started(c *plan.Container, i plan.Instance) {
	if c.Current == nil || c.Current.ID != i.ID || c.Current.State == engine.Exited {
		return
	}
	c.Current = &i
	c.PullDelay, c.StartDelay = 0, 0
	if i.Hooked {
		c.Busy = plan.Idle // the rest of the operation does not matter to the plan
	}
}

// startEnded settles the outcome of a start operation.
func (w *worker) startEnded(name string, op *operation, f *failure) {
	c := w.container(name)
	if w.ops[name] == op {
		delete(w.ops, name)
		c.Busy = plan.Idle
	}
	if f == nil {
		if c.Running() {
			c.Current.Hooked = true
		}
		return
	}
	now := time.Now()
	if f.reason == "" { // given up: the pod is stopped or the agent ends
		if c.Current != nil && c.Current.State == engine.Created {
			c.Current = nil
		}
		return
	}
	c.Waiting = plan.Waiting{Reason: f.reason, Message: f.message}
	if f.ran {
		return
	}
	if c.Current != nil && c.Current.State == engine.Created {
		c.Current = nil
	}
	if isPull(f.reason) {
		c.PullDelay = plan.Grow(c.PullDelay)
		c.NotBefore = now.Add(c.PullDelay)
		w.pullBackoff(name, c, f)
		return
	}
	c.StartDelay = min(max(time.Second, 2*c.StartDelay), 10*time.Second)
	c.NotBefore = now.Add(c.StartDelay)
}

func isPull(reason string) bool {
	switch reason {
	case image.ErrImagePull, image.ErrImageNeverPull, image.InvalidImageName, image.ImageInspectError:
		return true
	}
	return false
}

// showPullError is how long ErrImagePull stays before ImagePullBackOff replaces it.
const showPullError = 2 * time.Second

func (w *worker) pullBackoff(name string, c *plan.Container, f *failure) {
	if f.reason != image.ErrImagePull {
		return
	}
	until, img := c.NotBefore, f.image
	box := w.box
	time.AfterFunc(min(showPullError, c.PullDelay/2), func() {
		box.post(func() {
			if c.NotBefore.Equal(until) && c.Busy == plan.Idle && c.Waiting.Reason == image.ErrImagePull && w.stop == nil {
				text := fmt.Sprintf("Back-off pulling image %q", img)
				c.Waiting = plan.Waiting{Reason: status.ImagePullBackOff, Message: text + ": " + image.ErrImagePull + ": " + f.message}
				w.containerEvent(name, core.EventTypeNormal, "BackOff", text)
				w.containerEvent(name, core.EventTypeWarning, "Failed", "Error: "+status.ImagePullBackOff)
			}
		})
	})
}

// run is the operation. It returns nil, or why the container does not run; an
// empty reason means that ctx ended.
func (s *starting) run(ctx context.Context) *failure {
	if f := s.imageVolumes(ctx); f != nil {
		return f
	}
	img, f := s.image(ctx, s.named.Image, s.named.ImagePullPolicy, s.event)
	if f != nil {
		return f
	}
	if !await(ctx, s.sandbox.base) || spec.Refers(s.named.Container) && !await(ctx, s.sandbox.net) {
		return &failure{}
	}
	select {
	case s.p.starts <- struct{}{}:
	case <-ctx.Done():
		return &failure{}
	}
	i, f := s.makeAndStart(ctx, img)
	<-s.p.starts
	if f != nil {
		return f
	}
	for _, id := range s.stale {
		if err := s.p.Engine.Remove(ctx, id); err != nil && ctx.Err() == nil {
			s.p.Log.Warn("removing an old container failed", "container", id, "err", err)
		}
	}
	return s.postStart(ctx, i)
}

func await(ctx context.Context, c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

// makeAndStart makes the container and lets it run once the network is there.
func (s *starting) makeAndStart(ctx context.Context, img engine.Image) (plan.Instance, *failure) {
	i := plan.Instance{
		ID: newID(), Attempt: s.attempt, State: engine.Created, Image: s.named.Image, ImageRef: imageRef(img),
		Hash: plan.Hash(s.named.Container), Resources: s.named.Resources.DeepCopy(), CreatedAt: time.Now(),
	}
	es, err := s.build(ctx, i.ID, img)
	if err != nil {
		if ctx.Err() != nil {
			return i, &failure{}
		}
		s.event(core.EventTypeWarning, "Failed", "Error: "+err.Error())
		f := &failure{reason: status.CreateConfigError, message: err.Error()}
		if errors.As(err, &mountFailure{}) {
			f.reason = status.CreateError
		}
		return i, f
	}
	if err := s.p.Engine.Create(ctx, es); err != nil {
		if ctx.Err() != nil {
			s.discard(i.ID)
			return i, &failure{}
		}
		if errors.Is(err, engine.ErrProcess) {
			return i, s.startFailure(ctx, i, err)
		}
		s.event(core.EventTypeWarning, "Failed", "Error: "+err.Error())
		return i, &failure{reason: status.CreateError, message: err.Error()}
	}
	s.created(i)
	s.event(core.EventTypeNormal, "Created", "Container created")
	if !await(ctx, s.sandbox.net) {
		s.discard(i.ID)
		return i, &failure{}
	}
	if err := s.beforeRun(ctx, es.CgroupPath); err != nil {
		if ctx.Err() != nil {
			s.discard(i.ID)
			return i, &failure{}
		}
		return i, s.startFailure(ctx, i, err)
	}
	if i.PID, err = s.p.Engine.Start(ctx, i.ID); err != nil {
		return i, s.startFailure(ctx, i, err)
	}
	s.link(i.ID, es.LogPath)
	i.State, i.StartedAt = engine.Running, time.Now()
	i.Hooked = s.named.Lifecycle == nil || s.named.Lifecycle.PostStart == nil
	s.running(i)
	s.event(core.EventTypeNormal, "Started", "Container started")
	return i, nil
}

// beforeRun does what the container's devices want done with its cgroup.
func (s *starting) beforeRun(ctx context.Context, path string) error {
	for _, made := range s.made {
		if err := made(ctx, s.p.Cgroups.Dir(path)); err != nil {
			return err
		}
	}
	return nil
}

// discard removes a container that will not be started; ctx has ended.
func (s *starting) discard(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.p.Engine.Remove(ctx, id); err != nil {
		s.p.Log.Warn("removing a container that was not started failed", "container", id, "err", err)
	}
}

// startFailure makes a container whose process could not be started look as upstream's
// runtimes leave it: exited with 128.
func (s *starting) startFailure(ctx context.Context, i plan.Instance, err error) *failure {
	if ctx.Err() != nil {
		s.discard(i.ID)
		return &failure{}
	}
	s.event(core.EventTypeWarning, "Failed", "Error: "+err.Error())
	i.State, i.ExitCode, i.Reason, i.Message = engine.Exited, 128, "StartError", err.Error()
	i.StartedAt, i.FinishedAt = time.Unix(0, 0), time.Now() // as the CRI says "never"
	s.created(i)
	return &failure{reason: status.RunError, message: err.Error(), ran: true}
}

func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// imageRef is what status.imageID shows: a digest reference if there is one.
func imageRef(img engine.Image) string {
	if len(img.Digests) > 0 {
		return img.Digests[0]
	}
	return img.ID
}

func trimScheme(id string) string {
	_, after, ok := strings.Cut(id, "://")
	if !ok {
		return id
	}
	return after
}

func runtimeName(version string) string {
	name, _, _ := strings.Cut(version, "://")
	return name
}

// build gathers what the container's spec depends on.
func (s *starting) build(ctx context.Context, id string, img engine.Image) (engine.Spec, error) {
	p := s.p
	var err error
	_, ips := s.sandbox.state()
	in := spec.Input{
		Pod: s.pod, Container: s.named.Container, Role: s.named.Role, Attempt: s.attempt, ID: id, Image: img,
		Objects: objects{ctx, p.Client}, Services: p.services(s.pod.Namespace),
		PodIPs: ips, HostIPs: p.config.HostIPs, Allocatable: p.Allocatable(), MemoryCapacity: p.MemoryCapacity,
		Sandbox: s.sandbox.Sandbox, Volumes: map[string]host.Mounted{}, SubPaths: map[int]string{},
		CgroupPath: p.Cgroups.PodPath(s.sandbox.class, s.pod.UID), CgroupV2: p.Cgroups.V2(), PidsLimit: p.config.PodPidsLimit,
		OOMFloor: p.config.OOMFloor, SeccompDir: filepath.Join(p.config.RootDir, "seccomp"),
		LogPath: p.logPath(s.pod, s.named.Name, s.attempt), LogBytes: p.config.LogMaxBytes, LogFiles: p.config.LogMaxFiles,
	}
	maps.Copy(in.Volumes, s.sandbox.volumes)
	if in.PIDNamespace, err = s.pidNamespace(); err != nil {
		return engine.Spec{}, err
	}
	if in.Files, err = s.mounts(id); err != nil {
		return engine.Spec{}, err
	}
	if err := s.placeVolumes(ctx, &in); err != nil {
		return engine.Spec{}, err
	}
	if p.Devices != nil {
		if in.Devices, err = p.Devices.Edits(ctx, host.DeviceHolder{Pod: s.pod, Container: s.named.Container, Image: img}); err != nil {
			return engine.Spec{}, err
		}
		s.made = in.Devices.Made
	}
	if err := os.MkdirAll(filepath.Dir(in.LogPath), 0o755); err != nil {
		return engine.Spec{}, fmt.Errorf("making the log directory: %w", err)
	}
	return spec.Build(in)
}

// pidNamespace makes the namespace of a pod that shares its processes.
func (s *starting) pidNamespace() (string, error) {
	if s.pid != "" || s.pod.Spec.ShareProcessNamespace == nil || !*s.pod.Spec.ShareProcessNamespace {
		return s.pid, nil
	}
	s.sandbox.pauseMu.Lock()
	defer s.sandbox.pauseMu.Unlock()
	pin := s.p.pausePin(s.pod.UID)
	pid, err := pause.Start(s.p.config.PauseDir, pin)
	if err != nil {
		return "", err
	}
	return pin, s.p.Cgroups.Join(s.p.Cgroups.PodPath(s.sandbox.class, s.pod.UID), "pause", pid)
}

// pausePin is where the PID namespace of a pod is pinned, if it has one.
func (p *Pods) pausePin(uid types.UID) string {
	return filepath.Join(p.config.RunDir, "ns", string(uid), "pid")
}

// mounts are the files that the agent brings into every container.
func (s *starting) mounts(id string) ([]engine.Mount, error) {
	f := s.sandbox.files
	words := s.p.messageFile(s.pod, s.named.Name, id)
	if err := os.MkdirAll(filepath.Dir(words), 0o750); err != nil {
		return nil, fmt.Errorf("making the container's directory: %w", err)
	}
	if err := os.WriteFile(words, nil, 0o666); err != nil {
		return nil, fmt.Errorf("making the termination message file: %w", err)
	}
	if err := os.Chmod(words, 0o666); err != nil { // whatever the umask says
		return nil, fmt.Errorf("making the termination message file: %w", err)
	}
	readOnly := s.named.SecurityContext != nil && s.named.SecurityContext.ReadOnlyRootFilesystem != nil && *s.named.SecurityContext.ReadOnlyRootFilesystem
	return []engine.Mount{
		{Type: "bind", Source: f.hosts, Target: "/etc/hosts", ReadOnly: readOnly},
		{Type: "bind", Source: f.hostname, Target: "/etc/hostname", ReadOnly: readOnly},
		{Type: "bind", Source: f.resolv, Target: "/etc/resolv.conf", ReadOnly: readOnly},
		{Type: "bind", Source: f.shm, Target: "/dev/shm"},
		{Type: "bind", Source: words, Target: spec.MessagePath(s.named.Container)},
	}, nil
}

// services are those that environments name.
func (p *Pods) services(namespace string) []*core.Service {
	out := client.CachedList(p.Client, api.Services, namespace, nil)
	if s := client.Cached(p.Client, api.Services, api.NamespaceDefault, api.KubernetesService); s != nil && namespace != api.NamespaceDefault {
		out = append(out, s)
	}
	return out
}

// auths reads the pod's pull secrets. Missing ones are skipped, as upstream does.
func (p *Pods) auths(ctx context.Context, pod *core.Pod, ref string) []engine.Auth {
	var secrets []*core.Secret
	for _, r := range pod.Spec.ImagePullSecrets {
		s, err := client.Get(ctx, p.Client, api.Secrets, pod.Namespace, r.Name)
		if err != nil {
			p.Events.EventAt(p.reference(pod, ""), core.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", r.Name))
			continue
		}
		secrets = append(secrets, s)
	}
	auths, err := image.Auths(ref, secrets)
	if err != nil {
		p.Log.Warn("reading pull secrets failed", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
	}
	return auths
}

// objects reads from the API server, within the operation's context.
type objects struct {
	ctx context.Context
	c   *client.Client
}

func (o objects) ConfigMap(namespace, name string) (*core.ConfigMap, error) {
	return client.Get(o.ctx, o.c, api.ConfigMaps, namespace, name)
}

func (o objects) Secret(namespace, name string) (*core.Secret, error) {
	return client.Get(o.ctx, o.c, api.Secrets, namespace, name)
}

// logPath is where a container's output goes, as upstream lays it out.
func (p *Pods) logPath(pod *core.Pod, container string, attempt int) string {
	return filepath.Join(p.logDir(pod), container, fmt.Sprintf("%d.log", attempt))
}

func (p *Pods) logDir(pod *core.Pod) string {
	return filepath.Join(p.config.LogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// link puts the name that log collectors look for beside the log.
func (s *starting) link(id, logPath string) {
	if s.p.config.LinkDir == "" {
		return
	}
	name := filepath.Join(s.p.config.LinkDir, s.p.linkName(&s.pod.ObjectMeta, s.named.Name, id))
	if err := os.Symlink(logPath, name); err != nil && !errors.Is(err, os.ErrExist) {
		s.p.Log.Warn("linking a container's log failed", "link", name, "err", err)
	}
}

func (p *Pods) linkName(pod *metav1.ObjectMeta, container, id string) string {
	return pod.Name + "_" + pod.Namespace + "_" + container + "-" + id + ".log"
}

// messageFile is mounted where the container leaves its last words.
func (p *Pods) messageFile(pod *core.Pod, container, id string) string {
	return filepath.Join(p.podDir(string(pod.UID)), "containers", container, id[:8])
}
