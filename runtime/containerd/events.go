package containerd

import (
	"context"
	"sync"

	"orch/runtime/engine"
)

// hub hands events to all who subscribed.
//
// A subscriber's queue holds at most one event of each kind per container: a
// later one takes the earlier one's place. So it is bounded by the number of containers, and
// a slow reader misses no state.
type hub struct {
	mu   sync.Mutex
	subs map[*subscriber]struct{}
}

type eventKey struct{ id, kind string }

type subscriber struct {
	mu     sync.Mutex
	order  []eventKey
	events map[eventKey]engine.Event
	wake   chan struct{} // holds one
}

func (h *hub) publish(ev engine.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.put(ev)
	}
}

func (s *subscriber) put(ev engine.Event) {
	s.mu.Lock()
	k := eventKey{ev.ID, ev.Kind}
	if _, waits := s.events[k]; !waits {
		s.order = append(s.order, k)
	}
	s.events[k] = ev
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscriber) take() (engine.Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) == 0 {
		return engine.Event{}, false
	}
	k := s.order[0]
	s.order = s.order[1:]
	ev := s.events[k]
	delete(s.events, k)
	return ev, true
}

// subscribe returns a channel that is closed when ctx ends.
func (h *hub) subscribe(ctx context.Context) <-chan engine.Event {
	s := &subscriber{events: map[eventKey]engine.Event{}, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	if h.subs == nil {
		h.subs = map[*subscriber]struct{}{}
	}
	h.subs[s] = struct{}{}
	h.mu.Unlock()
	out := make(chan engine.Event)
	go func() {
		defer close(out)
		defer func() {
			h.mu.Lock()
			delete(h.subs, s)
			h.mu.Unlock()
		}()
		for {
			ev, ok := s.take()
			if !ok {
				select {
				case <-s.wake:
					continue
				case <-ctx.Done():
					return
				}
			}
			select {
			case out <- ev:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
