package flow

import (
	"sync/atomic"
	"time"

	"orch/api/histogram"
	"orch/server/flow/fair"
)

// counts are the numbers of one schema at one level, guarded by level.mu.
type counts struct {
	dispatched                         uint64
	full, noSeats, timedOut            uint64
	waiting, waitingSeats              int
	executing, seats                   int
	lengths, waits, refusals, watchers *histogram.Histogram
	regular, watches                   *histogram.Histogram // how long they ran
	widths                             *histogram.Histogram
}

var (
	lengthBounds = []float64{0, 10, 25, 50, 100, 250, 500, 1000}
	timeBounds   = []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30}
	watchBounds  = []float64{0, 1, 10, 100, 1000, 10000}
	widthBounds  = []float64{1, 2, 4, 8, 16, 32, 64, 100}
	demandBounds = []float64{0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.7, 2, 2.8, 4, 6}
	partBounds   = []float64{0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1}
	usedBounds   = []float64{0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1}
)

// countsOf is called with mu held.
func (l *level) countsOf(s *schema) *counts {
	c := l.counts[s.name]
	if c == nil {
		c = &counts{
			lengths: histogram.New(lengthBounds), waits: histogram.New(timeBounds), refusals: histogram.New(timeBounds), watchers: histogram.New(watchBounds),
			regular: histogram.New(timeBounds), watches: histogram.New(timeBounds), widths: histogram.New(widthBounds),
		}
		l.counts[s.name] = c
	}
	return c
}

func seatsOf(r *fair.Request) int { return max(r.Seats, r.FinalSeats, 1) }

// measured takes note of the seats that are wanted and taken, and of who waits. mu is held.
func (l *level) measured(now time.Time) {
	n := l.set.Counts()
	l.wanted.Set(now, float64(n.SeatsInUse+n.SeatsWaiting)/l.nominal)
	limit := float64(max(l.set.Limit(), 1))
	l.used.Set(now, float64(n.SeatsInUse)/limit)
	l.executing.Set(now, float64(n.Executing)/limit)
	l.waiting.Set(now, float64(n.Waiting)/l.room)
}

// note counts what became of a request that arrived. mu is held.
func (l *level) note(t *Ticket, d fair.Decision, watched int) {
	c := l.countsOf(t.schema)
	width := seatsOf(&t.seats)
	c.widths.Observe(float64(width))
	if t.asked.Writes {
		c.watchers.Observe(float64(watched))
	}
	switch d {
	case fair.Run:
		if l.queued.Load() {
			c.lengths.Observe(1)
		}
		c.waits.Observe(0)
		c.dispatched++
		c.executing++
		c.seats += width
	case fair.Wait:
		c.lengths.Observe(float64(t.seats.Queued()))
		c.waiting++
		c.waitingSeats += width
	case fair.QueueFull:
		c.full++
	case fair.NoSeats:
		c.noSeats++
	}
}

func (c *counts) started(t *Ticket) {
	width := seatsOf(&t.seats)
	c.waits.Observe(t.seats.Started.Sub(t.seats.Arrived).Seconds())
	c.waiting--
	c.waitingSeats -= width
	c.dispatched++
	c.executing++
	c.seats += width
}

func (c *counts) gaveUp(t *Ticket) {
	c.refusals.Observe(t.Waited.Seconds())
	c.waiting--
	c.waitingSeats -= seatsOf(&t.seats)
	c.timedOut++
}

func (c *counts) left(t *Ticket, now time.Time, lingers bool) {
	c.executing--
	h := c.regular
	if t.asked.Verb == "watch" {
		h = c.watches
	}
	h.Observe(now.Sub(t.seats.Started).Seconds())
	if !lingers {
		c.seats -= seatsOf(&t.seats)
	}
}

// kindGauge counts reads or writes that run and that wait, with the peak since somebody
// looked.
type kindGauge struct{ executing, waiting peakGauge }

type peakGauge struct{ now, peak atomic.Int64 }

func (g *peakGauge) add(n int64) {
	v := g.now.Add(n)
	for n > 0 {
		p := g.peak.Load()
		if v <= p || g.peak.CompareAndSwap(p, v) {
			return
		}
	}
}

// take is the peak since the last call.
func (g *peakGauge) take() float64 {
	v := g.now.Load()
	return float64(max(v, g.peak.Swap(v)))
}

func kindOf(writes bool) int {
	if writes {
		return 1
	}
	return 0
}
