package flow

import "sync"

// maxRetryAfter is the most seconds that a refused client is told to wait.
const maxRetryAfter = 32

// drops counts a level's refusals by second, to say how long clients shall stay away:
// twice as long when at least three a second were refused during that time, a second
// less when under one was.
type drops struct {
	mu      sync.Mutex
	after   int64 // 0 is 1
	raised  int64 // second of the last raise
	second  int64
	history [2*maxRetryAfter + 1]struct{ second, count int64 } // a ring by second
}

// dropped counts one at that second and says how long to wait.
func (d *drops) dropped(second int64) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.after = max(d.after, 1)
	if second != d.second {
		d.second = second
		d.adjust(second)
	}
	slot := &d.history[second%int64(len(d.history))]
	if slot.second != second {
		slot.second, slot.count = second, 0
	}
	slot.count++
	return int(d.after)
}

func (d *drops) adjust(second int64) {
	n := int64(0)
	for _, h := range d.history {
		if h.second < second && second-h.second <= d.after {
			n += h.count
		}
	}
	switch {
	case second-d.raised >= d.after && n >= 3*d.after:
		d.after, d.raised = min(2*d.after, maxRetryAfter), second
	case n < d.after && d.after > 1:
		d.after--
	}
}
