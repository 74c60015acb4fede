package scheduler

import (
	"sync"

	resource "k8s.io/api/resource/v1"

	"orch/api"
	"orch/api/client"
)

// name addresses an object that changed.
type name struct {
	kind            *api.Facts
	namespace, name string
}

// inbox collects the names of changed objects between two looks of the loop. A
// name is in it once however often its object changes, so the number of objects
// bounds it. The loop reads the objects from the cache.
type inbox struct {
	mu       sync.Mutex
	names    map[name]struct{}
	order    []name
	outcomes []outcome
	// signal has room for one token: there is something new.
	signal chan struct{}
}

func newInbox() *inbox {
	return &inbox{names: map[name]struct{}{}, signal: make(chan struct{}, 1)}
}

func (b *inbox) changed(kind *api.Facts) func(client.Change) {
	return func(c client.Change) {
		o := c.New
		if o == nil {
			o = c.Old
		}
		if o == nil {
			return
		}
		n := name{kind, o.GetNamespace(), o.GetName()}
		b.mu.Lock()
		if _, ok := b.names[n]; !ok {
			b.names[n] = struct{}{}
			b.order = append(b.order, n)
		}
		b.mu.Unlock()
		b.ring()
	}
}

// outcome is how a binding ended.
type outcome struct {
	attempt
	// written are the claims as they stand after what the binding wrote.
	written []*resource.ResourceClaim
	// bound: the pod is; waits: its devices are not ready; retry: it is not bound, and wants
	// to be. None of them: it is gone.
	bound, waits, retry bool
}

func (b *inbox) ended(o outcome) {
	b.mu.Lock()
	b.outcomes = append(b.outcomes, o)
	b.mu.Unlock()
	b.ring()
}

func (b *inbox) ring() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (b *inbox) take() ([]name, []outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.order)+len(b.outcomes) == 0 {
		return nil, nil
	}
	names, outcomes := b.order, b.outcomes
	b.order, b.outcomes = nil, nil
	clear(b.names)
	return names, outcomes
}
