package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"

	"orch/runtime/containerd"
	"orch/runtime/engine"
	"orch/runtime/image"
	"orch/server/tunnel"
)

// realRig is a rig whose pods' containers are real ones of busybox.
func realRig(t *testing.T) *rig {
	t.Helper()
	dirs := map[string]string{} // short paths: sockets lie below
	for _, parent := range []string{"/var/tmp", "/run"} {
		d, err := os.MkdirTemp(parent, "orch-st-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.RemoveAll(d); err != nil {
				t.Error(err)
			}
		})
		dirs[parent] = d
	}
	e, err := containerd.New(containerd.Config{Root: dirs["/var/tmp"], State: dirs["/run"], Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	links := map[string]string{}
	for _, name := range strings.Fields("sh sleep cat echo head tty stty true dd yes") {
		links["/bin/"+name] = "/busybox"
	}
	var b bytes.Buffer
	if err := image.Pack(image.PackOptions{Source: "/bin/busybox", Names: []string{"busybox:test"}, Links: links}, &b); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Images().Import(t.Context(), &b, true); err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, pods: map[string]Pod{}, log: &safeBuffer{}}
	r.real, r.state = e, dirs["/run"]
	if r.handler, err = New(Config{Pods: r, Engine: e, Dialer: loopback{}, Log: slog.New(slog.NewTextHandler(r.log, nil)), Ping: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	r.server = httptest.NewServer(r.handler)
	t.Cleanup(r.server.Close)
	return r
}

// runReal starts a container of pod name that runs a shell script.
func (r *rig) runReal(name string, spec engine.Spec, script string) {
	r.Helper()
	spec.ID, spec.Pod, spec.Image, spec.Command = "st-"+name, name, "busybox:test", []string{"sh", "-c", script}
	spec.CgroupPath, spec.LogPath = "/orch-test/"+filepath.Base(r.state)+"-"+name, filepath.Join(r.TempDir(), "0.log")
	if err := r.real.Create(r.Context(), spec); err != nil {
		r.Fatal(err)
	}
	if _, err := r.real.Start(r.Context(), spec.ID); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		_ = r.real.Signal(context.Background(), spec.ID, 9, true) // it may have ended
		if !await(func() bool { return r.real.Remove(context.Background(), spec.ID) == nil }) {
			r.Errorf("container %s is not removed", spec.ID)
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pods["default/"+name] = Pod{UID: "uid-1", Containers: []Container{{Name: "app", ID: spec.ID, Running: true, Stdin: spec.Stdin, TTY: spec.TTY, LogPath: spec.LogPath}}}
}

// remote runs a command the way kubectl does.
func (r *rig) remote(ctx context.Context, way int, path string, o remotecommand.StreamOptions, command ...string) error {
	r.Helper()
	x, err := transports[way].open(r.config(), r.url(path, remoteQuery(o, command...)))
	if err != nil {
		r.Fatal(err)
	}
	return x.StreamWithContext(ctx, o)
}

func TestRealContainers(t *testing.T) {
	r := realRig(t)
	r.runReal("web", engine.Spec{}, "sleep 1000")
	for i, way := range transports {
		for _, c := range []struct {
			name string
			run  func(t *testing.T, r *rig, way int)
		}{
			{"Exec", realExec}, {"Terminal", realTerminal}, {"BigOutput", realBigOutput}, {"SlowReader", realSlowReader},
			{"Disconnect", realDisconnect}, {"Attach", realAttach}, {"Follow", realFollow},
		} {
			t.Run(c.name+"/"+way.name, func(t *testing.T) {
				one := &rig{T: t, pods: r.pods, handler: r.handler, server: r.server, real: r.real, state: r.state}
				c.run(t, one, i)
				one.checkNothingIsOpen()
			})
		}
	}
}

const realPath = "/exec/default/web/app"

func realExec(t *testing.T, r *rig, way int) {
	for _, c := range []struct {
		name, stdin, stdout, stderr, failed string
		command                             []string
		code                                int
	}{
		{name: "output", command: []string{"sh", "-c", "echo out; echo err >&2"}, stdout: "out\n", stderr: "err\n"},
		{name: "code", command: []string{"sh", "-c", "exit 7"}, code: 7},
		{name: "killed", command: []string{"sh", "-c", "kill -9 $$"}, code: 137},
		{name: "input ends", command: []string{"cat"}, stdin: strings.Repeat("0123456789", 100_000), stdout: strings.Repeat("0123456789", 100_000)},
		{name: "input too much", command: []string{"head", "-c", "3"}, stdin: strings.Repeat("x", 1<<20), stdout: "xxx"},
		{name: "left behind", command: []string{"sh", "-c", "sleep 20 & echo out"}, stdout: "out\n"},
		{name: "missing", command: []string{"nix"}, failed: `exec: "nix": executable file not found in $PATH`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			o := remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}
			if c.stdin != "" {
				o.Stdin = strings.NewReader(c.stdin)
			}
			err := r.remote(t.Context(), way, realPath, o, c.command...)
			var code exec.CodeExitError
			switch {
			case c.failed != "":
				t.Log(err)
				if err == nil || !strings.Contains(err.Error(), c.failed) {
					t.Error(err)
				}
			case c.code != 0 && (!errors.As(err, &code) || code.Code != c.code), c.code == 0 && err != nil:
				t.Error(err)
			}
			if stdout.String() != c.stdout || stderr.String() != c.stderr {
				t.Errorf("%d bytes on stdout, %d wanted; stderr %q", stdout.Len(), len(c.stdout), stderr.String())
			}
		})
	}
}

func realTerminal(t *testing.T, r *rig, way int) {
	out := &safeBuffer{}
	in, type_ := io.Pipe()
	q := queue{make(chan *remotecommand.TerminalSize, 1)}
	q.sizes <- &remotecommand.TerminalSize{Width: 80, Height: 24}
	done := make(chan error, 1)
	go func() {
		done <- r.remote(t.Context(), way, realPath, remotecommand.StreamOptions{Stdin: in, Stdout: out, Tty: true, TerminalSizeQueue: q}, "sh")
	}()
	say := func(line, want string) {
		t.Helper()
		if !await(func() bool {
			_, _ = io.WriteString(type_, line+"\n")
			time.Sleep(20 * time.Millisecond)
			return strings.Contains(out.String(), want)
		}) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	say("stty size", "24 80\r\n")
	q.sizes <- &remotecommand.TerminalSize{Width: 200, Height: 50}
	say("stty size", "50 200\r\n")
	say("tty", "/dev/pts/")
	_, _ = io.WriteString(type_, "exit 3\n")
	close(q.sizes)
	var code exec.CodeExitError
	if err := <-done; !errors.As(err, &code) || code.Code != 3 {
		t.Error(err)
	}
	type_.Close()
}

func realBigOutput(t *testing.T, r *rig, way int) {
	n := 0
	count := writerFunc(func(b []byte) (int, error) { n += len(b); return len(b), nil })
	begin := time.Now()
	if err := r.remote(t.Context(), way, realPath, remotecommand.StreamOptions{Stdout: count}, "head", "-c", fmt.Sprint(bigOutput), "/dev/zero"); err != nil || n != bigOutput {
		t.Errorf("%d bytes, %v", n, err)
	}
	t.Logf("%.0f MB/s", float64(n>>20)/time.Since(begin).Seconds())
}

// The process ends long before its client reads: on the server's own node nothing
// lies between that could hold what is printed.
func realSlowReader(t *testing.T, r *rig, way int) {
	if transports[way].name != "WebSocket" {
		return
	}
	tun, err := tunnel.New(tunnel.Config{Node: func(*http.Request) (string, error) { return "", errors.New("none") }})
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Local("self", r.handler)()
	const size = 90 << 10
	d := websocket.Dialer{Subprotocols: []string{protocolV5}, NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return tun.Dial(ctx, "self") }}
	conn, _, err := d.Dial(fmt.Sprintf("ws://self%s?output=1&command=head&command=-c&command=%d&command=/dev/zero", realPath, size), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	time.Sleep(3 * time.Second)
	got, err := (&rawClient{rig: r, conn: conn}).all()
	if len(got[1]) != size || !strings.Contains(got[3], "Success") || !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("%d bytes of %d, outcome %q, %v", len(got[1]), size, got[3], err)
	}
}

func realDisconnect(t *testing.T, r *rig, way int) {
	alive := func() uint64 {
		s, err := r.real.Stats(t.Context(), "st-web")
		if err != nil {
			t.Fatal(err)
		}
		return s.Pids
	}
	before := alive()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	out := &safeBuffer{}
	go func() {
		done <- r.remote(ctx, way, realPath, remotecommand.StreamOptions{Stdin: silence(t), Stdout: out}, "sh", "-c", "echo here; exec sleep 1000")
	}()
	if !await(func() bool { return out.String() != "" }) {
		t.Error("it did not start")
	}
	cancel()
	<-done
	if !await(func() bool { return alive() <= before }) {
		t.Errorf("%d processes, %d before", alive(), before)
	}
}

func realAttach(t *testing.T, r *rig, way int) {
	name := fmt.Sprint("attached", way)
	r.runReal(name, engine.Spec{Stdin: true}, `while read l; do echo "got $l"; [ "$l" = end ] && exit; done; echo ended`)
	path := "/attach/default/" + name + "/app"
	// One client comes and goes; the container goes on.
	for _, word := range []string{"one", "two"} {
		out := &safeBuffer{}
		in, say := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- r.remote(ctx, way, path, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: io.Discard})
		}()
		if !await(func() bool {
			_, _ = io.WriteString(say, word+"\n")
			time.Sleep(20 * time.Millisecond)
			return strings.Contains(out.String(), "got "+word)
		}) {
			t.Errorf("no answer: %q", out)
		}
		cancel()
		<-done
		say.Close()
	}
	var once sync.Once
	in, say := io.Pipe()
	out := &safeBuffer{}
	go func() {
		for !strings.Contains(out.String(), "got end") {
			if _, err := io.WriteString(say, "end\n"); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		once.Do(func() { say.Close() })
	}()
	if err := r.remote(t.Context(), way, path, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: io.Discard}); err != nil {
		t.Error(err)
	}
	in.Close()
	if strings.Contains(out.String(), "ended") {
		t.Error("a client's leaving ended the container's input")
	}
}

func realFollow(t *testing.T, r *rig, way int) {
	name := fmt.Sprint("followed", way)
	r.runReal(name, engine.Spec{}, `for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done; echo bye >&2`)
	code, body := r.get("/containerLogs/default/" + name + "/app?follow=true")
	before, after, bye := strings.Cut(body, "bye\n") // by another pipe: which is read first is open
	if code != 200 || !bye || before+after != "line 1\nline 2\nline 3\nline 4\nline 5\n" {
		t.Errorf("%d %q", code, body)
	}
}
