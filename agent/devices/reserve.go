package devices

import "slices"

// Reserve keeps parts (Device.Part) from being given while their owner alters them, until
// release is called. If somebody holds one of them, or was bound to have it, nothing is reserved, and
// who is said.
func (m *Manager) Reserve(parts []string) (release func(), held []Holding) {
	m.admitting.Lock() // a pod that is choosing has chosen first
	defer m.admitting.Unlock()
	offer := m.offer()
	m.mu.Lock()
	defer m.mu.Unlock()
	of := devicesOf(offer)
	for _, h := range slices.Concat(m.ledger.holdings(), m.promisedLocked()) {
		if h.Claim.Admin {
			continue
		}
		if slices.ContainsFunc(h.IDs, func(id string) bool { return slices.Contains(parts, of(h.Name, id).Part) }) {
			held = append(held, h)
		}
	}
	for _, c := range m.ledger.Claims {
		for _, d := range c.devices() {
			if !d.Admin && slices.ContainsFunc(d.Excludes, func(p string) bool { return slices.Contains(parts, p) }) {
				held = append(held, Holding{Namespace: c.Namespace, IDs: []string{d.Part}, Claim: ClaimHolding{UID: c.UID, Name: c.Name, Device: d.Device}})
			}
		}
	}
	if len(held) > 0 {
		return nil, held
	}
	if m.reserved == nil {
		m.reserved = map[string]int{}
	}
	for _, p := range parts {
		m.reserved[p]++
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, p := range parts {
			if m.reserved[p]--; m.reserved[p] <= 0 {
				delete(m.reserved, p)
			}
		}
	}, nil
}
