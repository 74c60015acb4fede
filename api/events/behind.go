package events

import "time"

// Of a series the first event and the beginning of the series are written at once, then
// what it has come to every seriesRefresh, and its end once it has been quiet for
// seriesEnd: as client-go's events do.
const (
	seriesRefresh = 30 * time.Minute
	seriesEnd     = 6 * time.Minute
)

// behind are the series of which the store does not know the latest. Only the recorder's
// goroutine touches it.
type behind struct {
	series map[*series]bool
	timer  *time.Timer // runs while there are any
}

func newBehind() *behind {
	b := &behind{series: map[*series]bool{}, timer: time.NewTimer(time.Hour)}
	b.timer.Stop()
	return b
}

// wait puts off writing s, if it may.
func (b *behind) wait(s *series) bool {
	if s.count <= 2 || s.last.Sub(s.written) >= seriesRefresh || len(b.series) >= knownLimit {
		delete(b.series, s)
		return false
	}
	if len(b.series) == 0 {
		b.timer.Reset(seriesEnd)
	}
	b.series[s] = true
	return true
}

// due takes out the series that have ended.
func (b *behind) due(now time.Time) (out []*series) {
	next := seriesEnd
	for s := range b.series {
		if left := seriesEnd - now.Sub(s.last); left > 0 {
			next = min(next, left)
			continue
		}
		out = append(out, s)
		delete(b.series, s)
	}
	if len(b.series) > 0 {
		b.timer.Reset(next)
	}
	return out
}

// all takes all out.
func (b *behind) all() (out []*series) {
	for s := range b.series {
		out = append(out, s)
	}
	clear(b.series)
	b.timer.Stop()
	return out
}
