package workpod

import (
	"maps"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile"
)

// TriggerTimes finds out what a change of a service's endpoints goes back to: the
// annotation endpoints.kubernetes.io/last-change-trigger-time, from which it is
// measured how long the network takes to follow. It remembers the times of
// every service's pods since it began, until Forget.
type TriggerTimes struct {
	mu    sync.Mutex
	known map[reconcile.Key]triggers
}

type triggers struct {
	service time.Time
	pods    map[string]time.Time // by name
}

// NewTriggerTimes knows no service yet.
func NewTriggerTimes() *TriggerTimes {
	return &TriggerTimes{known: map[reconcile.Key]triggers{}}
}

// Next is the earliest of what has changed since the last call for the service: its
// creation, or a pod that became ready or unready. Zero if none of these.
func (t *TriggerTimes) Next(s *core.Service, pods []*core.Pod) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := reconcile.Key{Namespace: s.Namespace, Name: s.Name}
	was, known := t.known[key]
	is := triggers{service: s.CreationTimestamp.Time, pods: make(map[string]time.Time, len(pods))}
	var first time.Time
	consider := func(at, before time.Time) {
		if at.After(before) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	for _, p := range pods {
		if c := Condition(p, core.PodReady); c != nil && !c.LastTransitionTime.IsZero() {
			is.pods[p.Name] = c.LastTransitionTime.Time
			consider(c.LastTransitionTime.Time, was.pods[p.Name])
		}
	}
	consider(is.service, was.service)
	t.known[key] = is
	if !known {
		return is.service // its pods may be older than it
	}
	return first
}

// Forget drops what is known of a service that is gone.
func (t *TriggerTimes) Forget(key reconcile.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.known, key)
}

// Stamp writes the annotation, or removes the one of an earlier change. The map
// in m is not changed: it may be a cache's.
func Stamp(m *metav1.ObjectMeta, at time.Time) {
	if _, there := m.Annotations[core.EndpointsLastChangeTriggerTime]; at.IsZero() && !there {
		return
	}
	m.Annotations = maps.Clone(m.Annotations)
	if at.IsZero() {
		delete(m.Annotations, core.EndpointsLastChangeTriggerTime)
		return
	}
	metav1.SetMetaDataAnnotation(m, core.EndpointsLastChangeTriggerTime, at.UTC().Format(time.RFC3339Nano))
}
