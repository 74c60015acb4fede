package flow

import (
	"math"
	"time"

	"orch/server/flow/fair"
)

// Seats move between levels every adjustment, while there is a reason to: the first
// comes soon after a level has found its seats taken, the last when the seats lie as
// they do in peace. In between nothing runs.
const (
	firstAdjustment  = time.Second
	adjustmentPeriod = 10 * time.Second
	// smoothing keeps most of a demand that was, from one period to the next.
	smoothing = 0.977
	// peace is a demand below which a level is taken to want nothing.
	peace = 0.5
)

// demand is what a level wanted over the last period.
type demand struct {
	fair.Period
	smoothed, target float64
}

func (d *demand) update(p fair.Period) {
	d.Period = p
	if p.Length <= 0 {
		return
	}
	envelope := p.Average + p.Deviation
	d.smoothed = max(envelope, smoothing*d.smoothed+(1-smoothing)*envelope)
}

// arm has seats moved soon, unless they are being moved already.
func (c *Control) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.armed {
		return
	}
	c.armed = true
	now := c.now()
	for _, l := range c.plan.Load().levels { // what was wanted before this began counts little
		l.mu.Lock()
		l.set.Demand(now)
		l.mu.Unlock()
	}
	time.AfterFunc(firstAdjustment, c.adjust)
}

func (c *Control) adjust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.allot(c.plan.Load()) {
		time.AfterFunc(adjustmentPeriod, c.adjust)
		return
	}
	c.armed = false
}

// allot gives the levels their seats for the next period: those of the upstream
// algorithm. It tells whether anybody wanted many.
func (c *Control) allot(p *plan) (wanted bool) {
	now := c.now()
	var limited []*level
	var shares []fair.Share
	nominal, exempt, lowest, low := 0, 0, 0, 0
	for _, l := range p.levels {
		l.mu.Lock()
		l.demand.update(l.set.Demand(now))
		wanted = wanted || l.set.Counts().Waiting > 0
		l.mu.Unlock()
		nominal += l.bounds.nominal
		high := int(math.Round(l.demand.High))
		if l.spec.Exempt != nil {
			l.demand.target = float64(max(l.bounds.low, high))
			exempt += int(l.demand.target)
			continue
		}
		wanted = wanted || l.demand.smoothed > max(peace, float64(l.bounds.low)/2)
		least := max(l.bounds.low, min(l.bounds.nominal, high))
		l.demand.target = max(float64(least), l.demand.smoothed)
		limited = append(limited, l)
		shares = append(shares, fair.Share{Low: float64(least), High: float64(l.bounds.high), Target: l.demand.target})
		lowest += l.bounds.low
		low += least
	}
	left := nominal - exempt
	seats := make([]float64, len(shares))
	c.fraction = 0
	switch {
	case left <= lowest:
		for i, l := range limited {
			seats[i] = float64(l.bounds.low)
		}
	case left <= low:
		part := float64(left-lowest) / float64(low-lowest)
		for i, l := range limited {
			seats[i] = float64(l.bounds.low) + part*(shares[i].Low-float64(l.bounds.low))
		}
	default:
		seats, c.fraction = fair.Divide(float64(nominal), shares)
	}
	for i, l := range limited {
		l.give(now, int(math.Round(seats[i])))
	}
	for _, l := range p.levels {
		if l.spec.Exempt != nil {
			l.give(now, int(l.demand.target))
		}
	}
	return wanted
}

// give sets the level's queues and seats; what fits now starts.
func (l *level) give(now time.Time, seats int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set.Configure(now, terms(l.spec).queues, seats)
}
