package pods

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/pods/plan"
	"orch/agent/pods/status"
	"orch/runtime/engine"
)

// settle is how long a status may wait for operations that are under way: a pod
// that comes up quickly is reported once, as running.
const settle = 100 * time.Millisecond

// worker owns one pod. All fields below box belong to its goroutine; before run
// is called, to who made it.
type worker struct {
	p     *Pods
	box   *mailbox
	shown atomic.Pointer[Shown]

	pod        *core.Pod // newest object
	containers map[string]*plan.Container
	ops        map[string]*operation
	probes     map[string]func() // ends the probes of a container
	backoffs   map[string]bool   // BackOff was told for this wait
	sandbox    *sandbox
	startTime  time.Time
	stop       *plan.Stop
	verdict    *status.Verdict
	last       core.PodStatus
	// calm is when the status may be written though operations are under way.
	calm time.Time
	// unfit is why the node has no room for the pod as generation unfitAt has it; askAgain is when that may be otherwise.
	unfit    *status.Refusal
	unfitAt  int64
	askAgain time.Time

	admitted bool
	// patience is until when others may leave that are in the way.
	patience time.Time
	// orphan: the API object is gone (or never was): nothing is reported.
	orphan   bool
	finished bool // nothing runs and nothing will
	// unclaimed: the pod is off its claims; unclaiming: that is under way.
	unclaimed, unclaiming bool
	torn                  bool // and nothing is left on the host
	deleting              bool // the final delete is under way or done
	gone                  bool // the worker's task is over
	// busyEnding: teardown or the final delete is under way.
	busyEnding bool
	// ends are closed when the end of a container, by its ID, was taken up.
	ends map[string]chan struct{}
	// felled has why containers, by ID, were ended at once for something that they did.
	felled map[string]end
	// strays are containers without a place in the pod, to be killed and removed.
	strays []string
	// known is what adopt found of a sandbox that is still good.
	known *remains
}

// operation is what is under way for a container.
type operation struct {
	cancel context.CancelFunc
	// hurry tells a kill that there is less time than it thought.
	hurry chan time.Time
	began time.Time
}

func newWorker(p *Pods, pod *core.Pod) *worker {
	w := &worker{
		p: p, box: newMailbox(), pod: pod, last: pod.Status,
		containers: map[string]*plan.Container{}, ops: map[string]*operation{},
		ends: map[string]chan struct{}{}, probes: map[string]func(){}, backoffs: map[string]bool{}, felled: map[string]end{}, startTime: time.Now(),
	}
	if t := pod.Status.StartTime; t != nil {
		w.startTime = t.Time
	}
	for _, list := range [][]core.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, s := range list {
			w.remember(s)
		}
	}
	w.finished = status.Terminal(pod.Status.Phase)
	if w.admitted = w.finished || len(w.containers) > 0; w.admitted && !w.finished {
		p.enlist(pod)
	}
	return w
}

// remember takes over what the status says of a container that the engine may
// know nothing of any more: the number of the next attempt, and how it ended.
func (w *worker) remember(s core.ContainerStatus) {
	if s.ContainerID == "" || status.Terminal(w.pod.Status.Phase) {
		return
	}
	c := &plan.Container{NextAttempt: int(s.RestartCount) + 1}
	t := s.State.Terminated
	if t == nil {
		t = s.LastTerminationState.Terminated
	}
	if t != nil {
		c.Last = fromStatus(s, t)
	}
	if n, ok := plan.Find(w.pod, s.Name); ok && n.Role == plan.Init && s.State.Terminated != nil {
		c.Current, c.Last = c.Last, nil
	}
	w.containers[s.Name] = c
}

func fromStatus(s core.ContainerStatus, t *core.ContainerStateTerminated) *plan.Instance {
	return &plan.Instance{
		ID: trimScheme(t.ContainerID), Attempt: int(s.RestartCount), State: engine.Exited, Image: s.Image, ImageRef: s.ImageID,
		StartedAt: t.StartedAt.Time, FinishedAt: t.FinishedAt.Time, ExitCode: int(t.ExitCode), Reason: t.Reason, Message: t.Message, Hooked: true,
	}
}

// run is the pod's goroutine. It ends when the pod is gone or ctx ends; then
// containers are left as they are.
func (w *worker) run(ctx context.Context) {
	defer func() {
		for _, end := range w.probes {
			end()
		}
	}()
	for {
		for _, f := range w.box.take() {
			f()
		}
		wake := w.step(ctx)
		if w.gone {
			return
		}
		timer, done := after(wake, time.Now())
		select {
		case <-ctx.Done():
			done()
			return
		case <-w.box.wake:
		case <-timer:
		}
		done()
	}
}

// step asks for a plan, has it done, reports, and says when to look again at the latest.
func (w *worker) step(ctx context.Context) (wake time.Time) {
	now := time.Now()
	sooner := func(t time.Time) {
		if !t.IsZero() && (wake.IsZero() || t.Before(wake)) {
			wake = t
		}
	}
	if later := w.admit(ctx, now); !later.IsZero() {
		return later
	}
	w.heed(now)
	if !w.finished {
		if w.stop == nil {
			w.prepare(ctx)
			sooner(w.fit(now))
		}
		for _, a := range plan.Plan(w.view(now)) {
			sooner(w.do(ctx, a, now))
		}
	}
	if w.finished {
		w.end(ctx)
	}
	if w.gone {
		return wake
	}
	w.watchProbes(ctx)
	sooner(w.publish(now))
	return wake
}

func (w *worker) view(now time.Time) plan.View {
	return plan.View{Pod: w.pod, Now: now, Containers: w.containers, StartTime: w.startTime, Stop: w.stop, Unfit: w.unfit != nil}
}

// admit decides once whether the node can run the pod. The time is until when the
// answer may wait; zero: there is one.
func (w *worker) admit(ctx context.Context, now time.Time) (later time.Time) {
	if w.admitted {
		return time.Time{}
	}
	if w.pod.DeletionTimestamp == nil && !w.orphan {
		v, wait := w.p.admit(ctx, w)
		if wait && w.patience.IsZero() {
			w.patience = now.Add(admissionPatience)
		}
		if wait && now.Before(w.patience) {
			return w.patience
		}
		if v != nil {
			v.Rejected = true
			w.verdict, w.finished = v, true
			w.event(core.EventTypeWarning, v.Reason, v.Message)
		}
	}
	w.admitted = true
	return time.Time{}
}

// heed turns a deletion into Stop, and hurries kills when less time is left.
func (w *worker) heed(now time.Time) {
	if at := w.pod.DeletionTimestamp; at != nil && !w.orphan {
		// The timestamp has seconds only: it is rounded up, to give the full grace.
		deadline := at.Add(time.Second)
		if s := w.pod.DeletionGracePeriodSeconds; s != nil {
			deadline = earlier(deadline, now.Add(time.Duration(*s)*time.Second))
		}
		w.setStop(deadline, plan.ReasonStopping)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// setStop makes the pod end at the latest at the deadline. Later calls can only
// shorten the time.
func (w *worker) setStop(deadline time.Time, reason string) {
	if w.stop != nil && !deadline.Before(w.stop.Deadline) {
		return
	}
	first := w.stop == nil
	w.stop = &plan.Stop{Deadline: deadline, Reason: reason}
	for name, op := range w.ops {
		if w.containers[name].Busy == plan.Killing {
			select {
			case op.hurry <- deadline:
			default:
			}
		} else if first {
			op.cancel()
		}
	}
	if first && w.sandbox != nil {
		w.sandbox.stopTrying()
	}
}

// observe takes a newer object.
func (w *worker) observe(pod *core.Pod) {
	old := w.pod
	w.pod = pod
	// The server's conditions of others count for readiness gates.
	w.last.Conditions = foreign(w.last.Conditions, pod.Status.Conditions)
	if w.last.NominatedNodeName = pod.Status.NominatedNodeName; status.Terminal(pod.Status.Phase) && !w.finished && w.stop == nil {
		// Another has ended the pod (eviction, pod GC): what runs is stopped.
		w.last.Phase, w.last.Reason, w.last.Message = pod.Status.Phase, pod.Status.Reason, pod.Status.Message
		w.setStop(time.Now().Add(graceOf(pod)), plan.ReasonStopping)
	}
	if old.Generation != pod.Generation && w.sandbox != nil {
		w.sandbox.respec(pod)
	}
}

func graceOf(pod *core.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return core.DefaultTerminationGracePeriodSeconds * time.Second
}

// foreign keeps own conditions of ours and takes all others of the server.
func foreign(ours, server []core.PodCondition) []core.PodCondition {
	isOwn := map[core.PodConditionType]bool{}
	var out []core.PodCondition
	for _, c := range ours {
		if status.Owned(c.Type) {
			isOwn[c.Type] = true
			out = append(out, c)
		}
	}
	for _, c := range server {
		if !isOwn[c.Type] {
			out = append(out, c)
		}
	}
	return out
}

// objectGone: the object was deleted from the API, with or without our doing.
func (w *worker) objectGone(pod *core.Pod) {
	w.orphan = true
	if w.torn {
		w.deleting = true
		return
	}
	// Deleted by force: as upstream, a second is left.
	w.setStop(time.Now().Add(time.Second), plan.ReasonStopping)
}

// do begins one action and says when to look again.
func (w *worker) do(ctx context.Context, a plan.Action, now time.Time) time.Time {
	switch a.Verb {
	case plan.Start:
		w.start(ctx, a, now)
	case plan.Kill:
		w.kill(ctx, a, now)
	case plan.Resize:
		w.resize(ctx, a, now)
	case plan.Wait:
		w.wait(a)
		return a.Until
	case plan.End:
		w.verdict = &status.Verdict{Reason: a.Reason, Message: a.Message}
		w.event(core.EventTypeNormal, a.Reason, a.Message)
		w.setStop(now.Add(graceOf(w.pod)), a.Reason)
		return now
	case plan.Finish:
		w.finish(ctx)
	}
	return time.Time{}
}

// finish ends a pod whose containers have all ended, once it is off its claims: as with
// upstream, nobody else may be told that they are free before.
func (w *worker) finish(ctx context.Context) {
	if w.p.Devices != nil && claims(w.pod) && !w.unclaimed {
		if !w.unclaiming {
			w.unclaiming = true
			uid := w.pod.UID
			w.p.wg.Go(func() {
				if w.p.unclaim(ctx, uid) {
					w.box.post(func() { w.unclaimed = true })
				}
			})
		}
		return
	}
	w.finished = true
	w.p.release(w.pod.UID)
}

// wait notes why a container is not started yet.
func (w *worker) wait(a plan.Action) {
	if a.Reason != plan.ReasonCrashLoop {
		return
	}
	c := w.container(a.Container)
	c.Waiting = plan.Waiting{Reason: a.Reason, Message: a.Message}
	if !w.backoffs[a.Container] {
		w.backoffs[a.Container] = true
		w.containerEvent(a.Container, core.EventTypeWarning, "BackOff",
			fmt.Sprintf("Back-off restarting failed container %s in pod %s", a.Container, plan.Format(w.pod)))
	}
}

func (w *worker) container(name string) *plan.Container {
	c := w.containers[name]
	if c == nil {
		c = &plan.Container{}
		w.containers[name] = c
	}
	return c
}

// publish reports the status when it matters, and says when to look again if it
// is held back: while operations are young, mere progress is not written.
func (w *worker) publish(now time.Time) time.Time {
	in := status.Input{
		View: w.view(now), Finished: w.finished, Verdict: w.verdict, Old: w.last, Runtime: w.p.runtime, Refused: w.unfit,
		Sandbox: status.Sandbox{HostIPs: w.p.config.HostIPs},
	}
	if w.sandbox != nil {
		in.Sandbox.Ready, in.Sandbox.PodIPs = w.sandbox.state()
	}
	if !in.Sandbox.Ready && w.known != nil { // taken over as it is; that it holds is about to be seen
		in.Sandbox.Ready, in.Sandbox.PodIPs = true, w.known.sandbox.IPs
	}
	if w.p.Devices != nil {
		in.Devices, in.Shared = w.p.Devices.Status(w.pod.UID), w.p.Devices.Conditions(w.pod.UID)
	}
	s := status.Compute(in)
	w.last = s
	w.show()
	if w.orphan {
		return time.Time{}
	}
	if until := w.settling(now); until.After(now) {
		return until
	}
	w.p.writer.Set(w.pod, s)
	return time.Time{}
}

// settling is until when the status is held back; zero if it is not.
func (w *worker) settling(now time.Time) time.Time {
	if w.finished || w.stop != nil {
		return time.Time{}
	}
	var youngest time.Time
	for name, op := range w.ops {
		c := w.containers[name]
		if (c.Busy == plan.Starting || c.Busy == plan.Killing && c.Restart) && op.began.After(youngest) {
			youngest = op.began
		}
	}
	if youngest.IsZero() {
		w.calm = time.Time{}
		return time.Time{}
	}
	// However operations follow each other, one settle time is the most.
	if w.calm.IsZero() {
		w.calm = now.Add(settle)
	}
	return w.calm
}

func (w *worker) event(eventType, reason, message string) {
	w.p.Events.EventAt(w.p.reference(w.pod, ""), eventType, reason, message)
}

func (w *worker) containerEvent(name, eventType, reason, message string) {
	w.p.Events.EventAt(w.p.reference(w.pod, fieldPath(w.pod, name)), eventType, reason, message)
}

func fieldPath(pod *core.Pod, name string) string {
	n, ok := plan.Find(pod, name)
	if !ok {
		return ""
	}
	switch n.Role {
	case plan.Main:
		return "spec.containers{" + name + "}"
	case plan.Ephemeral:
		return "spec.ephemeralContainers{" + name + "}"
	}
	return "spec.initContainers{" + name + "}"
}
