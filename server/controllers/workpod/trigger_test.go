package workpod

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile"
)

// TestLastChangeTriggerTime: each step is one look at the same service, with the
// pods as they are then, in seconds; 0 is never.
func TestLastChangeTriggerTime(t *testing.T) {
	at := func(second int) time.Time {
		if second == 0 {
			return time.Time{}
		}
		return time.Unix(int64(1_000_000+second), 0)
	}
	type step struct {
		created int
		pods    map[string]int
		want    int
	}
	for name, steps := range map[string][]step{
		"a new service":                         {{2, nil, 2}},
		"a new service for pods that are there": {{3, map[string]int{"a": 1, "b": 2, "c": 5}, 3}},
		"pods become ready: the first counts":   {{1, nil, 1}, {1, map[string]int{"a": 3, "b": 2}, 2}},
		"one pod changes":                       {{1, map[string]int{"a": 1, "b": 2}, 1}, {1, map[string]int{"a": 1, "b": 4}, 4}},
		"a pod without a condition":             {{1, nil, 1}, {1, map[string]int{"a": 0}, 0}},
		"nothing changes":                       {{1, map[string]int{"a": 2}, 1}, {1, map[string]int{"a": 2}, 0}},
		"a pod goes":                            {{1, map[string]int{"a": 2, "b": 3}, 1}, {1, map[string]int{"a": 2}, 0}},
		"a pod of the same name later":          {{1, map[string]int{"a": 2}, 1}, {1, nil, 0}, {1, map[string]int{"a": 5}, 5}},
		"a service made anew":                   {{1, map[string]int{"a": 2}, 1}, {7, map[string]int{"a": 2}, 7}},
	} {
		times := NewTriggerTimes()
		for i, st := range steps {
			s := &core.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", CreationTimestamp: metav1.NewTime(at(st.created))}}
			var pods []*core.Pod
			for pod, second := range st.pods {
				p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: pod}}
				if second > 0 {
					p.Status.Conditions = []core.PodCondition{{Type: core.PodReady, LastTransitionTime: metav1.NewTime(at(second))}}
				}
				pods = append(pods, p)
			}
			if got := times.Next(s, pods); !got.Equal(at(st.want)) {
				t.Errorf("%s, look %d: %v, want %v", name, i+1, got, at(st.want))
			}
		}
		times.Forget(reconcile.Key{Namespace: "ns", Name: "web"})
		if len(times.known) != 0 {
			t.Errorf("%s: %v is left", name, times.known)
		}
	}
}

func TestStampLeavesTheCachesMapAlone(t *testing.T) {
	cached := map[string]string{"a": "b"}
	m := metav1.ObjectMeta{Annotations: cached}
	Stamp(&m, time.Unix(1_000_000, 0))
	if got := m.Annotations[core.EndpointsLastChangeTriggerTime]; got != "1970-01-12T13:46:40Z" || m.Annotations["a"] != "b" || len(cached) != 1 {
		t.Errorf("annotations %v, cached %v", m.Annotations, cached)
	}
	stamped := m.Annotations
	Stamp(&m, time.Time{})
	if len(m.Annotations) != 1 || len(stamped) != 2 {
		t.Errorf("after a change without a time: %v, cached %v", m.Annotations, stamped)
	}
}
