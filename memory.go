package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// quiet is how long no garbage was collected when a burst of work counts as over.
const quiet = 5 * time.Second

// kept is how much free memory, in bytes, stays with the process: what an idle one frees
// in two minutes is used again in the next two, and giving it back costs a collection.
const kept = 4 << 20

// idleBytes is the memory of the heap that is free and not given back.
func idleBytes() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

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
			if idleBytes() < kept {
				continue
			}
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
