package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/server/placement"
)

// bind writes the decision: claims first, so that whoever sees the pod bound sees its
// devices. A pod that is gone or bound already needs nothing more: its change comes through
// the cache. What failed half-way is undone.
func (s *Scheduler) bind(ctx context.Context, p attempt) outcome {
	out := outcome{attempt: p}
	r, err := p.reserved, p.hopeless
	if r == nil {
		r = &reservation{Scheduler: s, pod: p.Pod}
		if err = r.make(ctx, p.decision.Grant); err == nil && !r.ready() {
			s.cfg.Events.Event(p.Pod.Pod, core.EventTypeNormal, "BindingConditionsPending", "waiting for binding conditions for device on node %s", p.decision.Node)
			out.reserved, out.waits, out.written = r, true, r.written
			return out
		}
	}
	if err == nil {
		err = s.assign(ctx, p)
	}
	gone := errors.IsNotFound(err) && !r.broken
	if err != nil && ctx.Err() == nil {
		r.undo(ctx)
	}
	out.written = r.written
	switch {
	case err == nil:
		out.bound = true
		s.numbers.attempt(scheduled, time.Since(p.began))
		s.numbers.bound(p.number, time.Since(p.added))
		s.cfg.Events.Event(p.Pod.Pod, core.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", p.Namespace, p.Name, p.decision.Node)
	case ctx.Err() != nil, gone:
	default:
		s.cfg.Log.Warn("binding a pod failed", "pod", p.Namespace+"/"+p.Name, "node", p.decision.Node, "err", err)
		s.numbers.attempt(failed, time.Since(p.began))
		out.retry = true
	}
	return out
}

// assign writes the binding, with the names of the devices that the pod is given.
func (s *Scheduler) assign(ctx context.Context, p attempt) error {
	binding := &core.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Target:     core.ObjectReference{Kind: "Node", Name: p.decision.Node},
	}
	if p.decision.Units != nil {
		binding.Annotations = map[string]string{api.AnnotationDevices: p.decision.Units.Text()}
	}
	_, err := s.cfg.Client.Create(ctx, target(p.Pod, "binding"), binding, metav1.CreateOptions{})
	return err
}

func target(p *placement.Pod, sub string) client.Target {
	return client.Target{Kind: api.Pods.Facts, Namespace: p.Namespace, Name: p.Name, Subresource: sub}
}

// unplaced makes room by preemption if that helps, and says why the pod waits. It returns
// when it had decided; the rest is waiting for writes of others.
func (s *Scheduler) unplaced(ctx context.Context, p *pending, d placement.Decision) (decided time.Time) {
	message := d.Message()
	var victims placement.Preemption
	if d.Helpless < d.Considered {
		victims = s.cluster.Preempt(p.Pod, s.protected)
		s.numbers.preempted(len(victims.Victims))
	}
	if victims.Node != "" {
		s.nominated[p.UID] = nomination{p.Pod, victims.Node}
	} else if d.Considered > 0 {
		delete(s.nominated, p.UID)
		if d.Err == nil {
			message += " " + preemptionMessage(d)
		}
	}
	pod, reason := p.Pod, core.PodReasonUnschedulable
	if d.Err != nil {
		reason = core.PodReasonSchedulerError
	}
	decided = time.Now()
	s.write(func() {
		s.sayWhy(ctx, pod, reason, message, victims.Node)
		if o := unused(pod, d); o != nil {
			s.release(ctx, pod, o)
		}
		if o := leftover(d); o != nil {
			s.discard(ctx, o)
		}
		for _, v := range victims.Victims {
			s.evict(ctx, v, pod)
		}
	})
	return decided
}

// preemptionMessage is the tail of upstream's sentence.
func preemptionMessage(d placement.Decision) string {
	var parts []string
	if n := d.Considered - d.Helpless; n > 0 {
		parts = append(parts, fmt.Sprintf("%d No preemption victims found for incoming pod", n))
	}
	if d.Helpless > 0 {
		parts = append(parts, fmt.Sprintf("%d Preemption is not helpful for scheduling", d.Helpless))
	}
	return fmt.Sprintf("preemption: 0/%d nodes are available: %s.", d.Considered, strings.Join(parts, ", "))
}

// protected: a disruption budget of the pod allows no more disruptions.
func (s *Scheduler) protected(p *placement.Pod) bool {
	for _, b := range client.CachedList(s.cfg.Client, api.PodDisruptionBudgets, p.Namespace, nil) {
		sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && sel.Matches(labels.Set(p.Labels)) && b.Status.DisruptionsAllowed <= 0 {
			return true
		}
	}
	return false
}

// sayWhy writes condition, nomination and event; an unchanged condition is not written again.
func (s *Scheduler) sayWhy(ctx context.Context, p *placement.Pod, reason, message, nominated string) {
	s.cfg.Events.Event(p.Pod, core.EventTypeWarning, "FailedScheduling", "%s", message)
	for _, c := range p.Status.Conditions {
		if c.Type == core.PodScheduled && c.Status == core.ConditionFalse && c.Message == message && p.Status.NominatedNodeName == nominated {
			return
		}
	}
	status := map[string]any{"conditions": []core.PodCondition{{Type: core.PodScheduled, Status: core.ConditionFalse,
		ObservedGeneration: p.Generation, Reason: reason, Message: message, LastTransitionTime: metav1.Now()}}}
	if nominated != "" {
		status["nominatedNodeName"] = nominated
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": status})
	if err == nil {
		_, err = s.cfg.Client.Patch(ctx, target(p, "status"), types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil && ctx.Err() == nil && !errors.IsNotFound(err) && !errors.IsConflict(err) {
		s.cfg.Log.Warn("writing why a pod waits failed", "pod", p.Namespace+"/"+p.Name, "err", err)
	}
}

// evict deletes a victim with its own grace period.
func (s *Scheduler) evict(ctx context.Context, v, winner *placement.Pod) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": v.UID}, "status": map[string]any{
		"conditions": []core.PodCondition{{Type: core.DisruptionTarget, Status: core.ConditionTrue, Reason: core.PodReasonPreemptionByScheduler,
			Message: fmt.Sprintf("%s: preempting to accommodate a higher priority pod", s.cfg.Name), LastTransitionTime: metav1.Now()}}}})
	if err == nil {
		_, err = s.cfg.Client.Patch(ctx, target(v, "status"), types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	}
	if err == nil {
		_, err = s.cfg.Client.Delete(ctx, target(v, ""), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &v.UID}})
	}
	if err != nil {
		if ctx.Err() == nil && !errors.IsNotFound(err) {
			s.cfg.Log.Warn("preempting a pod failed", "pod", v.Namespace+"/"+v.Name, "err", err)
		}
		return
	}
	s.cfg.Events.Event(v.Pod, core.EventTypeNormal, "Preempted", "Preempted by pod %s on node %s", winner.UID, v.Spec.NodeName)
}
