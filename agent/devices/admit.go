package devices

import (
	"fmt"
	"maps"
	"slices"

	core "k8s.io/api/core/v1"
)

// Admit gives a pod what its containers ask for. Containers that have ended before
// others start (init containers without a restart policy of their own) pass their
// devices on, as upstream's kubelet does.
func (m *Manager) Admit(pod *core.Pod) error {
	if !asks(pod) {
		return nil
	}
	m.admitting.Lock()
	defer m.admitting.Unlock()
	offer := m.offer()
	m.mu.Lock()
	now, reserved := m.ledger, maps.Clone(m.reserved)
	m.mu.Unlock()
	if _, ok := now.Pods[pod.UID]; ok {
		return nil
	}
	a := allocation{offer: offer, busy: now.busy(offer), mine: podDevices{Namespace: pod.Namespace, Name: pod.Name, Containers: map[string]map[string][]string{}}, spare: map[string][]string{}}
	for part := range reserved {
		a.busy.parts[part] = false
	}
	for _, c := range pod.Spec.InitContainers {
		lasting := c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways
		if err := a.give(&c, !lasting); err != nil {
			return err
		}
	}
	for _, c := range pod.Spec.Containers {
		if err := a.give(&c, false); err != nil {
			return err
		}
	}
	if len(a.mine.Containers) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Meanwhile others could only give back.
	return m.writeLocked(m.ledger.with(pod.UID, a.mine))
}

// asks tells whether the pod wants anything that could be a device.
func asks(pod *core.Pod) bool {
	for _, list := range [][]core.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			for name := range c.Resources.Limits {
				if extended(name) {
					return true
				}
			}
		}
	}
	return false
}

// extended tells resources with a domain of their own from those that every node has.
func extended(name core.ResourceName) bool {
	for i := range len(name) {
		if name[i] == '/' {
			return name[:i] != "kubernetes.io"
		}
	}
	return false
}

// busy are the parts that somebody holds, and whether as a share; and ids by resource.
func (l ledger) busy(offer map[string]offered) busy {
	b := busy{ids: map[string][]string{}, parts: map[string]bool{}}
	of := devicesOf(offer)
	for _, h := range l.holdings() {
		b.ids[h.Name] = append(b.ids[h.Name], h.IDs...)
		for _, id := range h.IDs {
			b.take(of(h.Name, id))
		}
	}
	return b
}

// devicesOf finds the device of a resource's id. One that was offered in another way when
// it was given is not shared: nobody else gets the part.
func devicesOf(offer map[string]offered) func(resource, id string) Device {
	of := map[string]Device{}
	for name, o := range offer {
		for _, d := range o.devices {
			of[name+" "+d.ID] = d
		}
	}
	return func(resource, id string) Device {
		if d, ok := of[resource+" "+id]; ok {
			return d
		}
		return Device{Part: partOf(id)}
	}
}

// partOf is the part in an id whose provider no longer offers it: shares are "part::n".
func partOf(id string) string {
	for i := 0; i+1 < len(id); i++ {
		if id[i] == ':' && id[i+1] == ':' {
			return id[:i]
		}
	}
	return id
}

type busy struct {
	ids map[string][]string
	// parts that are held; true for those of which only shares are.
	parts map[string]bool
}

func (b *busy) take(d Device) {
	shared, held := b.parts[d.Part]
	b.parts[d.Part] = d.Shared && (!held || shared)
}

// free tells whether d can be given beside what is held.
func (b *busy) free(resource string, d Device) bool {
	if !d.Healthy || slices.Contains(b.ids[resource], d.ID) {
		return false
	}
	shared, held := b.parts[d.Part]
	return !held || shared && d.Shared
}

// allocation is one Admit under way.
type allocation struct {
	offer map[string]offered
	busy  busy
	mine  podDevices
	// spare are ids that ended containers pass on, by resource.
	spare map[string][]string
}

// give adds a container's devices; passes tells that they are free for later containers.
func (a *allocation) give(c *core.Container, passes bool) error {
	for name, q := range c.Resources.Limits {
		resource, n := string(name), int(q.Value())
		o, offered := a.offer[resource]
		if !extended(name) || n == 0 || !offered {
			continue // a resource that is only a number on the node
		}
		ids, err := a.pick(resource, o, n)
		if err != nil {
			return err
		}
		if a.mine.Containers[c.Name] == nil {
			a.mine.Containers[c.Name] = map[string][]string{}
		}
		a.mine.Containers[c.Name][resource] = ids
		a.note(resource, o, ids, passes)
	}
	return nil
}

// pick takes spare devices first, the rest from what is free.
func (a *allocation) pick(resource string, o offered, n int) ([]string, error) {
	spare := a.spare[resource]
	ids := slices.Clone(spare[:min(n, len(spare))])
	if len(ids) == n {
		return ids, nil
	}
	var free []string
	parts, healthy := map[string]bool{}, false
	for _, d := range o.devices {
		healthy = healthy || d.Healthy
		if a.busy.free(resource, d) && (d.Shared || !parts[d.Part]) {
			free = append(free, d.ID)
			parts[d.Part] = true
		}
	}
	want := n - len(ids)
	switch {
	case !healthy:
		return nil, fmt.Errorf("Allocate failed due to no healthy devices present; cannot allocate unhealthy devices %s, which is unexpected", resource)
	case len(free) < want:
		return nil, fmt.Errorf("Allocate failed due to requested number of devices unavailable for %s. Requested: %d, Available: %d, which is unexpected", resource, want, len(free))
	}
	more, err := o.provider.Choose(Choice{Resource: resource, Count: want, Free: free, Must: ids, Held: a.busy.ids[resource]})
	if err != nil {
		return nil, fmt.Errorf("Allocate failed due to %w, which is unexpected", err)
	}
	// A choice of less than was asked for, or of what is not free, is filled up, as upstream does.
	for _, id := range slices.Concat(more, free) {
		if len(ids) < n && slices.Contains(free, id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (a *allocation) note(resource string, o offered, ids []string, passes bool) {
	for _, id := range ids {
		if slices.Contains(a.spare[resource], id) {
			if !passes {
				a.spare[resource] = slices.DeleteFunc(a.spare[resource], func(s string) bool { return s == id })
			}
			continue
		}
		a.busy.ids[resource] = append(a.busy.ids[resource], id)
		i := slices.IndexFunc(o.devices, func(d Device) bool { return d.ID == id })
		a.busy.take(o.devices[i])
		if passes {
			a.spare[resource] = append(a.spare[resource], id)
		}
	}
}
