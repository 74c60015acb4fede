package plan

import "time"

// Upstream's figures (MaxContainerBackOff and its initial value).
const (
	firstDelay = 10 * time.Second
	maxDelay   = 5 * time.Minute
	// forget is how long after a restart the back-off starts from the beginning.
	forget = 2 * maxDelay
)

// Backoff spaces the restarts of one container. The zero value lets the first
// restart happen at once.
type Backoff struct {
	Delay time.Duration
	// Since is when Delay was set: the time of the last restart.
	Since time.Time
}

// Until says when a container that ended at finished may start again; a time
// not after finished means at once.
func (b Backoff) Until(finished time.Time) time.Time {
	if b.Delay == 0 || finished.Sub(b.Since) > forget {
		return finished
	}
	return finished.Add(b.Delay)
}

// Next is the back-off after a restart at now.
func (b Backoff) Next(now time.Time) Backoff {
	if b.Delay == 0 || now.Sub(b.Since) > forget {
		return Backoff{Delay: firstDelay, Since: now}
	}
	return Backoff{Delay: Grow(b.Delay), Since: now}
}

// Grow is the delay after d: 10 s, then doubled up to 5 min.
func Grow(d time.Duration) time.Duration {
	if d == 0 {
		return firstDelay
	}
	return min(2*d, maxDelay)
}
