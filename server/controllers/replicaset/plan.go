package replicaset

import (
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"orch/server/controllers/workpod"
)

// burst bounds how many pods one look at a set creates or deletes.
const burst = 500

// plan says how far a set is from what it should be.
type plan struct {
	// create is how many pods are missing, remove the pods that are too many.
	create int
	remove []*core.Pod
	status apps.ReplicaSetStatus
	// after is when a ready pod will count as available.
	after time.Duration
}

// makePlan compares the set with its pods. siblings gives the pods of the sets
// that have the same controller, to spread which pods go; it is called only then.
func makePlan(rs *apps.ReplicaSet, pods []*core.Pod, siblings func() []*core.Pod, now time.Time) plan {
	var active []*core.Pod
	terminating := int32(0)
	for _, p := range pods {
		switch {
		case workpod.Active(p):
			active = append(active, p)
		case p.DeletionTimestamp != nil && !workpod.Finished(p):
			terminating++
		}
	}
	p := plan{status: countStatus(rs, active, now)}
	p.status.TerminatingReplicas = &terminating
	if rs.DeletionTimestamp == nil {
		diff := len(active) - int(wanted(rs))
		switch {
		case diff < 0:
			p.create = min(-diff, burst)
		case diff > 0:
			p.remove = workpod.Surplus(active, min(diff, burst), doubledUp(siblings()), now)
		}
	}
	minReady := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	for _, pod := range active {
		_, in := workpod.Available(pod, minReady, now)
		p.after = workpod.Soonest(p.after, in)
	}
	return p
}

func wanted(rs *apps.ReplicaSet) int32 {
	if rs.Spec.Replicas == nil {
		return 1
	}
	return *rs.Spec.Replicas
}

// doubledUp counts active pods per node.
func doubledUp(pods []*core.Pod) map[string]int {
	n := map[string]int{}
	for _, p := range pods {
		if workpod.Active(p) {
			n[p.Spec.NodeName]++
		}
	}
	return n
}

func countStatus(rs *apps.ReplicaSet, active []*core.Pod, now time.Time) apps.ReplicaSetStatus {
	s := *rs.Status.DeepCopy()
	s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas = int32(len(active)), 0, 0, 0
	s.ObservedGeneration = rs.Generation
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	minReady := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			s.FullyLabeledReplicas++
		}
		if workpod.Ready(p) {
			s.ReadyReplicas++
		}
		if ok, _ := workpod.Available(p, minReady, now); ok {
			s.AvailableReplicas++
		}
	}
	return s
}

// noteFailure sets or takes away the ReplicaFailure condition.
func noteFailure(s *apps.ReplicaSetStatus, p plan, err error, now time.Time) {
	at := -1
	for i := range s.Conditions {
		if s.Conditions[i].Type == apps.ReplicaSetReplicaFailure {
			at = i
		}
	}
	if err == nil {
		if at >= 0 {
			s.Conditions = append(s.Conditions[:at:at], s.Conditions[at+1:]...)
		}
		return
	}
	if at >= 0 {
		return // the first failure stays until it is over
	}
	reason := "FailedDelete"
	if p.create > 0 {
		reason = "FailedCreate"
	}
	s.Conditions = append(s.Conditions, apps.ReplicaSetCondition{
		Type: apps.ReplicaSetReplicaFailure, Status: core.ConditionTrue, Reason: reason, Message: err.Error(),
		LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	})
}
