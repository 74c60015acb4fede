// Package reconcile is the one reconcile loop: queue, workers, back-off, drain
// and metrics, the same for every controller, the scheduler's helpers and the
// agent. A controller is a Spec, a value. It sees keys, never events; it reads the
// cache, computes a pure plan and acts.
//
// Read your own writes: the loop notes the revision of every write that Do made
// through the client it got from the context, and holds the key back until the
// caches of the watched kinds have passed it. Controllers need no expectations
// and no sleeps.
package reconcile

import (
	"context"
	"time"

	"orch/api"
	"orch/api/client"
)

// Key names one object to look at. Kind-less: a Spec watches for one primary kind.
type Key struct{ Namespace, Name string }

// Result tells the loop what to do with a key that did not fail.
type Result struct {
	// After asks for another look at the key after that time; 0: when something changes.
	After time.Duration
}

// Watch turns changes of one kind into keys.
type Watch struct {
	Kind *api.Facts
	// Keys lists what a change concerns. Old or New may be nil, not both.
	Keys func(change client.Change) []Key
}

// Spec is one controller.
type Spec struct {
	Name string
	// Workers is how many keys are worked on at a time; 0 means 1.
	Workers int
	Watches []Watch
	// Do brings one key nearer to what is desired. An error retries it with
	// back-off (5 ms doubled up to 1 min, with jitter); Terminal(err) does not.
	Do func(ctx context.Context, key Key) (Result, error)
}

// For watches the primary kind: a changed object is its own key.
func For[T any](k api.Kind[T]) Watch {
	return Watch{Kind: k.Facts, Keys: func(c client.Change) []Key {
		o := c.New
		if o == nil {
			o = c.Old
		}
		return []Key{{o.GetNamespace(), o.GetName()}}
	}}
}
