package pods

import (
	"context"
	"maps"
	"slices"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/pods/plan"
	"orch/agent/pods/spec"
	"orch/agent/pods/status"
)

const (
	// resizeRetry is the wait after a change of limits that failed, as when a container uses more
	// memory than it is to have; deferRetry that of a pod that waits for room on its node.
	resizeRetry = 10 * time.Second
	deferRetry  = time.Minute
)

// readmit decides whether the node has room for a pod that is to be resized. What
// it runs with stays when it has not: for now, or for ever where it is too big for the node.
func (p *Pods) readmit(pod *core.Pod) *status.Refusal {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	if p.Admit == nil {
		return nil
	}
	others := slices.DeleteFunc(slices.Collect(maps.Values(p.places.admitted)), func(o *core.Pod) bool { return o.UID == pod.UID })
	v := p.Admit(pod, others)
	if v == nil {
		p.places.admitted[pod.UID] = pod
		return nil
	}
	r := &status.Refusal{Reason: core.PodReasonDeferred, Message: v.Message}
	if p.Admit(pod, nil) != nil {
		r.Reason = core.PodReasonInfeasible
	}
	return r
}

// fit asks whether the pod may have what its spec says, when that has changed or
// when it is time to ask again.
func (w *worker) fit(now time.Time) time.Time {
	if !w.view(now).Resizing() {
		w.unfit = nil
		return time.Time{}
	}
	if w.unfit != nil && w.unfitAt == w.pod.Generation && now.Before(w.askAgain) {
		return w.askAgain
	}
	was := w.unfit
	w.unfit, w.unfitAt, w.askAgain = w.p.readmit(w.pod), w.pod.Generation, now.Add(deferRetry)
	if w.unfit == nil {
		return time.Time{}
	}
	if was == nil || was.Reason != w.unfit.Reason {
		w.event(core.EventTypeWarning, "Resize"+w.unfit.Reason, "Pod resize "+w.unfit.Reason+": "+w.unfit.Message)
	}
	return w.askAgain
}

// resize changes the limits of a running container, those of the pod around it first, or last where
// they become smaller.
func (w *worker) resize(ctx context.Context, a plan.Action, now time.Time) {
	named, ok := plan.Find(w.pod, a.Container)
	if !ok || w.sandbox == nil {
		return
	}
	c, pod, class := w.container(a.Container), w.pod, w.sandbox.class
	id := c.Current.ID
	c.Busy = plan.Resizing
	opCtx, cancel := context.WithCancel(ctx)
	op := &operation{cancel: cancel, hurry: make(chan time.Time, 1), began: now}
	w.ops[a.Container] = op
	limits := spec.Limits(spec.Input{Pod: pod, Container: named.Container, MemoryCapacity: w.p.MemoryCapacity, CgroupV2: w.p.Cgroups.V2(),
		PidsLimit: w.p.config.PodPidsLimit, OOMFloor: w.p.config.OOMFloor})
	w.p.wg.Go(func() {
		around := w.p.Cgroups.EnsurePod(pod, class)
		err := w.p.Engine.Update(opCtx, id, limits)
		if err == nil && around != nil {
			if around = w.p.Cgroups.EnsurePod(pod, class); around != nil { // until the last container is smaller
				w.p.Log.Debug("limits of a pod not changed yet", "pod", pod.UID, "err", around)
			}
		}
		cancel()
		w.box.post(func() { w.resized(op, named, id, err) })
	})
}

func (w *worker) resized(op *operation, named plan.Named, id string, err error) {
	if w.ops[named.Name] != op {
		return
	}
	c := w.container(named.Name)
	delete(w.ops, named.Name)
	c.Busy = plan.Idle
	switch {
	case c.Current == nil || c.Current.ID != id:
	case err != nil:
		c.NotBefore = time.Now().Add(resizeRetry)
		w.containerEvent(named.Name, core.EventTypeWarning, "ResizeError", "Pod resize error: "+err.Error())
	default:
		c.Current.Resources = named.Resources.DeepCopy()
	}
}
