package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/runtime"

	"orch/runtime/engine"
)

// Attach connects to the first process's streams until they end or ctx ends.
func (e *Engine) Attach(ctx context.Context, id string, streams engine.IO) error {
	c, err := e.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	st, task, out := c.st.State, c.task, c.out
	c.mu.Unlock()
	if st == engine.Exited || task == nil || out == nil {
		return fmt.Errorf("attaching to container %s: %w", id, engine.ErrNotRunning)
	}
	s := newSink()
	if !out.add(s) {
		return fmt.Errorf("attaching to container %s: %w", id, engine.ErrNotRunning)
	}
	defer close(s.gone)
	defer out.remove(s)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if streams.Resize != nil && c.meta.TTY {
		go resize(ctx, e.scope(ctx), task, streams.Resize)
	}
	if streams.Stdin != nil && out.stdin != nil {
		in := &typist{ctx: ctx, to: out}
		defer in.leave(cancel)
		go func() {
			// Ends with the client's stream, which the caller closes on return.
			_, err := io.Copy(in, streams.Stdin)
			switch {
			case err != nil && !errors.Is(err, io.ErrClosedPipe):
			case c.meta.StdinOnce:
				_ = out.stdin.Close()
				_ = task.CloseIO(e.scope(context.WithoutCancel(ctx)))
			default: // the input stays open for the next client; who has said all is done
				out.remove(s)
				s.end()
			}
		}()
	}
	return s.deliver(ctx, streams)
}

// typist writes what one attached client types. Clients share the pipe and its one
// deadline, so they take turns: who leaves must wake his own write, which may wait for the
// container to read, and no other's.
type typist struct {
	ctx context.Context // of the attachment
	to  *output
}

func (t *typist) Write(p []byte) (written int, err error) {
	select {
	case t.to.turn <- struct{}{}:
	case <-t.ctx.Done():
		return 0, t.ctx.Err()
	}
	defer func() { <-t.to.turn }()
	for {
		// The deadline first: if this client leaves after it is lifted, leave sets it again.
		_ = t.to.stdin.SetWriteDeadline(time.Time{})
		if err := t.ctx.Err(); err != nil {
			return written, err
		}
		n, err := t.to.stdin.Write(p[written:])
		written += n
		if !errors.Is(err, os.ErrDeadlineExceeded) || t.ctx.Err() != nil {
			return written, err
		}
	}
}

// leave gives up a write that waits.
func (t *typist) leave(cancel context.CancelFunc) {
	cancel()
	_ = t.to.stdin.SetWriteDeadline(time.Now())
}

// deliver writes what comes until the end of the output or of ctx.
func (s *sink) deliver(ctx context.Context, to engine.IO) error {
	for {
		select {
		case c := <-s.chunks:
			if err := c.write(to); err != nil {
				return err
			}
			continue
		case <-ctx.Done():
			return nil
		case <-s.cut:
		}
		for { // what still waits
			select {
			case c := <-s.chunks:
				if err := c.write(to); err != nil {
					return err
				}
			default:
				return nil
			}
		}
	}
}

func (c chunk) write(to engine.IO) error {
	w := to.Stdout
	if c.stderr {
		w = to.Stderr
	}
	if w == nil {
		return nil
	}
	_, err := w.Write(c.data)
	return err
}

// resize passes terminal sizes on until ctx ends or sizes is closed.
func resize(ctx, call context.Context, p runtime.Process, sizes <-chan engine.Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case sz, ok := <-sizes:
			if !ok {
				return
			}
			_ = p.ResizePty(call, runtime.ConsoleSize{Width: uint32(sz.Width), Height: uint32(sz.Height)})
		}
	}
}

// ReopenLog opens the log path anew.
func (e *Engine) ReopenLog(_ context.Context, id string) error {
	c, err := e.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	out := c.out
	c.mu.Unlock()
	if out == nil || out.log == nil {
		return fmt.Errorf("reopening log of container %s: %w", id, engine.ErrNotRunning)
	}
	if err := out.log.Reopen(); err != nil {
		if errors.Is(err, os.ErrClosed) {
			return fmt.Errorf("reopening log of container %s: %w", id, engine.ErrNotRunning)
		}
		return fmt.Errorf("reopening log of container %s: %w", id, err)
	}
	return nil
}
