package fair

// QueueState is one queue as a person looks at it.
type QueueState struct {
	// SeatsWaiting are those that the waiting want at their widest, InitialSeats at first.
	Waiting, Executing, SeatsInUse, SeatsWaiting, InitialSeats int
	NextDispatchR, Work                                        float64
}

// Queues shows all queues.
func (s *Set) Queues() []QueueState {
	out := make([]QueueState, len(s.queues))
	for i, q := range s.queues {
		out[i] = QueueState{q.length, q.running, q.inUse, q.seats, 0, q.dispatch, q.work}
		for r := q.head; r != nil; r = r.next {
			out[i].InitialSeats += r.Seats
		}
	}
	return out
}

// Requests calls each for those that wait, with their queue and place in it, then for
// those that run, with their queue (-1: none) and place -1.
func (s *Set) Requests(each func(queue, place int, r *Request)) {
	for i, q := range s.queues {
		place := 0
		for r := q.head; r != nil; r = r.next {
			each(i, place, r)
			place++
		}
	}
	for r := s.running; r != nil; r = r.next {
		if r.done {
			continue // it only lingers
		}
		at := -1
		if r.queue != nil {
			at = r.queue.index
		}
		each(at, -1, r)
	}
}
