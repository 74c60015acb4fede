package statefulset

import (
	apps "k8s.io/api/apps/v1"
)

// countStatus counts the pods as they are now.
func (w *work) countStatus() {
	s := apps.StatefulSetStatus{ObservedGeneration: w.set.Generation, CurrentRevision: w.current.name, UpdateRevision: w.update.name,
		Conditions: w.set.Status.Conditions, CollisionCount: &w.collisions}
	for _, p := range w.pods {
		if !created(p) {
			continue
		}
		s.Replicas++
		if runs(p) {
			s.ReadyReplicas++
			if w.available(p) {
				s.AvailableReplicas++
			}
		}
		if terminating(p) {
			continue
		}
		if revisionOf(p) == w.current.name {
			s.CurrentReplicas++
		}
		if revisionOf(p) == w.update.name {
			s.UpdatedReplicas++
		}
	}
	w.status = s
}

// finishStatus makes the update revision the current one when every pod is of it.
func (w *work) finishStatus() {
	s := &w.status
	s.CurrentReplicas = max(s.CurrentReplicas, 0)
	if n := int32(size(w.set)); s.UpdatedReplicas == n && s.ReadyReplicas == n && s.Replicas == n {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
}
