package fakeengine

import (
	"context"
	"fmt"
	"io"
	"time"

	"orch/runtime/engine"
)

// List shows all containers.
func (e *Engine) List(context.Context) ([]engine.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]engine.Container, 0, len(e.containers))
	for _, c := range e.containers {
		out = append(out, c.Container)
	}
	return out, nil
}

// Inspect shows one.
func (e *Engine) Inspect(_ context.Context, id string) (engine.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.findLocked(id)
	if err != nil {
		return engine.Container{}, err
	}
	return c.Container, nil
}

// subscriberQueue holds events for a reader; a full one makes the sender wait
// until the reader or its context moves.
const subscriberQueue = 4096

// Events delivers until ctx ends.
func (e *Engine) Events(ctx context.Context) <-chan engine.Event {
	ch := make(chan engine.Event, subscriberQueue)
	e.mu.Lock()
	e.subs[ch] = ctx
	e.mu.Unlock()
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subs, ch)
		close(ch)
	})
	return ch
}

func (e *Engine) publishLocked(ev engine.Event) {
	for ch, ctx := range e.subs {
		select {
		case ch <- ev:
		case <-ctx.Done():
		}
	}
}

// Update accepts everything for a container that is there.
func (e *Engine) Update(_ context.Context, id string, r engine.Resources) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.findLocked(id)
	if err != nil {
		return err
	}
	if c.State == engine.Exited {
		return fmt.Errorf("updating container %s: %w", id, engine.ErrNotRunning)
	}
	e.noteLocked("update %s", id)
	c.spec.Resources = r
	return nil
}

// running finds a running container.
func (e *Engine) running(id string) (*container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.findLocked(id)
	if err != nil {
		return nil, err
	}
	if c.State != engine.Running {
		return nil, fmt.Errorf("container %s is %s: %w", id, c.State, engine.ErrNotRunning)
	}
	return c, nil
}

// Exec asks the script.
func (e *Engine) Exec(ctx context.Context, id string, s engine.ExecSpec, streams engine.IO) (int, error) {
	c, err := e.running(id)
	if err != nil {
		return 0, err
	}
	if c.script.Exec == nil {
		return 0, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return c.script.Exec(ctx, s, streams)
}

// Attach shows what the container prints from now on, until it ends.
func (e *Engine) Attach(ctx context.Context, id string, streams engine.IO) error {
	c, err := e.running(id)
	if err != nil {
		return err
	}
	var w io.Writer = io.Discard
	if streams.Stdout != nil {
		w = streams.Stdout
	}
	sink := &writer{w}
	e.mu.Lock()
	c.sinks[sink] = struct{}{}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(c.sinks, sink)
		e.mu.Unlock()
	}()
	select {
	case <-c.ended:
	case <-ctx.Done():
	}
	return nil
}

// writer makes any io.Writer usable as a map key.
type writer struct{ io.Writer }

// Print lets a running container print, to its log and to all who are attached.
func (e *Engine) Print(id, text string) error {
	c, err := e.running(id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c.print(text)
	return nil
}

// ReopenLog opens the log anew.
func (e *Engine) ReopenLog(_ context.Context, id string) error {
	c, err := e.running(id)
	if err != nil || c.log == nil {
		return err
	}
	return c.log.Reopen()
}

// Stats as the script says.
func (e *Engine) Stats(_ context.Context, id string) (engine.Stats, error) {
	c, err := e.running(id)
	if err != nil {
		return engine.Stats{}, err
	}
	s := c.script.Stats
	if s.Time.IsZero() {
		s.Time = time.Now()
	}
	return s, nil
}

// RootPath is unknown: there is no file system.
func (e *Engine) RootPath(_ context.Context, id string) (string, error) {
	_, err := e.Inspect(context.Background(), id)
	return "", err
}
