// Package fakeengine is an engine.Engine in memory, for tests of what stands
// above: containers "run" as a Script says. It refuses what the real one refuses (an image
// that is not there, starting twice, removing what runs) and passes the same
// suite (enginetest). It starts no process and touches no file but the logs of
// containers whose script prints.
//
// Start reading at Script, then Engine.Create.
package fakeengine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"orch/runtime/engine"
	"orch/runtime/logfile"
)

// Script says how a container behaves. The zero value runs until it is told to
// end: SIGTERM ends it with 143, SIGKILL with 137.
type Script struct {
	// CreateErr and StartErr are returned instead of making or starting it.
	CreateErr, StartErr error
	// Output is printed to stdout at the start.
	Output string
	// Exits makes it end by itself, After the start, with Code.
	Exits bool
	After time.Duration
	Code  int
	// OOM makes that end (or SIGKILL) one by the out-of-memory killer.
	OOM bool
	// IgnoreTerm leaves SIGTERM without effect; TermCode is the code after
	// SIGTERM otherwise, 0 meaning 143.
	IgnoreTerm bool
	TermCode   int
	// Exec runs a process; nil prints nothing and returns 0.
	Exec func(ctx context.Context, s engine.ExecSpec, io engine.IO) (int, error)
	// Stats are shown while it runs.
	Stats engine.Stats
}

// Options of New. The zero value knows every image and runs everything forever.
type Options struct {
	// Script finds the behaviour of a container; nil means the zero Script.
	Script func(engine.Spec) Script
	// Images are there from the start, by reference. Nil with OnlyImages false: every reference resolves.
	Images []string
	// OnlyImages makes references that are not in Images, pulled or imported unknown.
	OnlyImages bool
	// Pull stands for the registry; nil lets every pull succeed.
	Pull func(ref string, auths []engine.Auth) error
}

// Engine is the fake.
type Engine struct {
	opts   Options
	images *images

	mu         sync.Mutex
	containers map[string]*container
	nextPID    int
	subs       map[chan engine.Event]context.Context
	calls      []string
}

type container struct {
	engine.Container
	spec   engine.Spec
	script Script
	timer  *time.Timer
	ended  chan struct{}
	log    *logfile.Writer
	sinks  map[io.Writer]struct{}
}

var _ engine.Engine = (*Engine)(nil)

// New makes an engine.
func New(o Options) *Engine {
	e := &Engine{opts: o, containers: map[string]*container{}, nextPID: 1000, subs: map[chan engine.Event]context.Context{}}
	e.images = newImages(o)
	return e
}

// ByCommand finds a script by the first word of a container's command.
func ByCommand(scripts map[string]Script) func(engine.Spec) Script {
	return func(s engine.Spec) Script {
		for _, words := range [][]string{s.Command, s.Args} {
			if len(words) > 0 {
				return scripts[words[0]]
			}
		}
		return Script{}
	}
}

// Calls lists what was asked of the engine, one line per call that changes something.
func (e *Engine) Calls() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.calls...)
}

// Spec returns what a container was made from.
func (e *Engine) Spec(id string) (engine.Spec, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	if c == nil {
		return engine.Spec{}, false
	}
	return c.spec, true
}

func (e *Engine) noteLocked(format string, args ...any) {
	if len(e.calls) < 10_000 { // a record for tests, not a leak in long ones
		e.calls = append(e.calls, fmt.Sprintf(format, args...))
	}
}

// Images of the engine.
func (e *Engine) Images() engine.Images { return e.images }

// Version of the fake.
func (e *Engine) Version() string { return "fake://1.0.0" }

// PreparePod does nothing; the real engine starts a shim.
func (e *Engine) PreparePod(context.Context, string) error { return nil }

// Create makes a container.
func (e *Engine) Create(ctx context.Context, s engine.Spec) error {
	img, err := e.images.Resolve(ctx, s.Image)
	if err != nil {
		return fmt.Errorf("creating container %s: %w", s.ID, err)
	}
	c := &container{spec: s, ended: make(chan struct{}), sinks: map[io.Writer]struct{}{}}
	if e.opts.Script != nil {
		c.script = e.opts.Script(s)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.noteLocked("create %s", s.ID)
	switch {
	case s.ID == "":
		return errors.New("creating container: no ID")
	case e.containers[s.ID] != nil:
		return fmt.Errorf("container %s: %w", s.ID, engine.ErrExists)
	case c.script.CreateErr != nil:
		return fmt.Errorf("creating container %s: %w", s.ID, c.script.CreateErr)
	}
	if s.LogPath != "" && c.script.Output != "" {
		if c.log, err = logfile.NewWriter(logfile.Config{Path: s.LogPath, MaxBytes: s.LogMaxBytes, MaxFiles: s.LogMaxFiles}); err != nil {
			return fmt.Errorf("creating container %s: %w", s.ID, err)
		}
	}
	e.nextPID++
	c.Container = engine.Container{
		ID: s.ID, Pod: s.Pod, Labels: s.Labels, Image: s.Image, ImageID: img.ID,
		State: engine.Created, PID: e.nextPID, CreatedAt: time.Now(), LogPath: s.LogPath,
	}
	e.containers[s.ID] = c
	return nil
}

// Start lets it run.
func (e *Engine) Start(_ context.Context, id string) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.findLocked(id)
	if err != nil {
		return 0, err
	}
	e.noteLocked("start %s", id)
	if c.State != engine.Created {
		return 0, fmt.Errorf("starting container %s: it is %s already: %w", id, c.State, engine.ErrExists)
	}
	if c.script.StartErr != nil {
		return 0, fmt.Errorf("starting container %s: %w", id, c.script.StartErr)
	}
	c.State, c.StartedAt = engine.Running, time.Now()
	e.publishLocked(engine.Event{ID: id, Pod: c.Pod, Kind: "start", Time: c.StartedAt})
	if c.script.Output != "" {
		c.print(c.script.Output)
	}
	if c.script.Exits {
		c.timer = time.AfterFunc(c.script.After, func() { e.end(c, c.script.Code, c.script.OOM) })
	}
	return c.PID, nil
}

func (c *container) print(text string) {
	if c.log != nil {
		_ = c.log.Append(time.Now(), logfile.Stdout, []byte(text))
	}
	for w := range c.sinks {
		_, _ = io.WriteString(w, text)
	}
}

// end lets the container's process end.
func (e *Engine) end(c *container, code int, oom bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.endLocked(c, code, oom)
}

func (e *Engine) endLocked(c *container, code int, oom bool) {
	if c.State == engine.Exited {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.log != nil {
		_ = c.log.Close()
	}
	c.State, c.PID, c.ExitCode, c.FinishedAt, c.OOMKilled = engine.Exited, 0, code, time.Now(), oom
	close(c.ended)
	if oom {
		e.publishLocked(engine.Event{ID: c.ID, Pod: c.Pod, Kind: "oom", Time: c.FinishedAt})
	}
	e.publishLocked(engine.Event{ID: c.ID, Pod: c.Pod, Kind: "exit", ExitCode: code, Time: c.FinishedAt})
}

// End makes a container end now, as a test wishes.
func (e *Engine) End(id string, code int, oom bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.findLocked(id)
	if err != nil {
		return err
	}
	e.endLocked(c, code, oom)
	return nil
}

func (e *Engine) findLocked(id string) (*container, error) {
	if c := e.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, engine.ErrNotFound)
}

// Signal as the script says.
func (e *Engine) Signal(_ context.Context, id string, signal int, _ bool) error {
	const sigkill, sigterm = 9, 15
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.findLocked(id)
	if err != nil {
		return err
	}
	if signal == 0 {
		signal = sigterm // the fake's images have no other stop signal
	}
	e.noteLocked("signal %s %d", id, signal)
	if c.State == engine.Exited {
		return fmt.Errorf("signalling container %s: %w", id, engine.ErrNotRunning)
	}
	switch {
	case signal == sigkill:
		e.endLocked(c, 128+sigkill, c.script.OOM)
	case signal == sigterm && !c.script.IgnoreTerm:
		code := c.script.TermCode
		if code == 0 {
			code = 128 + sigterm
		}
		e.endLocked(c, code, false)
	}
	return nil
}

// Remove deletes a container that does not run.
func (e *Engine) Remove(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.findLocked(id)
	if err != nil {
		return nil
	}
	e.noteLocked("remove %s", id)
	if c.State == engine.Running {
		return fmt.Errorf("removing container %s: it is running", id)
	}
	if c.State == engine.Created {
		close(c.ended)
	}
	delete(e.containers, id)
	return nil
}
