package pods

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/pods/plan"
	"orch/runtime/engine"
)

const (
	// afterHook is the least that a process gets after its preStop hook used the
	// grace up (upstream's minimumGracePeriodInSeconds).
	afterHook = 2 * time.Second
	// killAgain is how long SIGKILL may take before the container is looked at and
	// killed again.
	killAgain = 10 * time.Second
	// stopSignal has the engine send what the pod or its image asks for, else SIGTERM.
	stopSignal = 0
)

// killing ends one running container.
type killing struct {
	p        *Pods
	pod      *core.Pod
	named    plan.Named
	id       string
	deadline time.Time
	hurry    <-chan time.Time
	// ended is closed when the worker has seen the container's end.
	ended <-chan struct{}
	// gone tells the worker of an end that no event announced.
	gone func(end)
	// target lets hooks reach the container.
	hooks *hooks
}

// kill begins to end a container.
func (w *worker) kill(ctx context.Context, a plan.Action, now time.Time) {
	named, _ := plan.Find(w.pod, a.Container)
	c := w.container(a.Container)
	message := a.Message
	if message == "" {
		message = "Stopping container " + a.Container
	}
	w.containerEvent(a.Container, core.EventTypeNormal, "Killing", message)
	c.Restart = a.Restart
	if c.Current.State == engine.Created { // left over: it was never started
		c.Stopped, c.Current = true, nil
		return
	}
	c.Busy, c.Stopped = plan.Killing, w.stop != nil || a.Reason == plan.ReasonStopping
	if a.Reason == plan.ReasonStopping || !a.Restart {
		c.Stopped = true
	}
	opCtx, cancel := context.WithCancel(ctx)
	op := &operation{cancel: cancel, hurry: make(chan time.Time, 1), began: now}
	w.ops[a.Container] = op
	k := &killing{
		p: w.p, pod: w.pod, named: named, id: c.Current.ID, deadline: now.Add(a.Grace), hurry: op.hurry,
		ended: w.ending(c.Current.ID), gone: func(e end) { w.box.post(func() { w.exited(e) }) }, hooks: w.hooksFor(named, c.Current.ID),
	}
	w.p.wg.Go(func() {
		k.run(opCtx)
		cancel()
		w.box.post(func() {
			if w.ops[a.Container] == op {
				delete(w.ops, a.Container)
				c.Busy = plan.Idle
			}
		})
	})
}

// run: preStop, the stop signal, and SIGKILL at the deadline.
func (k *killing) run(ctx context.Context) {
	if l := k.named.Lifecycle; l != nil && l.PreStop != nil && time.Until(k.deadline) > 0 {
		if !k.preStop(ctx, l.PreStop) {
			return
		}
	}
	if err := k.p.Engine.Signal(ctx, k.id, stopSignal, false); err != nil && !k.isOver(err) && ctx.Err() == nil {
		k.p.Log.Warn("signalling a container failed", "container", k.id, "err", err)
	}
	for {
		t := time.NewTimer(time.Until(k.deadline))
		select {
		case <-k.ended:
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		case at := <-k.hurry:
			t.Stop()
			k.deadline = earlier(k.deadline, at)
			continue
		case <-t.C:
		}
		break
	}
	for ctx.Err() == nil {
		if err := k.p.Engine.Signal(ctx, k.id, int(unix.SIGKILL), true); err != nil && !k.isOver(err) && ctx.Err() == nil {
			k.p.Log.Warn("killing a container failed", "container", k.id, "err", err)
		}
		t := time.NewTimer(killAgain)
		select {
		case <-k.ended:
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
			k.look(ctx)
		}
	}
}

// isOver tells whether an error only says that there is nothing left to signal. The
// exit event is on its way then; if it is not, look finds out.
func (k *killing) isOver(err error) bool {
	return errors.Is(err, engine.ErrNotRunning) || errors.Is(err, engine.ErrNotFound)
}

// look asks the engine, when no event has come for too long.
func (k *killing) look(ctx context.Context) {
	c, err := k.p.Engine.Inspect(ctx, k.id)
	switch {
	case errors.Is(err, engine.ErrNotFound):
		k.gone(end{id: k.id, exitCode: 137, reason: "ContainerStatusUnknown", at: time.Now(),
			message: "The container could not be located when the pod was terminated"})
	case err == nil && c.State == engine.Exited:
		k.gone(k.p.endOf(c))
	}
}

// preStop runs the hook within the grace; false if the container ended meanwhile.
func (k *killing) preStop(ctx context.Context, h *core.LifecycleHandler) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	k.p.wg.Go(func() { done <- k.hooks.run(ctx, h) })
	over := time.NewTimer(time.Until(k.deadline))
	defer over.Stop()
	for waiting := true; waiting; {
		select {
		case <-k.ended:
			return false
		case at := <-k.hurry:
			k.deadline = earlier(k.deadline, at)
			over.Reset(time.Until(k.deadline))
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				k.p.Events.EventAt(k.p.reference(k.pod, fieldPath(k.pod, k.named.Name)), core.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
				k.p.Log.Debug("preStop hook failed", "pod", k.pod.Name, "container", k.named.Name, "err", err)
			}
			waiting = false
		case <-over.C:
			waiting = false
		case <-ctx.Done():
			return false
		}
	}
	if least := time.Now().Add(afterHook); k.deadline.Before(least) {
		k.deadline = least
	}
	return true
}

// postStart runs the hook of a container that has just started. When it fails the
// container is ended.
func (s *starting) postStart(ctx context.Context, i plan.Instance) *failure {
	l := s.named.Lifecycle
	if l == nil || l.PostStart == nil {
		return nil
	}
	h := &hooks{p: s.p, pod: s.pod, named: s.named, id: i.ID, sandbox: s.sandbox}
	err := h.run(ctx, l.PostStart)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	s.event(core.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	s.event(core.EventTypeNormal, "Killing", "FailedPostStartHook")
	if kerr := s.p.Engine.Signal(ctx, i.ID, int(unix.SIGKILL), true); kerr != nil {
		s.p.Log.Warn("killing a container after its postStart hook failed", "container", i.ID, "err", kerr)
	}
	return &failure{reason: "PostStartHookError", message: fmt.Sprintf("PostStartHook failed: %v", err), ran: true}
}

// End kills a running container at once for something that it did; its status has reason
// and message. Whether it starts again is the pod's to say.
func (p *Pods) End(uid types.UID, id, reason, message string) {
	p.mu.Lock()
	w := p.workers[uid]
	p.mu.Unlock()
	if w == nil {
		return
	}
	w.box.post(func() { w.fell(end{id: id, reason: reason, message: message}) })
}

func (w *worker) fell(why end) {
	for name, c := range w.containers {
		if !c.Running() || c.Current.ID != why.id {
			continue
		}
		w.felled[why.id] = why
		w.containerEvent(name, core.EventTypeWarning, why.reason, why.message)
		w.p.wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), killAgain)
			defer cancel()
			if err := w.p.Engine.Signal(ctx, why.id, int(unix.SIGKILL), true); err != nil && !errors.Is(err, engine.ErrNotFound) && !errors.Is(err, engine.ErrNotRunning) {
				w.p.Log.Warn("killing a container failed", "container", why.id, "err", err)
			}
		})
	}
}
