package daemonset

import (
	"fmt"
	"sync"
	"time"

	apps "k8s.io/api/apps/v1"
)

const (
	backoffFirst = time.Second
	backoffMost  = 15 * time.Minute
	// backoffKeys bounds the memory; beyond it, what is over is let go of at every
	// use, and if nothing is, everything: pods are then replaced sooner than they should be.
	backoffKeys = 10_000
)

// backoff keeps a node that refuses its pod, and a set that replaces it, from a fight at full speed.
type backoff struct {
	now func() time.Time

	mu   sync.Mutex
	keys map[string]failure
}

// failure is how long the last wait was and when it began.
type failure struct {
	wait time.Duration
	at   time.Time
}

func newBackoff(now func() time.Time) *backoff {
	return &backoff{now: now, keys: map[string]failure{}}
}

// key is new with every change of the set: another template may work.
func (b *backoff) key(d *apps.DaemonSet, node string) string {
	return fmt.Sprintf("%s/%d/%s", d.UID, d.Status.ObservedGeneration, node)
}

// wait is what is left of the node's wait; 0 if nothing.
func (b *backoff) wait(d *apps.DaemonSet, node string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.keys[b.key(d, node)]
	if !ok {
		return 0
	}
	return max(f.at.Add(f.wait).Sub(b.now()), 0)
}

// next begins the node's next wait, twice as long as the one before, unless that is long over.
func (b *backoff) next(d *apps.DaemonSet, node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if len(b.keys) >= backoffKeys {
		b.sweepLocked(now)
	}
	k := b.key(d, node)
	f, ok := b.keys[k]
	if !ok || over(f, now) {
		b.keys[k] = failure{backoffFirst, now}
		return
	}
	b.keys[k] = failure{min(2*f.wait, backoffMost), now}
}

func (b *backoff) sweepLocked(now time.Time) {
	for k, f := range b.keys {
		if over(f, now) {
			delete(b.keys, k)
		}
	}
	if len(b.keys) >= backoffKeys {
		clear(b.keys)
	}
}

func over(f failure, now time.Time) bool { return now.Sub(f.at) > 2*backoffMost }
