package containerd

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"orch/runtime/engine"
	"orch/runtime/oci"
)

const (
	processType = "types.containerd.io/opencontainers/runtime-spec/1/Process"
	killTime    = 5 * time.Second
	deleteTime  = 15 * time.Second
)

// Exec runs a further process. It returns when the process has ended and its
// output is delivered. When ctx ends first, the process is killed.
func (e *Engine) Exec(ctx context.Context, id string, s engine.ExecSpec, streams engine.IO) (int, error) {
	c, err := e.find(id)
	if err != nil {
		return 0, err
	}
	task, _, err := c.running()
	if err != nil {
		return 0, err
	}
	e.background(e.quicken)
	process, err := e.execProcess(ctx, c, s)
	if err != nil {
		return 0, fmt.Errorf("executing in container %s: %w", id, err)
	}
	x := &execution{id: "exec-" + rand.Text()[:12], streams: streams, spec: s, later: e.background, ended: make(chan struct{})}
	x.dir = filepath.Join(e.pipesDir(id), x.id)
	defer os.RemoveAll(x.dir)
	if err := x.open(); err != nil {
		return 0, fmt.Errorf("executing in container %s: %w", id, err)
	}
	defer x.close()
	code, err := x.run(e.scope(ctx), task, process)
	if err != nil {
		return 0, fmt.Errorf("executing in container %s: %w", id, err)
	}
	return code, nil
}

// execProcess is the container's own process with another command.
func (e *Engine) execProcess(ctx context.Context, c *container, s engine.ExecSpec) (*anypb.Any, error) {
	rec, err := e.srv.client.ContainerService().Get(e.scope(ctx), c.id)
	if err != nil {
		return nil, fmt.Errorf("reading its record: %w", err)
	}
	var spec struct {
		Process *specs.Process `json:"process"`
	}
	if err := json.Unmarshal(rec.Spec.GetValue(), &spec); err != nil || spec.Process == nil {
		return nil, fmt.Errorf("reading its spec: %w", err)
	}
	p := spec.Process
	p.Args, p.Terminal = s.Command, s.TTY
	if s.TTY {
		p.Env = oci.MergeEnv([]string{"TERM=xterm"}, p.Env)
	}
	p.Env = oci.MergeEnv(p.Env, s.Env)
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: processType, Value: b}, nil
}

// execution is one Exec call: its pipes and the goroutines that copy.
type execution struct {
	id, dir string
	spec    engine.ExecSpec
	streams engine.IO
	later   func(func()) // runs something in the background
	paths   runtime.IO
	files   []*os.File // all that is open
	keep    []*os.File // writing ends, until the shim has its own
	stdin   *os.File
	outputs sync.WaitGroup
	readers []func()
	pipes   []*os.File    // what the readers read
	ended   chan struct{} // closed when the process has ended
}

// open makes the pipes. Streams that nobody wants are thrown away here, not in the container.
func (x *execution) open() error {
	if err := os.MkdirAll(x.dir, 0o700); err != nil {
		return err
	}
	x.paths = runtime.IO{Terminal: x.spec.TTY, Stdout: filepath.Join(x.dir, "stdout")}
	if !x.spec.TTY {
		x.paths.Stderr = filepath.Join(x.dir, "stderr")
	}
	if x.streams.Stdin != nil {
		x.paths.Stdin = filepath.Join(x.dir, "stdin")
	}
	if err := makePipes(x.dir, x.paths); err != nil {
		return err
	}
	for _, o := range []struct {
		path string
		to   io.Writer
	}{{x.paths.Stdout, x.streams.Stdout}, {x.paths.Stderr, x.streams.Stderr}} {
		if o.path == "" {
			continue
		}
		r, err := x.openFile(o.path, os.O_RDONLY)
		if err != nil {
			return err
		}
		w, err := x.openFile(o.path, os.O_WRONLY)
		if err != nil {
			return err
		}
		x.keep = append(x.keep, w)
		to := o.to
		if to == nil {
			to = io.Discard
		}
		x.readers = append(x.readers, func() {
			if _, err := io.Copy(to, quietEnd{r, x.ended}); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				_, _ = io.Copy(io.Discard, quietEnd{r, x.ended}) // the client is gone; the process must not hang
			}
		})
		x.pipes = append(x.pipes, r)
	}
	if x.paths.Stdin != "" {
		var err error
		if x.stdin, err = x.openFile(x.paths.Stdin, os.O_RDWR); err != nil {
			return err
		}
	}
	return nil
}

func (x *execution) openFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|syscall.O_NONBLOCK, 0)
	if err == nil {
		x.files = append(x.files, f)
	}
	return f, err
}

func (x *execution) close() {
	for _, f := range x.files {
		f.Close()
	}
	x.outputs.Wait()
}

func (x *execution) run(ctx context.Context, task runtime.Task, process *anypb.Any) (int, error) {
	calls := context.WithoutCancel(ctx) // what is begun is ended properly
	p, err := task.Exec(calls, x.id, runtime.ExecOpts{Spec: process, IO: x.paths})
	if err != nil {
		return 0, err
	}
	// Deleting waits for output that something left behind may still hold: not here.
	defer x.later(func() {
		del, cancel := context.WithTimeout(calls, deleteTime)
		defer cancel()
		_, _ = p.Delete(del)
	})
	for _, read := range x.readers {
		x.outputs.Go(read)
	}
	if err := p.Start(calls); err != nil {
		return 0, processError{err}
	}
	for _, w := range x.keep {
		w.Close()
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	if x.stdin != nil {
		go x.feed(calls, p)
	}
	if x.streams.Resize != nil && x.spec.TTY {
		go resize(running, calls, p, x.streams.Resize)
	}
	exit, err := waitFor(ctx, calls, p)
	if err != nil {
		return 0, err
	}
	x.drain()
	return int(exit.Status), nil
}

// waitFor waits for the end of the process, which is killed once ctx is done. It
// asks once, and lets that call go on whatever comes: the answer to a call
// that was given up would be an error in the log of the connection.
func waitFor(ctx, calls context.Context, p runtime.ExecProcess) (*runtime.Exit, error) {
	type result struct {
		exit *runtime.Exit
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		exit, err := p.Wait(calls)
		ended <- result{exit, err}
	}()
	select {
	case r := <-ended:
		return r.exit, r.err
	case <-ctx.Done():
	}
	kill, cancel := context.WithTimeout(calls, killTime)
	defer cancel()
	_ = p.Kill(kill, uint32(syscall.SIGKILL), false)
	select {
	case <-ended:
	case <-kill.Done():
	}
	return nil, ctx.Err()
}

// drain waits until the rest of the output is delivered, however slow the
// client is, but not for what the process left running with its pipes open: once
// nothing has come for drainTime, that is the end.
func (x *execution) drain() {
	close(x.ended)
	for _, r := range x.pipes {
		_ = r.SetReadDeadline(time.Now().Add(drainTime)) // for the read that waits now
	}
	x.outputs.Wait()
}

// quietEnd reads a pipe; after the end of the process a read waits no longer than drainTime.
type quietEnd struct {
	f     *os.File
	ended <-chan struct{}
}

func (q quietEnd) Read(b []byte) (int, error) {
	select {
	case <-q.ended:
		_ = q.f.SetReadDeadline(time.Now().Add(drainTime))
	default:
	}
	return q.f.Read(b)
}

// feed copies the client's input and passes its end on.
func (x *execution) feed(ctx context.Context, p runtime.ExecProcess) {
	_, err := io.Copy(x.stdin, x.streams.Stdin)
	if err != nil {
		return // the process is gone, or the client
	}
	_ = x.stdin.Close()
	_ = p.CloseIO(ctx)
}
