package containerd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"orch/runtime/engine"
	"orch/runtime/logfile"
)

// helperEnv makes this test binary the process that is killed: it opens an
// engine over "root:state", runs containers and waits.
const helperEnv = "ORCH_ENGINE_HELPER"

func TestMain(m *testing.M) {
	if dirs := os.Getenv(helperEnv); dirs != "" {
		if err := helper(dirs); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func crashSpec(root, id, script string) engine.Spec {
	return engine.Spec{
		ID: id, Pod: "pod-" + id, Image: "busybox:test", Command: []string{"sh", "-c", script},
		LogPath: filepath.Join(root, "log", id+".log"), CgroupPath: cgroupOf(root, id),
	}
}

// cgroupOf is the control group of a container below a folder that no other run of the
// tests has.
func cgroupOf(root, id string) string { return "/orch-test/" + filepath.Base(root) + "-" + id }

func helper(dirs string) error {
	root, state, _ := strings.Cut(dirs, ":")
	e, err := New(Config{Root: root, State: state})
	if err != nil {
		return err
	}
	ctx := context.Background()
	for _, s := range []engine.Spec{
		crashSpec(root, "counter", polite+`i=0; while true; do i=$((i+1)); echo line $i; sleep 0.02; done`),
		crashSpec(root, "ends-meanwhile", `sleep 0.3; echo bye; exit 5`),
		crashSpec(root, "ended-before", `exit 6`),
		crashSpec(root, "only-created", `echo started later; exit 7`),
		crashSpec(root, "two-in-pod", polite+`sleep 1000 & wait`),
	} {
		if s.ID == "two-in-pod" {
			s.Pod = "pod-counter"
		}
		events := e.Events(ctx)
		if err := e.Create(ctx, s); err != nil {
			return err
		}
		if s.ID == "only-created" {
			continue
		}
		if _, err := e.Start(ctx, s.ID); err != nil {
			return err
		}
		if s.ID == "ended-before" {
			for ev := range events {
				if ev.ID == s.ID && ev.Kind == "exit" {
					break
				}
			}
		}
	}
	fmt.Println("ready")
	select {}
}

// TestKilledAndOpenedAgain: kill -9 of the process that holds the engine.
func TestKilledAndOpenedAgain(t *testing.T) {
	c := testConfig(t)
	first, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	busybox(t, first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"="+c.Root+":"+c.State)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("helper said %q", line)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	time.Sleep(600 * time.Millisecond) // the time orch is away; one container ends in it

	start := time.Now()
	e := open(t, c)
	t.Logf("opened again in %v", time.Since(start))
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	events := e.Events(ctx)
	get := func(id string) engine.Container {
		t.Helper()
		v, err := e.Inspect(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	counter := get("counter")
	if counter.State != engine.Running || counter.PID == 0 || counter.Pod != "pod-counter" {
		t.Errorf("counter: %+v", counter)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(counter.PID)); err != nil {
		t.Error(err)
	}
	if v := get("ended-before"); v.State != engine.Exited || v.ExitCode != 6 {
		t.Errorf("ended before: %+v", v)
	}
	until(t, "the end in between is known", func() bool { return get("ends-meanwhile").State == engine.Exited })
	if v := get("ends-meanwhile"); v.ExitCode != 5 {
		t.Errorf("ended in between: %+v", v)
	}
	if said := strings.Join(logLines(t, get("ends-meanwhile").LogPath), "|"); said != "bye" {
		t.Errorf("what it said while nobody read is %q in its log", said)
	}
	if v := get("only-created"); v.State != engine.Created {
		t.Errorf("created only: %+v", v)
	}
	if _, err := e.Start(ctx, "only-created"); err != nil {
		t.Error(err)
	}
	until(t, "what was only created runs and ends", func() bool { return get("only-created").ExitCode == 7 })

	checkCounterLog(t, counter.LogPath)
	code, err := e.Exec(ctx, "counter", engine.ExecSpec{Command: []string{"sh", "-c", "exit 9"}}, engine.IO{})
	if err != nil || code != 9 {
		t.Errorf("exec after the restart: %d %v", code, err)
	}
	for _, id := range []string{"counter", "two-in-pod"} {
		if err := e.Signal(ctx, id, 15, false); err != nil {
			t.Error(err)
		}
	}
	ended := map[string]int{}
	for len(ended) < 2 {
		ev, ok := <-events
		if !ok {
			t.Fatalf("exit events: %v", ended)
		}
		if ev.Kind == "exit" && (ev.ID == "counter" || ev.ID == "two-in-pod") {
			ended[ev.ID] = ev.ExitCode
		}
	}
	if ended["counter"] != 143 || ended["two-in-pod"] != 143 {
		t.Errorf("exit codes: %v", ended)
	}
	removeAll(t, e, c.State)
}

// removeAll leaves no container, and waits until their shims have ended.
func removeAll(t *testing.T, e *Engine, state string) {
	t.Helper()
	all, _ := e.List(t.Context())
	for _, v := range all {
		if err := e.Remove(t.Context(), v.ID); err != nil {
			t.Error(err)
		}
	}
	until(t, "all shims have ended", func() bool {
		left, _ := os.ReadDir(filepath.Join(state, "tasks", "pods"))
		sockets, _ := os.ReadDir(filepath.Join(state, "s"))
		return len(left) == 0 && len(sockets) == 0
	})
}

// checkCounterLog: no line is missing or double over the kill, and more come.
func checkCounterLog(t *testing.T, path string) {
	t.Helper()
	read := func() []string { return logLines(t, path) }
	before := len(read())
	until(t, "the log goes on", func() bool { return len(read()) > before+5 })
	for i, line := range read() {
		if want := fmt.Sprintf("line %d", i+1); line != want {
			t.Fatalf("log line %d is %q", i+1, line)
		}
	}
}

func logLines(t *testing.T, path string) []string {
	t.Helper()
	var b bytes.Buffer
	if err := logfile.Read(t.Context(), path, logfile.Options{}, &b, &b); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(b.String()), "\n")
}

// TestMachineRestarted: the state folder is gone, as after a reboot.
func TestMachineRestarted(t *testing.T) {
	c := testConfig(t)
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	busybox(t, e)
	s := crashSpec(c.Root, "before-reboot", `exit 3`)
	events := e.Events(t.Context())
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	for ev := range events {
		if ev.Kind == "exit" {
			break
		}
	}
	r := crashSpec(c.Root, "cut-off", `sleep 1000`)
	if err := e.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	pid, err := e.Start(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	task, _ := e.containers[r.ID].taskIfAlive().(interface {
		ShimPID(context.Context) (int, error)
	})
	shim, err := task.ShimPID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{shim, pid} {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the process is gone", func() bool { return syscall.Kill(pid, 0) != nil })
	until(t, "the root is unmounted", func() bool {
		return syscall.Unmount(filepath.Join(c.State, "tasks", Namespace, r.ID, "rootfs"), 0) != nil
	})
	if err := os.RemoveAll(c.State); err != nil {
		t.Fatal(err)
	}
	e = open(t, c)
	v, err := e.Inspect(t.Context(), s.ID)
	if err != nil || v.State != engine.Exited || v.ExitCode != 3 {
		t.Errorf("ended before the reboot: %+v %v", v, err)
	}
	v, err = e.Inspect(t.Context(), r.ID)
	if err != nil || v.State != engine.Exited || v.ExitCode != unknownExit {
		t.Errorf("cut off by the reboot: %+v %v", v, err)
	}
	for _, id := range []string{s.ID, r.ID} {
		if err := e.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

// TestShimDies: its containers are ended and reported.
func TestShimDies(t *testing.T) {
	c := testConfig(t)
	e := open(t, c)
	busybox(t, e)
	s := crashSpec(c.Root, "orphan", `sleep 1000`)
	events := e.Events(t.Context())
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	pid, err := e.Start(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	task, _ := e.containers[s.ID].taskIfAlive().(interface {
		ShimPID(context.Context) (int, error)
	})
	shim, err := task.ShimPID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for ev := range events {
		if ev.Kind == "exit" {
			if ev.ExitCode != lostExit {
				t.Errorf("exit code is %d", ev.ExitCode)
			}
			break
		}
	}
	until(t, "its process is ended", func() bool { return syscall.Kill(pid, 0) != nil })
	if err := e.Remove(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	// The same pod can go on with a new shim.
	s.ID = "successor"
	s.CgroupPath = cgroupOf(c.Root, s.ID)
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := e.Remove(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
}

// TestTwoEngines: two nodes on one machine do not meet.
func TestTwoEngines(t *testing.T) {
	a, b := open(t, testConfig(t)), open(t, testConfig(t))
	for _, e := range []*Engine{a, b} {
		busybox(t, e)
		s := crashSpec(e.cfg.Root, "same-id", `exit 0`)
		if err := e.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []*Engine{a, b} {
		if err := e.Remove(t.Context(), "same-id"); err != nil {
			t.Fatal(err)
		}
	}
	other := a.cfg
	other.State += "-other"
	other.Address, other.SocketDir = "", ""
	t.Cleanup(func() { os.RemoveAll(other.State) })
	setTimeouts()
	if _, err := New(other); err == nil {
		t.Error("a second engine over the same root was accepted")
	}
}
