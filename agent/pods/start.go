package pods

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/image"
	"orch/agent/pods/plan"
	"orch/agent/pods/spec"
	"orch/agent/pods/status"
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
