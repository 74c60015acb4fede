package server

import (
	"context"
	"errors"
	"fmt"
)

// Part runs as long as the server.
type Part struct {
	Name string
	// Run blocks until its context ends and returns nil then. Another return is a failure.
	Run func(context.Context) error
	// Ready closes when the next part may start; nil if at once.
	Ready <-chan struct{}
}

// ended is how a part came to its end.
type ended struct {
	index int
	err   error
}

// runInOrder starts each part once the one before it is ready, calls started when
// all are, and stops them in reverse order, each before the one it leans on. It
// returns the first failure.
func runInOrder(ctx context.Context, parts []Part, started func()) error {
	ends := make(chan ended, len(parts))
	stops := make([]context.CancelFunc, 0, len(parts))
	var failure error
	for i, p := range parts {
		// Parts end by stop below, in order, not all at once with ctx.
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		stops = append(stops, cancel)
		go func() { ends <- ended{i, p.Run(own)} }()
		ready := p.Ready
		if ready == nil {
			ready = closedChannel
		}
		select {
		case <-ready:
		case <-ctx.Done():
		case e := <-ends:
			ends <- e
			failure = failed(parts, e)
		}
		if ctx.Err() != nil || failure != nil {
			break
		}
	}
	if ctx.Err() == nil && failure == nil {
		started()
		select {
		case <-ctx.Done():
		case e := <-ends:
			ends <- e
			failure = failed(parts, e)
		}
	}
	return errors.Join(failure, stopInReverse(parts, stops, ends, failure))
}

func failed(parts []Part, e ended) error {
	if e.err == nil {
		return fmt.Errorf("%s ended by itself", parts[e.index].Name)
	}
	return fmt.Errorf("%s: %w", parts[e.index].Name, e.err)
}

// stopInReverse ends what was started. Errors of parts count only if nothing
// failed before: what falls later falls because of the first.
func stopInReverse(parts []Part, stops []context.CancelFunc, ends <-chan ended, failure error) error {
	done := map[int]bool{}
	var errs []error
	for i := len(stops) - 1; i >= 0; i-- {
		stops[i]()
		for !done[i] {
			e := <-ends
			done[e.index] = true
			if e.err != nil && failure == nil && !errors.Is(e.err, context.Canceled) {
				errs = append(errs, failed(parts, e))
			}
		}
	}
	return errors.Join(errs...)
}

// closedChannel is ready at once.
var closedChannel = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
