package containerd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"orch/runtime/engine"
)

// logBuffer takes log lines from any goroutine.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestExecGivenUpSaysNothing: a probe that times out and a client that leaves are
// normal; the connection to the shim used to log "message on inactive stream" for each.
func TestExecGivenUpSaysNothing(t *testing.T) {
	c := testConfig(t)
	var said logBuffer
	c.Log = slog.New(slog.NewTextHandler(&said, nil))
	e := open(t, c)
	busybox(t, e)
	s := crashSpec(c.Root, "given-up", polite+`sleep 1000 & wait`)
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		_, err := e.Exec(ctx, s.ID, engine.ExecSpec{Command: []string{"sleep", "1000"}}, engine.IO{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("exec: %v", err)
		}
	}
	if code, err := e.Exec(t.Context(), s.ID, engine.ExecSpec{Command: []string{"true"}}, engine.IO{}); err != nil || code != 0 {
		t.Errorf("exec after those: %d %v", code, err)
	}
	if err := e.Signal(t.Context(), s.ID, 9, true); err != nil {
		t.Error(err)
	}
	until(t, "it has ended", func() bool { v, err := e.Inspect(t.Context(), s.ID); return err == nil && v.State == engine.Exited })
	removeAll(t, e, c.State)
	if strings.Contains(said.String(), "inactive stream") {
		t.Errorf("log:\n%s", said.String())
	}
}
