package mps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rig is a folder with the stand-in's program, and Daemons over another folder.
type rig struct {
	*Daemons
	t           *testing.T
	bin, dir    string
	cancel      context.CancelFunc
	done        chan struct{}
	mu          sync.Mutex
	lost, modes []string
}

// standIn builds the program once for all tests.
var standIn = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mps")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", filepath.Join(dir, Name), "./standin").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(dir, Name), nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if program, err := standIn(); err == nil {
		_ = os.RemoveAll(filepath.Dir(program))
	}
	os.Exit(code)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	program, err := standIn()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, bin: t.TempDir(), dir: t.TempDir()}
	if err := os.Link(program, filepath.Join(r.bin, Name)); err != nil {
		t.Fatal(err)
	}
	r.start()
	t.Cleanup(func() {
		if err := r.Want(nil); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		r.eventually("all is cleared", func() bool { return len(r.left()) == 0 })
		r.stop()
	})
	return r
}

// start makes an orch, stop ends it.
func (r *rig) start() {
	r.t.Helper()
	d, err := New(Config{
		Program: func() (Program, error) {
			path := filepath.Join(r.bin, Name)
			_, err := os.Stat(path)
			return Program{Path: path}, err
		},
		Dir: r.dir, Log: slog.New(slog.DiscardHandler),
		Lost: func(s Service, why string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lost = append(r.lost, s.Key+": "+why)
		},
		Exclusive: func(_ context.Context, device string, on bool) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.modes = append(r.modes, fmt.Sprint(device, on))
			return nil
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.Daemons, r.cancel, r.done = d, cancel, make(chan struct{})
	go func() {
		defer close(r.done)
		_ = d.Run(ctx)
	}()
}

func (r *rig) stop() {
	r.cancel()
	<-r.done
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("%s: not in time", what)
		}
	}
}

func (r *rig) want(s ...Service) {
	r.t.Helper()
	if err := r.Want(s); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) ready(key string) Places {
	r.t.Helper()
	p, err := r.Ready(r.t.Context(), key)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// asks is a client's question.
func (r *rig) asks(p Places, text string) string {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(r.bin, Name))
	cmd.Env, cmd.Stdin = []string{"CUDA_MPS_PIPE_DIRECTORY=" + p.Pipe}, strings.NewReader(text+"\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s: %v %s", text, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *rig) pid(key string) int {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, key, pidFile))
	if err != nil {
		r.t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		r.t.Fatal(err)
	}
	return pid
}

func quarter(key string) Service {
	return Service{Key: key, Devices: []string{key}, Limits: Limits{ThreadPercent: 25, MemoryMiB: []int64{20000}}}
}

// TestOnDemand: a daemon comes when it is wanted, with its limits and a /dev/shm of its
// own, and goes when it is wanted no more.
func TestOnDemand(t *testing.T) {
	r := newRig(t)
	r.want(quarter("GPU-a"), Service{Key: "claim-1", Devices: []string{"GPU-b", "GPU-c"}, Limits: Limits{MemoryMiB: []int64{0, 512}}})
	a, claim := r.ready("GPU-a"), r.ready("claim-1")
	for question, want := range map[string]string{"get_default_active_thread_percentage": "25.0", "get_default_device_pinned_mem_limit 0": "20000M"} {
		if got := r.asks(a, question); got != want {
			t.Errorf("%s: %s, want %s", question, got, want)
		}
	}
	if got := r.asks(claim, "get_default_device_pinned_mem_limit 1"); got != "512M" {
		t.Error(got)
	}
	for p, want := range map[Places]string{a: "GPU-a", claim: "GPU-b,GPU-c"} {
		if b, err := os.ReadFile(filepath.Join(p.Shm, "mps-standin")); err != nil || string(b) != want {
			t.Errorf("%s %v", b, err)
		}
	}
	if _, err := os.Stat("/dev/shm/mps-standin"); err == nil {
		t.Error("the daemon writes into the host's /dev/shm")
	}
	pid := r.pid("GPU-a")
	half := quarter("GPU-a")
	half.ThreadPercent = 50
	r.want(half)
	r.eventually("the new limit", func() bool { return r.asks(a, "get_default_active_thread_percentage") == "50.0" })
	if r.pid("GPU-a") != pid {
		t.Error("a new limit took the daemon, and with it the clients, down")
	}
	r.eventually("the other one is gone", func() bool { return !r.left()["claim-1"] })
	r.want()
	r.eventually("it is gone", func() bool { return len(r.left()) == 0 && len(r.Status()) == 0 })
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d: %v", pid, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lost) > 0 || strings.Join(r.modes, " ") == "" || r.modes[len(r.modes)-1] != "GPU-afalse" {
		t.Error(r.lost, r.modes)
	}
}

// TestOutlivesOrch: clients go on over a restart, so the daemon does; one that nobody wants
// afterwards is cleared.
func TestOutlivesOrch(t *testing.T) {
	r := newRig(t)
	r.want(quarter("GPU-a"), quarter("GPU-b"))
	r.ready("GPU-b")
	r.ready("GPU-a")
	pid := r.pid("GPU-a")
	r.stop()
	if err := unix.Kill(pid, 0); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.want(quarter("GPU-a"))
	r.ready("GPU-a")
	if got := r.pid("GPU-a"); got != pid {
		t.Errorf("process %d in place of %d", got, pid)
	}
	r.eventually("the other one is gone", func() bool { return !r.left()["GPU-b"] })
	// Found again, it is still followed.
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is lost", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.lost) == 1 })
}

// TestDaemonDies: it is told, and another one takes its place.
func TestDaemonDies(t *testing.T) {
	r := newRig(t)
	r.want(quarter("GPU-a"))
	r.ready("GPU-a")
	pid := r.pid("GPU-a")
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is told", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.lost) == 1 })
	if r.lost[0] != "GPU-a: it ended (signal: killed)" {
		t.Error(r.lost)
	}
	r.eventually("another one", func() bool { s := r.Status(); return s[0].Ready })
	if r.pid("GPU-a") == pid {
		t.Error("the same process")
	}
}

// TestBroken: what keeps the daemon from starting is said at once, and it is tried again.
func TestBroken(t *testing.T) {
	r := newRig(t)
	broken := filepath.Join(r.bin, "broken")
	if err := os.WriteFile(broken, []byte("no CUDA device\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.want(quarter("GPU-a"))
	if _, err := r.Ready(t.Context(), "GPU-a"); err == nil || !strings.Contains(err.Error(), "the MPS daemon of GPU-a is not ready: it ended before it answered (exit status 1: no CUDA device)") {
		t.Error(err)
	}
	if s := r.Status(); s[0].Ready || !strings.Contains(s[0].Why, "no CUDA device") {
		t.Error(s)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is tried again", func() bool { return r.Status()[0].Ready })
	if len(r.lost) > 0 {
		t.Error("clients that there were not are told of a loss:", r.lost)
	}
	if _, err := r.Ready(t.Context(), "GPU-x"); err == nil {
		t.Error("one that nobody wants is ready")
	}
	if err := r.Want([]Service{{Key: "../x", Devices: []string{"GPU-a"}}}); err == nil {
		t.Error("a key that leads elsewhere is taken")
	}
}

// TestRefusedLimit: a limit that the daemon does not take keeps it from being ready.
func TestRefusedLimit(t *testing.T) {
	r := newRig(t)
	s := quarter("GPU-a")
	s.ThreadPercent = 150
	r.want(s)
	if _, err := r.Ready(t.Context(), "GPU-a"); err == nil || !strings.Contains(err.Error(), `it was told "set_default_active_thread_percentage 150" and answers "100.0"`) {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(r.bin, Name)); err != nil {
		t.Fatal(err)
	}
	r.want(quarter("GPU-b"))
	if _, err := r.Ready(t.Context(), "GPU-b"); err == nil || !strings.Contains(err.Error(), Name) {
		t.Error(err)
	}
}
