package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of conditions, as upstream words them.
const (
	reasonNewSetCreated   = "NewReplicaSetCreated"
	reasonNewSetAvailable = "NewReplicaSetAvailable"
	reasonSetUpdated      = "ReplicaSetUpdated"
	reasonCreateError     = "ReplicaSetCreateError"
	reasonTimedOut        = "ProgressDeadlineExceeded"
	reasonPaused          = "DeploymentPaused"
	reasonResumed         = "DeploymentResumed"
	reasonAvailable       = "MinimumReplicasAvailable"
	reasonUnavailable     = "MinimumReplicasUnavailable"
)

func hasDeadline(d *apps.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func condition(s *apps.DeploymentStatus, t apps.DeploymentConditionType) *apps.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func dropCondition(s *apps.DeploymentStatus, t apps.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c apps.DeploymentCondition) bool { return c.Type == t })
}

// setCondition replaces a condition unless it says the same already; the time of
// its transition stays while its status does.
func (r *rollout) setCondition(t apps.DeploymentConditionType, status core.ConditionStatus, reason, message string) {
	was := condition(&r.status, t)
	if was != nil && was.Status == status && was.Reason == reason {
		return
	}
	r.replaceCondition(t, status, reason, message)
}

func (r *rollout) replaceCondition(t apps.DeploymentConditionType, status core.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.now.Truncate(time.Second))
	c := apps.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
	if was := condition(&r.status, t); was != nil && was.Status == status {
		c.LastTransitionTime = was.LastTransitionTime
	}
	dropCondition(&r.status, t)
	r.status.Conditions = append(r.status.Conditions, c)
}

// notePause keeps the progress deadline from running while the deployment is paused.
func (r *rollout) notePause() {
	d := r.deployment
	if !hasDeadline(d) {
		return
	}
	c := condition(&r.status, apps.DeploymentProgressing)
	if c != nil && c.Reason == reasonTimedOut {
		return // how it ended is worth more than that it is paused now
	}
	paused := c != nil && c.Reason == reasonPaused
	if d.Spec.Paused && !paused {
		r.setCondition(apps.DeploymentProgressing, core.ConditionUnknown, reasonPaused, "Deployment is paused")
	} else if !d.Spec.Paused && paused {
		r.setCondition(apps.DeploymentProgressing, core.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// countStatus sums up the sets; conditions are not its business.
func countStatus(d *apps.Deployment, sets []*apps.ReplicaSet, newSet *apps.ReplicaSet) apps.DeploymentStatus {
	s := apps.DeploymentStatus{ObservedGeneration: d.Generation, CollisionCount: d.Status.CollisionCount}
	terminating, known := int32(0), true
	for _, set := range sets {
		s.Replicas += set.Status.Replicas
		s.ReadyReplicas += set.Status.ReadyReplicas
		s.AvailableReplicas += set.Status.AvailableReplicas
		if n := set.Status.TerminatingReplicas; n != nil {
			terminating += *n
		} else {
			known = false // one set has not been counted yet
		}
	}
	if known {
		s.TerminatingReplicas = &terminating
	}
	if newSet != nil {
		s.UpdatedReplicas = newSet.Status.Replicas
	}
	s.UnavailableReplicas = max(total(sets)-s.AvailableReplicas, 0)
	return s
}

// complete: every pod is of the new set and available.
func complete(d *apps.Deployment, s apps.DeploymentStatus) bool {
	want := replicas(d)
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= d.Generation
}

// progressing compares with the status that is stored.
func progressing(was, is *apps.DeploymentStatus) bool {
	return is.UpdatedReplicas > was.UpdatedReplicas ||
		is.Replicas-is.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		is.ReadyReplicas > was.ReadyReplicas || is.AvailableReplicas > was.AvailableReplicas
}

// finishStatus counts and sets the conditions.
func (r *rollout) finishStatus() {
	d := r.deployment
	conditions := r.status.Conditions
	r.status = countStatus(d, r.sets, r.newSet)
	r.status.Conditions = conditions
	if r.status.AvailableReplicas >= replicas(d)-maxUnavailable(d) {
		r.setCondition(apps.DeploymentAvailable, core.ConditionTrue, reasonAvailable, "Deployment has minimum availability.")
	} else {
		r.setCondition(apps.DeploymentAvailable, core.ConditionFalse, reasonUnavailable, "Deployment does not have minimum availability.")
	}
	if !hasDeadline(d) {
		dropCondition(&r.status, apps.DeploymentProgressing)
	}
	if !d.Spec.Paused && !r.scalingEvent() && d.DeletionTimestamp == nil && hasDeadline(d) {
		r.noteProgress()
	}
	r.noteFailures()
	r.after = r.deadline()
}

func (r *rollout) noteProgress() {
	d := r.deployment
	subject := fmt.Sprintf("Deployment %q", d.Name)
	if r.newSet != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.newSet.Name)
	} else if r.create != nil {
		r.setCondition(apps.DeploymentProgressing, core.ConditionTrue, reasonNewSetCreated, fmt.Sprintf("Created new replica set %q", r.create.Name))
		return
	}
	was := condition(&r.status, apps.DeploymentProgressing)
	if was != nil && was.Reason == reasonNewSetAvailable && r.status.Replicas == r.status.UpdatedReplicas {
		return // it came to its end; what pods do later is no rollout
	}
	switch {
	case complete(d, r.status):
		r.setCondition(apps.DeploymentProgressing, core.ConditionTrue, reasonNewSetAvailable, subject+" has successfully progressed.")
	case progressing(&d.Status, &r.status):
		r.replaceCondition(apps.DeploymentProgressing, core.ConditionTrue, reasonSetUpdated, subject+" is progressing.")
	case r.timedOut():
		r.setCondition(apps.DeploymentProgressing, core.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.")
	}
}

func (r *rollout) timedOut() bool {
	c := condition(&r.status, apps.DeploymentProgressing)
	if c == nil || c.Reason == reasonNewSetAvailable {
		return false
	}
	return c.Reason == reasonTimedOut || r.untilDeadline(c) <= 0
}

func (r *rollout) untilDeadline(c *apps.DeploymentCondition) time.Duration {
	limit := time.Duration(*r.deployment.Spec.ProgressDeadlineSeconds) * time.Second
	return c.LastUpdateTime.Add(limit).Sub(r.now)
}

// deadline is when to look whether the rollout is stuck; 0 if it is not under way.
func (r *rollout) deadline() time.Duration {
	d := r.deployment
	c := condition(&r.status, apps.DeploymentProgressing)
	if c == nil || !hasDeadline(d) || d.Spec.Paused || c.Reason == reasonTimedOut || c.Reason == reasonNewSetAvailable || complete(d, r.status) {
		return 0
	}
	return max(r.untilDeadline(c), 0) + time.Second // times of conditions have no fractions
}

// noteFailures shows a set's failure to make pods, the new set's first.
func (r *rollout) noteFailures() {
	sets := r.sets
	if r.newSet != nil {
		sets = append([]*apps.ReplicaSet{r.newSet}, sets...)
	}
	for _, s := range sets {
		for _, c := range s.Status.Conditions {
			if c.Type == apps.ReplicaSetReplicaFailure {
				r.setCondition(apps.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return
			}
		}
	}
	dropCondition(&r.status, apps.DeploymentReplicaFailure)
}
