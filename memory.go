package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"
)

// quiet is how long no garbage was collected when a burst of work counts as over.
const quiet = 5 * time.Second

// cycle is collected with the garbage: its end tells of a collection. It holds a
// pointer so that it is not put together with other tiny objects.
type cycle struct{ _ *cycle }

// giveBack returns memory to the system when a burst of work is over, which the Go
// runtime alone does only as far as its next goal for the heap. It wakes up with
// collections, of which an idle process has one in two minutes, not by a clock.
func giveBack(ctx context.Context) error {
	collected := make(chan struct{}, 1)
	await := func() {
		runtime.AddCleanup(&cycle{}, func(c chan struct{}) {
			select {
			case c <- struct{}{}:
			default:
			}
		}, collected)
	}
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for await(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-collected:
			timer.Reset(quiet)
			await()
		case <-timer.C:
			debug.FreeOSMemory() // collects too: that one is not to be answered
			select {
			case <-collected:
				await()
			case <-ctx.Done():
				return nil
			}
		}
	}
}
