package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"

	"orch/runtime/engine"
	"orch/runtime/fakeengine"
)

// script is what commands do in the tests' containers.
var script = fakeengine.Script{Exec: func(ctx context.Context, s engine.ExecSpec, streams engine.IO) (int, error) {
	switch s.Command[0] {
	case "cat":
		_, err := io.Copy(streams.Stdout, streams.Stdin)
		return 0, err
	case "both":
		fmt.Fprint(streams.Stdout, "to stdout")
		fmt.Fprint(streams.Stderr, "to stderr")
		return 0, nil
	case "fail":
		fmt.Fprint(streams.Stderr, "no good")
		return 7, nil
	case "missing":
		return 0, fmt.Errorf("exec: %q: executable file not found in $PATH", s.Command[0])
	case "deaf": // takes no input and ends when it is killed
		<-ctx.Done()
		return 0, ctx.Err()
	case "short": // takes none and ends
		fmt.Fprint(streams.Stdout, "enough")
		return 0, nil
	case "zeros":
		_, err := io.CopyN(streams.Stdout, zeros{}, bigOutput)
		return 0, err
	case "sizes":
		for range 2 {
			size := <-streams.Resize
			fmt.Fprintf(streams.Stdout, "%dx%d ", size.Width, size.Height)
		}
		return 0, nil
	}
	return 0, errors.New("unknown command " + s.Command[0])
}}

const bigOutput = 100 << 20

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestExec(t *testing.T) {
	for _, c := range []struct {
		name, command, stdin   string
		stdout, stderr, failed string
		code                   int
	}{
		{name: "output", command: "both", stdout: "to stdout", stderr: "to stderr"},
		{name: "exit code", command: "fail", stderr: "no good", code: 7, failed: "command terminated with exit code 7"},
		{name: "input ends", command: "cat", stdin: strings.Repeat("0123456789", 100_000), stdout: strings.Repeat("0123456789", 100_000)},
		{name: "input that nobody reads", command: "short", stdin: strings.Repeat("x", 10<<20), stdout: "enough"},
		{name: "missing", command: "missing", failed: `Internal error occurred: error executing command in container: exec: "missing": executable file not found in $PATH`},
	} {
		for _, way := range transports {
			t.Run(c.name+"/"+way.name, func(t *testing.T) {
				r := newRig(t, script, nil)
				var stdout, stderr bytes.Buffer
				o := remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}
				if c.stdin != "" {
					o.Stdin = strings.NewReader(c.stdin)
				}
				x, err := way.open(r.config(), r.url("/exec/default/web/app", remoteQuery(o, c.command)))
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				err = x.StreamWithContext(ctx, o)
				var code exec.CodeExitError
				switch {
				case c.failed == "" && err != nil, c.failed != "" && (err == nil || err.Error() != c.failed):
					t.Errorf("error %v, want %q", err, c.failed)
				case c.code != 0 && (!errors.As(err, &code) || code.Code != c.code):
					t.Errorf("error %v, want code %d", err, c.code)
				}
				if stdout.String() != c.stdout || stderr.String() != c.stderr {
					t.Errorf("%d bytes on stdout, %d wanted; stderr %q, want %q", stdout.Len(), len(c.stdout), stderr.String(), c.stderr)
				}
			})
		}
	}
}

// queue gives terminal sizes and then waits for the end.
type queue struct {
	sizes chan *remotecommand.TerminalSize
}

func (q queue) Next() *remotecommand.TerminalSize { return <-q.sizes }

func TestTerminal(t *testing.T) {
	for _, way := range transports {
		t.Run(way.name, func(t *testing.T) {
			r := newRig(t, script, nil)
			q := queue{make(chan *remotecommand.TerminalSize)}
			out := &safeBuffer{}
			o := remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: out, Tty: true, TerminalSizeQueue: q}
			go func() {
				q.sizes <- &remotecommand.TerminalSize{Width: 80, Height: 24}
				await(func() bool { return out.String() != "" })
				q.sizes <- &remotecommand.TerminalSize{Width: 200, Height: 50}
				close(q.sizes)
			}()
			x, err := way.open(r.config(), r.url("/exec/default/web/app", remoteQuery(o, "sizes")))
			if err != nil {
				t.Fatal(err)
			}
			if err := x.StreamWithContext(t.Context(), o); err != nil || out.String() != "80x24 200x50 " {
				t.Errorf("%q %v", out, err)
			}
		})
	}
}

// A client that goes away takes its process with it, even one that reads no input.
func TestDisconnectKills(t *testing.T) {
	for _, way := range transports {
		for _, stdin := range []int{0, 10, 10 << 20} {
			t.Run(fmt.Sprintf("%s/%d bytes of input", way.name, stdin), func(t *testing.T) {
				started, ended := make(chan struct{}), make(chan error, 1)
				var once sync.Once
				r := newRig(t, fakeengine.Script{Exec: func(ctx context.Context, s engine.ExecSpec, streams engine.IO) (int, error) {
					fmt.Fprint(streams.Stdout, "here")
					_, err := script.Exec(ctx, s, streams)
					ended <- err
					return 0, err
				}}, func(c *Config) { c.Ping = 50 * time.Millisecond })
				o := remotecommand.StreamOptions{Stdin: io.MultiReader(io.LimitReader(zeros{}, int64(stdin)), silence(t)), Stdout: writerFunc(func(b []byte) (int, error) { // a client that is cut off before it reads does not end
					once.Do(func() { close(started) })
					return len(b), nil
				})}
				cable := r.cable()
				u := r.url("/exec/default/web/app", remoteQuery(o, "deaf"))
				u.Host = cable.Addr().String()
				x, err := way.open(r.config(), u)
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() { done <- x.StreamWithContext(t.Context(), o) }()
				<-started
				time.Sleep(20 * time.Millisecond) // the input is on its way
				cable.cut()
				select {
				case err := <-ended:
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				case <-time.After(patience):
					t.Error("the process still runs")
				}
				if err := <-done; err == nil && way.name != "SPDY" { // whose client takes every end for a good one
					t.Error("the client saw no error")
				}
			})
		}
	}
}

// silence is an input on which nothing comes until the test ends.
func silence(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}

// Much goes through, and little is held.
func TestBigOutput(t *testing.T) {
	for _, way := range transports {
		t.Run(way.name, func(t *testing.T) {
			r := newRig(t, script, nil)
			var n, most atomic.Uint64
			runtime.GC() // what other tests left is not this one's
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			o := remotecommand.StreamOptions{Stdout: writerFunc(func(b []byte) (int, error) {
				if n.Add(uint64(len(b)))%(5<<20) < uint64(len(b)) {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most.Store(max(most.Load(), m.HeapInuse))
				}
				return len(b), nil
			})}
			x, err := way.open(r.config(), r.url("/exec/default/web/app", remoteQuery(o, "zeros")))
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := x.StreamWithContext(t.Context(), o); err != nil || n.Load() != bigOutput {
				t.Errorf("%d bytes, %v", n.Load(), err)
			}
			t.Logf("%d MB/s, heap at most %d MB", uint64(float64(n.Load()>>20)/time.Since(start).Seconds()), most.Load()>>20)
			if most.Load() > before.HeapInuse+60<<20 {
				t.Errorf("the heap grew from %d to %d MB", before.HeapInuse>>20, most.Load()>>20)
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// A client that reads late, long after the process has ended, gets everything.
func TestSlowReader(t *testing.T) {
	for _, way := range transports {
		t.Run(way.name, func(t *testing.T) {
			r := newRig(t, script, nil)
			var n int
			o := remotecommand.StreamOptions{Stdout: writerFunc(func(b []byte) (int, error) {
				if n == 0 {
					time.Sleep(300 * time.Millisecond)
				}
				n += len(b)
				return len(b), nil
			})}
			x, err := way.open(r.config(), r.url("/exec/default/web/app", remoteQuery(o, "zeros")))
			if err != nil {
				t.Fatal(err)
			}
			if err := x.StreamWithContext(t.Context(), o); err != nil || n != bigOutput {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
}

func TestAttach(t *testing.T) {
	for _, way := range transports {
		t.Run(way.name, func(t *testing.T) {
			r := newRig(t, fakeengine.Script{}, nil)
			out := &safeBuffer{}
			o := remotecommand.StreamOptions{Stdin: silence(t), Stdout: out, Stderr: io.Discard}
			x, err := way.open(r.config(), r.url("/attach/default/web/app", remoteQuery(o)))
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- x.StreamWithContext(t.Context(), o) }()
			if !await(func() bool {
				_ = r.engine.Print("id-web-app", "hello\n")
				return strings.Contains(out.String(), "hello\n")
			}) {
				t.Fatal("nothing was printed")
			}
			if err := r.engine.End("id-web-app", 0, false); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// The client asks for what the container does not have: no terminal, no input.
func TestAttachToLess(t *testing.T) {
	for _, way := range transports {
		for _, c := range []struct {
			name string
			show Container
			tty  bool
		}{
			{"no input", Container{Name: "app"}, false},
			{"a terminal of the container's only", Container{Name: "app", Stdin: true, TTY: true}, false},
			{"a terminal of the client's only", Container{Name: "app", Stdin: true}, true},
		} {
			t.Run(way.name+"/"+c.name, func(t *testing.T) {
				r := newRig(t, fakeengine.Script{}, nil)
				r.change("web", func(p *Pod) { c.show.ID, c.show.Running = p.Containers[0].ID, true; p.Containers = []Container{c.show} })
				out := &safeBuffer{}
				q := queue{make(chan *remotecommand.TerminalSize, 1)}
				q.sizes <- &remotecommand.TerminalSize{Width: 80, Height: 24}
				t.Cleanup(func() { close(q.sizes) })
				o := remotecommand.StreamOptions{Stdin: strings.NewReader("typed"), Stdout: out, Tty: c.tty, TerminalSizeQueue: q}
				if !c.tty {
					o.Stderr = io.Discard
				}
				x, err := way.open(r.config(), r.url("/attach/default/web/app", remoteQuery(o)))
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() { done <- x.StreamWithContext(t.Context(), o) }()
				if !await(func() bool {
					_ = r.engine.Print("id-web-app", "hello\n")
					return strings.Contains(out.String(), "hello\n")
				}) {
					t.Error("nothing was printed")
				}
				_ = r.engine.End("id-web-app", 0, false)
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Run's end cuts everything off, whatever it waits for.
func TestRunEnds(t *testing.T) {
	for _, way := range transports {
		t.Run(way.name, func(t *testing.T) {
			var reading atomic.Int32 // a client that is cut off before it reads does not end
			r := newRig(t, fakeengine.Script{Exec: func(ctx context.Context, s engine.ExecSpec, streams engine.IO) (int, error) {
				fmt.Fprint(streams.Stdout, "here")
				return script.Exec(ctx, s, streams)
			}}, nil)
			for _, command := range []string{"deaf", "zeros"} {
				o := remotecommand.StreamOptions{Stdin: silence(t), Stdout: writerFunc(func(b []byte) (int, error) {
					reading.Add(1)
					<-t.Context().Done() // reads no more
					return len(b), nil
				})}
				x, err := way.open(r.config(), r.url("/exec/default/web/app", remoteQuery(o, command)))
				if err != nil {
					t.Fatal(err)
				}
				go func() { _ = x.StreamWithContext(t.Context(), o) }()
			}
			if !await(func() bool { return reading.Load() == 2 }) {
				t.Fatal("not connected")
			}
			begin := time.Now()
			r.stop()
			if took := time.Since(begin); took > quick {
				t.Errorf("took %v", took)
			}
			if code, body := r.get("/containerLogs/default/web/app"); code != 503 && code != 429 {
				t.Errorf("served after the end: %d %s", code, body)
			}
		})
	}
}
