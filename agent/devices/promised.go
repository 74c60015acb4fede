package devices

import (
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
)

// Promised are the devices that the scheduler chose for pods which were bound to this node and are
// not in the ledger yet: until they are admitted nothing else may become of these.
func (m *Manager) Promised() []Holding {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.promisedLocked()
}

func (m *Manager) promisedLocked() []Holding {
	if m.config.Bound == nil {
		return nil
	}
	return promised(m.config.Bound(), m.ledger.Pods)
}

// promised is pure. A pod that the node has taken up (it has a start time) was admitted or never will be.
func promised(pods []*core.Pod, admitted map[types.UID]podDevices) []Holding {
	var out []Holding
	for _, p := range pods {
		_, here := admitted[p.UID]
		switch {
		case here, p.Annotations[api.AnnotationDevices] == "", p.DeletionTimestamp != nil, p.Status.StartTime != nil,
			p.Status.Phase == core.PodSucceeded, p.Status.Phase == core.PodFailed:
			continue
		}
		given, err := namedIn(p)
		if err != nil {
			continue // it will not be admitted
		}
		for _, container := range sorted(given) {
			for _, resource := range sorted(given[container]) {
				out = append(out, Holding{UID: p.UID, Namespace: p.Namespace, Pod: p.Name, Container: container, Name: resource, IDs: given[container][resource]})
			}
		}
	}
	return out
}
