// Package reconcile is the one reconcile loop: queue, workers, back-off, drain
// and metrics, the same for every controller, the scheduler's helpers and the
// agent. A controller is a Spec, a value. It sees keys, never events; it reads the
// cache, computes a pure plan and acts.
//
// Read your own writes: the loop notes the revision of every write that Do made
// with the context it was given (through a *client.Client), and holds the key back
// until the cache of the written kind has passed it, for every kind that the Spec
// watches. Controllers need no expectations and no sleeps.
//
// Start reading at Spec, then loop.go (the policy is settle), then queue.go.
package reconcile

import (
	"context"
	"errors"
	"time"

	"orch/api"
	"orch/api/client"
	"orch/api/histogram"
)

// Key names one object to look at. Kind-less: a Spec watches for one primary kind.
type Key struct{ Namespace, Name string }

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Result tells the loop what to do with a key that did not fail.
type Result struct {
	// After asks for another look at the key after that time, instead of the
	// time asked for before; 0: when something changes.
	After time.Duration
}

// Watch turns changes of one kind into keys.
type Watch struct {
	Kind *api.Facts
	// Keys lists what a change concerns. Old or New may be nil, not both. It is
	// called from the cache's own goroutine: it must be quick and must not block.
	Keys func(change client.Change) []Key
}

// Spec is one controller.
type Spec struct {
	Name string
	// Workers is how many keys are worked on at a time; 0 means 1.
	Workers int
	Watches []Watch
	// Source, if set, runs beside the workers until ctx ends and adds keys that no
	// watch gives: of kinds that are known only at run time, of a directory. It may
	// return early; an error ends the loop.
	Source func(ctx context.Context, add func(...Key)) error
	// Do brings one key nearer to what is desired. An error retries it with
	// back-off (5 ms doubled up to 1 min, with jitter); Terminal(err) does not.
	Do func(ctx context.Context, key Key) (Result, error)
}

// Terminal marks an error that trying again cannot mend: the key is looked at
// again only when something changes. Terminal(nil) is nil.
func Terminal(err error) error {
	if err == nil {
		return nil
	}
	return terminal{err}
}

type terminal struct{ error }

func (t terminal) Unwrap() error { return t.error }

func isTerminal(err error) bool { return errors.As(err, new(terminal)) }

// Metrics are the numbers of one controller since it started.
type Metrics struct {
	Name string
	// Runs counts calls of Do; Failed those that ended in an error (Panics and
	// Conflicts included).
	Runs, Failed, Panics, Conflicts uint64
	// Busy is the time spent in Do, all workers together.
	Busy time.Duration
	// Ready keys wait for a worker, Running ones are being worked on or held for
	// the cache, Later ones have a timer.
	Ready, Running, Later int
	// Added counts keys that came to the queue, Retried those that came back for an error.
	Added, Retried uint64
	// Waited is how long keys waited for a worker, Worked how long Do took, in seconds.
	Waited, Worked *histogram.Histogram
	// Unfinished is the time that the keys being worked on have taken so far, all
	// together; Longest that of the oldest.
	Unfinished, Longest time.Duration
}

// queueBounds are upstream's for its work queues.
var queueBounds = histogram.Exponential(1e-8, 10, 12)
