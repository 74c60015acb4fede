package containerd

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

// TestOneClientLeavesAnotherTypes: a client that left an attachment took the pipe's
// deadline with it, and what the next one typed never reached the container.
func TestOneClientLeavesAnotherTypes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	out := &output{stdin: w, turn: make(chan struct{}, 1)}
	attach := func() (*typist, context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		return &typist{ctx: ctx, to: out}, cancel
	}
	first, leaveFirst := attach()
	second, leaveSecond := attach()
	defer leaveSecond()
	if _, err := first.Write(make([]byte, 64<<10)); err != nil { // the pipe is full now
		t.Fatal(err)
	}
	waits := make(chan error, 1)
	go func() { _, err := first.Write([]byte("first")); waits <- err }()
	typed := make(chan error, 1)
	time.Sleep(20 * time.Millisecond) // so that the first has its turn, in most runs
	go func() { _, err := second.Write([]byte("second")); typed <- err }()
	first.leave(leaveFirst)
	if err := <-waits; !errors.Is(err, context.Canceled) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the one who left: %v", err)
	}
	first.leave(leaveFirst) // late, as a connection's end may be
	got := make([]byte, 64<<10+len("second"))
	if _, err := io.ReadFull(r, got); err != nil || string(got[64<<10:]) != "second" {
		t.Errorf("%q %v", got[64<<10:], err)
	}
	if err := <-typed; err != nil {
		t.Errorf("the one who stayed: %v", err)
	}
}
