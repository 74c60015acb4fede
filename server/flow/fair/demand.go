package fair

import (
	"math"
	"time"
)

// Demand adds up over time how many seats a level could use.
type Demand struct {
	began, last             time.Time
	value, area, area2, top float64
}

// Period is what a stretch of time saw.
type Period struct {
	Average, Deviation, High float64
	Length                   time.Duration
}

func (d *Demand) begin(now time.Time) {
	*d = Demand{began: now, last: now, value: d.value, top: d.value}
}

func (d *Demand) set(now time.Time, v float64) {
	d.advance(now)
	d.value = v
	d.top = max(d.top, v)
}

func (d *Demand) advance(now time.Time) {
	if passed := now.Sub(d.last).Seconds(); passed > 0 {
		d.area += d.value * passed
		d.area2 += d.value * d.value * passed
		d.last = now
	}
}

func (d *Demand) reset(now time.Time) Period {
	d.advance(now)
	p := Period{High: d.top, Length: d.last.Sub(d.began)}
	if s := p.Length.Seconds(); s > 0 {
		p.Average = d.area / s
		p.Deviation = math.Sqrt(max(0, d.area2/s-p.Average*p.Average))
	}
	d.begin(d.last)
	return p
}
