package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
	"orch/gpu/alloc"
)

// maxAnswer bounds what is kept of a provider's answer.
const maxAnswer = 256 << 10

// Prepare asks the providers about all that the pod holds and that they were not asked
// about yet. What they answered is on the disk when it returns.
func (m *Manager) Prepare(ctx context.Context, pod *core.Pod) error {
	m.mu.Lock()
	held := m.ledger.Pods[pod.UID].Containers
	m.mu.Unlock()
	if len(held) == 0 {
		return nil
	}
	offer := m.offer()
	for _, container := range sorted(held) {
		if _, err := m.prepare(ctx, offer, pod.UID, container); err != nil {
			return fmt.Errorf("Allocate failed due to %w, which is unexpected", err)
		}
	}
	return nil
}

// prepare returns the answers about a container's devices by resource, and asks for those that are missing.
func (m *Manager) prepare(ctx context.Context, offer map[string]offered, uid types.UID, container string) (map[string][]byte, error) {
	m.mu.Lock()
	p := m.ledger.Pods[uid]
	held, known := p.Containers[container], p.Answers[container]
	m.mu.Unlock()
	answers := maps.Clone(known)
	for _, name := range sorted(held) {
		preparer, ok := offer[name].provider.(Preparer)
		if !ok || known[name] != nil {
			continue
		}
		answer, err := preparer.Prepare(ctx, name, held[name])
		if err != nil {
			return nil, err
		}
		if len(answer) > maxAnswer {
			return nil, fmt.Errorf("the answer about %s having %d bytes, %d are the most", name, len(answer), maxAnswer)
		}
		if answers == nil {
			answers = map[string][]byte{}
		}
		answers[name] = answer
	}
	if len(answers) == len(known) {
		return answers, nil
	}
	return answers, m.keepAnswers(uid, container, answers)
}

func (m *Manager) keepAnswers(uid types.UID, container string, answers map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.ledger.Pods[uid]
	if !ok {
		return errors.New("the pod having given its devices back meanwhile")
	}
	p.Answers = maps.Clone(p.Answers)
	if p.Answers == nil {
		p.Answers = map[string]map[string][]byte{}
	}
	p.Answers[container] = answers
	return m.writeLocked(m.ledger.with(uid, p))
}

// Edits asks the provider of each resource that the container holds.
func (m *Manager) Edits(ctx context.Context, c host.DeviceHolder) (host.DeviceEdits, error) {
	m.mu.Lock()
	held := m.ledger.Pods[c.Pod.UID].Containers[c.Container.Name]
	m.mu.Unlock()
	out := host.DeviceEdits{}
	if len(held) == 0 {
		return out, nil
	}
	offer := m.offer()
	answers, err := m.prepare(ctx, offer, c.Pod.UID, c.Container.Name)
	if err != nil {
		return out, fmt.Errorf("allocating devices: %w", err)
	}
	for _, name := range sorted(held) {
		o, ok := offer[name]
		if !ok {
			return out, fmt.Errorf("nothing offers %s on this node any more", name)
		}
		c.Prepared = answers[name]
		e, err := o.provider.Edits(ctx, c, name, held[name])
		if err != nil {
			return out, fmt.Errorf("preparing %s: %w", name, err)
		}
		out.Add(e)
		if out.Held == nil {
			out.Held = map[string][]string{}
		}
		out.Held[name] = held[name]
	}
	return out, nil
}

// Status says of each device that the pod holds how it is, by container, as upstream's
// ContainerStatus.allocatedResourcesStatus has it.
func (m *Manager) Status(uid types.UID) map[string][]core.ResourceStatus {
	m.mu.Lock()
	held := m.ledger.Pods[uid].Containers
	m.mu.Unlock()
	if len(held) == 0 {
		return nil
	}
	offer, out := m.offer(), map[string][]core.ResourceStatus{}
	health := map[string]core.ResourceHealthStatus{}
	for container, byName := range held {
		for _, name := range sorted(byName) {
			for _, d := range offer[name].devices {
				health[name+" "+d.ID] = healthOf(d)
			}
			for _, id := range byName[name] { // a part is as healthy as what it is of
				if _, ok := alloc.ParseShare(id); ok {
					health[name+" "+id] = health[name+" "+partOf(id)]
				}
			}
			s := core.ResourceStatus{Name: core.ResourceName(name)}
			for _, id := range byName[name] {
				h, ok := health[name+" "+id]
				if !ok || h == "" {
					h = core.ResourceHealthStatusUnknown
				}
				s.Resources = append(s.Resources, core.ResourceHealth{ResourceID: core.ResourceID(id), Health: h})
			}
			out[container] = append(out[container], s)
		}
	}
	return out
}

// Conditions asks the providers about what the pod holds.
func (m *Manager) Conditions(uid types.UID) []core.PodCondition {
	m.mu.Lock()
	var held []Holding
	if m.ledger.knows(uid) {
		held = slices.DeleteFunc(m.ledger.holdings(), func(h Holding) bool { return h.UID != uid })
	}
	m.mu.Unlock()
	if len(held) == 0 {
		return nil
	}
	var out []core.PodCondition
	for _, p := range m.config.Providers {
		if t, ok := p.(Teller); ok {
			out = append(out, t.PodConditions(held)...)
		}
	}
	return out
}

func healthOf(d Device) core.ResourceHealthStatus {
	switch {
	case d.Healthy:
		return core.ResourceHealthStatusHealthy
	case d.Lost:
		return core.ResourceHealthStatusUnknown
	}
	return core.ResourceHealthStatusUnhealthy
}

// Allocated counts what is held of each resource if the pod holds some, and is nil
// otherwise. A pod that was given its devices before must not be turned away because
// their provider is not back yet (upstream's sanitizeNodeAllocatable).
func (m *Manager) Allocated(uid types.UID) map[core.ResourceName]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.ledger.Pods[uid]; !ok {
		return nil
	}
	ids := map[core.ResourceName]map[string]bool{}
	for _, h := range m.ledger.holdings() {
		if h.Claimed() {
			continue
		}
		name := core.ResourceName(h.Name)
		if ids[name] == nil {
			ids[name] = map[string]bool{}
		}
		for _, id := range h.IDs {
			ids[name][id] = true
		}
	}
	out := map[core.ResourceName]int64{}
	for name, set := range ids {
		out[name] = int64(len(set))
	}
	return out
}

// Offer lists all devices by resource, those of no provider as empty lists.
func (m *Manager) Offer() map[string][]Device {
	out := map[string][]Device{}
	for name, o := range m.offer() {
		out[name] = o.devices
	}
	return out
}
