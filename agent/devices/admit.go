package devices

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/gpu/alloc"
)

// Admit gives a pod what its containers ask for: the devices that the scheduler named
// with the binding, else those that their provider chooses.
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
	named, err := namedIn(pod)
	if err != nil {
		return fmt.Errorf("Allocate failed due to %w, which is unexpected", err)
	}
	a := allocation{offer: offer, busy: now.busy(offer), named: named, holder: func(part string) string { return now.holderOf([]string{part}) }}
	for part := range reserved {
		a.busy.parts[part], a.busy.whole[part] = false, true
	}
	// What nobody offers is only a number on the node, and what a claim stands for comes with that.
	given, err := alloc.Walk(alloc.Asks(pod, func(name string) bool {
		_, ok := offer[name]
		return ok && extended(core.ResourceName(name)) && !api.ByClaim(pod, core.ResourceName(name))
	}), a.pick)
	if err != nil || len(given) == 0 {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Meanwhile others could only give back.
	return m.writeLocked(m.ledger.with(pod.UID, podDevices{Namespace: pod.Namespace, Name: pod.Name, Containers: given}))
}

// maxNamed bounds the annotation that is read.
const maxNamed = 256 << 10

// namedIn are the devices that the scheduler chose, by container and resource.
func namedIn(pod *core.Pod) (alloc.Given, error) {
	text, ok := pod.Annotations[api.AnnotationDevices]
	if !ok || text == "" {
		return nil, nil //nolint:nilnil // nobody chose
	}
	var out alloc.Given
	if len(text) > maxNamed {
		return nil, fmt.Errorf("the annotation %s having %d bytes, %d are the most", api.AnnotationDevices, len(text), maxNamed)
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("the annotation %s being unreadable: %w", api.AnnotationDevices, err)
	}
	return out, nil
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
	b := busy{ids: map[string][]string{}, parts: map[string]bool{}, whole: map[string]bool{}, barred: map[string]bool{}}
	of := devicesOf(offer)
	for _, c := range l.Claims {
		for _, d := range c.devices() {
			if d.Part == "" || d.Admin {
				continue
			}
			b.parts[d.Part], b.whole[d.Part] = false, true
			for _, p := range d.Excludes {
				b.barred[p] = true
			}
		}
	}
	for _, h := range l.holdings() {
		if h.Claimed() {
			continue
		}
		for _, id := range h.IDs {
			b.take(h.Name, of(h.Name, id), id)
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
	// parts that are held; true for those of which only replicas are.
	parts map[string]bool
	// whole are parts that are held otherwise than by amounts.
	whole map[string]bool
	// barred are parts that cannot be had because of others that a claim holds.
	barred map[string]bool
}

func (b *busy) holds(part string) bool { _, ok := b.parts[part]; return ok }

func (b *busy) take(resource string, d Device, id string) {
	b.ids[resource] = append(b.ids[resource], id)
	shared, held := b.parts[d.Part]
	b.parts[d.Part] = d.Shared && (!held || shared)
	if _, amount := alloc.ParseShare(id); !amount {
		b.whole[d.Part] = true
	}
}

// free tells whether d can be given beside what is held.
func (b *busy) free(resource string, d Device) bool {
	if !d.Healthy || b.barred[d.Part] || slices.Contains(b.ids[resource], d.ID) {
		return false
	}
	shared, held := b.parts[d.Part]
	return !held || shared && d.Shared
}

// allocation is one Admit under way.
type allocation struct {
	offer map[string]offered
	busy  busy
	named alloc.Given
	// holder names who has a part.
	holder func(part string) string
}

// pick chooses devices for a container that has some already.
func (a *allocation) pick(by alloc.Ask, want alloc.Want, has []string) (ids []string, err error) {
	o := a.offer[want.Resource]
	if sharer, ok := o.provider.(Sharer); ok && want.Part() {
		return a.part(sharer, by, want, has)
	}
	if named, ok := a.named[by.Container][want.Resource]; ok {
		ids, err = a.obey(o, want, named, has)
	} else {
		ids, err = a.choose(o, want, has)
	}
	if err != nil {
		return nil, fmt.Errorf("Allocate failed due to %w, which is unexpected", err)
	}
	for _, id := range ids {
		i := slices.IndexFunc(o.devices, func(d Device) bool { return d.ID == id })
		a.busy.take(want.Resource, o.devices[i], id)
	}
	return ids, nil
}

// part chooses parts of devices.
func (a *allocation) part(s Sharer, by alloc.Ask, want alloc.Want, spare []string) ([]string, error) {
	o := a.offer[want.Resource]
	c := PartChoice{Resource: want.Resource, Want: want.Share, Chosen: a.named[by.Container][want.Resource], Held: a.busy.ids[want.Resource], Spare: spare}
	for _, d := range o.devices {
		if d.Healthy && !a.busy.whole[d.Part] && !a.busy.barred[d.Part] {
			c.Free = append(c.Free, d.ID)
		}
	}
	ids, err := s.ChooseParts(c)
	if err != nil {
		return nil, fmt.Errorf("Allocate failed due to %w, which is unexpected", err)
	}
	of := devicesOf(a.offer)
	for _, id := range ids {
		a.busy.take(want.Resource, of(want.Resource, id), id)
	}
	return ids, nil
}

// obey takes the devices that the scheduler named, if they can be had.
func (a *allocation) obey(o offered, want alloc.Want, named, has []string) ([]string, error) {
	var out []string
	for _, id := range named {
		if slices.Contains(has, id) || slices.Contains(out, id) {
			continue
		}
		i := slices.IndexFunc(o.devices, func(d Device) bool { return d.ID == id })
		switch {
		case i < 0:
			return nil, fmt.Errorf("device %s of %s, which the scheduler chose, not being on this node", id, want.Resource)
		case !o.devices[i].Healthy:
			return nil, fmt.Errorf("device %s of %s, which the scheduler chose, not being healthy", id, want.Resource)
		case !a.busy.free(want.Resource, o.devices[i]):
			return nil, fmt.Errorf("device %s of %s, which the scheduler chose, being in use by %s", id, want.Resource, a.holder(o.devices[i].Part))
		}
		out = append(out, id)
	}
	if len(out) != want.Count {
		return nil, fmt.Errorf("the scheduler having chosen %d devices of %s where %d are wanted", len(out)+len(has), want.Resource, want.Count+len(has))
	}
	return out, nil
}

// choose asks the provider for devices of what is free.
func (a *allocation) choose(o offered, want alloc.Want, has []string) ([]string, error) {
	var free []string
	parts, healthy := map[string]bool{}, false
	for _, d := range o.devices {
		healthy = healthy || d.Healthy
		if a.busy.free(want.Resource, d) && (d.Shared || !parts[d.Part]) {
			free = append(free, d.ID)
			parts[d.Part] = true
		}
	}
	switch {
	case !healthy:
		return nil, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", want.Resource)
	case len(free) < want.Count:
		return nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", want.Resource, want.Count, len(free))
	}
	more, err := o.provider.Choose(Choice{Resource: want.Resource, Count: want.Count, Free: free, Must: has, Held: a.busy.ids[want.Resource]})
	if err != nil {
		return nil, err
	}
	// A choice of less than was asked for, or of what is not free, is filled up, as upstream does.
	var ids []string
	for _, id := range slices.Concat(more, free) {
		if len(ids) < want.Count && slices.Contains(free, id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
