package containerd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orch/runtime/engine"
	"orch/runtime/logfile"
)

// runToEnd runs a container until it has ended and returns its output.
func runToEnd(t *testing.T, e *Engine, s engine.Spec) (string, engine.Container) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	events := e.Events(ctx)
	if err := e.Create(ctx, s); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	for ev := range events {
		if ev.ID == s.ID && ev.Kind == "exit" {
			break
		}
	}
	v, err := e.Inspect(ctx, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := logfile.Read(ctx, s.LogPath, logfile.Options{}, &out, &out); err != nil {
		t.Fatal(err)
	}
	if err := e.Remove(ctx, s.ID); err != nil {
		t.Error(err)
	}
	return out.String(), v
}

func TestSpecs(t *testing.T) {
	c := testConfig(t)
	e := open(t, c)
	busybox(t, e)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "f"), []byte("from host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	id := func(n int64) *int64 { return &n }
	tests := []struct {
		name   string
		spec   engine.Spec
		script string
		want   []string // each a part of the output
		not    []string
	}{
		{name: "defaults", script: `id; pwd; echo $PATH; cat /proc/self/status; mount`,
			want: []string{"uid=0 gid=0 groups=0\n", "/\n", "/usr/local/sbin", "CapEff:\t00000000a80425fb", "NoNewPrivs:\t0", "proc on /proc type proc (rw,nosuid,nodev,noexec", "sysfs on /sys type sysfs (ro"}},
		{name: "user numbers", spec: engine.Spec{User: engine.User{UID: id(1000), GID: id(2000), Groups: []int64{3000}}}, script: `id`,
			want: []string{"uid=1000 gid=2000 groups=2000,3000\n"}},
		{name: "caps", spec: engine.Spec{Security: engine.Security{DropCaps: []string{"ALL"}, AddCaps: []string{"NET_BIND_SERVICE"}, NoNewPrivileges: true}}, script: `cat /proc/self/status`,
			want: []string{"CapEff:\t0000000000000400", "NoNewPrivs:\t1"}},
		{name: "environment", spec: engine.Spec{Env: []string{"A=1", "A=2", "B=x y"}, Hostname: "web-0"}, script: `echo $A-$B-$HOSTNAME; cat /proc/sys/kernel/hostname`,
			want: []string{"2-x y-web-0\n", "\nweb-0\n"}},
		{name: "working folder is made", spec: engine.Spec{WorkingDir: "/made/here"}, script: `pwd`, want: []string{"/made/here\n"}},
		{name: "read-only root", spec: engine.Spec{Security: engine.Security{ReadOnlyRoot: true}}, script: `echo x > /x || echo refused`, want: []string{"refused"}},
		{name: "mounts", spec: engine.Spec{Mounts: []engine.Mount{
			{Source: host, Target: "/data", ReadOnly: true},
			{Source: host, Target: "/data2", Propagation: "rslave"},
			{Type: "tmpfs", Target: "/scratch", Options: []string{"size=1m", "mode=700"}},
		}}, script: `cat /data/f; echo x > /data/f || echo refused; echo y > /data2/g; mount`,
			want: []string{"from host", "refused", "tmpfs on /scratch type tmpfs (rw,relatime,size=1024k,mode=700)"}},
		{name: "masked", script: `cat /proc/timer_list | head -1; cat /proc/kcore | head -c 1; echo x > /proc/sys/kernel/domainname || echo refused`, want: []string{"refused"}, not: []string{"Timer"}},
		{name: "privileged", spec: engine.Spec{Security: engine.Security{Privileged: true}}, script: `mount; ls /dev; ls /dev/kmsg`, want: []string{"sysfs on /sys type sysfs (rw", "/dev/kmsg"}},
		{name: "device", spec: engine.Spec{Devices: []engine.Device{{Host: "/dev/kmsg", Target: "/dev/mykmsg", Permissions: "r"}}}, script: `ls -l /dev/mykmsg`, want: []string{"crw"}},
		{name: "sysctl", spec: engine.Spec{Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}}, script: `cat /proc/sys/net/ipv4/ip_unprivileged_port_start`, want: []string{"80\n"}},
		{name: "seccomp default", spec: engine.Spec{Security: engine.Security{Seccomp: "RuntimeDefault"}}, script: `cat /proc/self/status`, want: []string{"Seccomp:\t2"}},
		{name: "seccomp unconfined", script: `cat /proc/self/status`, want: []string{"Seccomp:\t0"}},
		{name: "oom score below ours is clamped", spec: engine.Spec{Resources: engine.Resources{OOMScoreAdj: new(-997)}}, script: `cat /proc/self/oom_score_adj`, want: []string{fmt.Sprintf("%d\n", max(-997, e.host.MinOOMScoreAdj))}},
		{name: "oom score", spec: engine.Spec{Resources: engine.Resources{OOMScoreAdj: new(900)}}, script: `cat /proc/self/oom_score_adj`, want: []string{"900\n"}},
		{name: "shared memory", script: `mount`, want: []string{"shm on /dev/shm type tmpfs (rw,nosuid,nodev,noexec,relatime,size=65536k"}},
		{name: "stderr", script: `echo to-err >&2`, want: []string{"to-err\n"}},
		{name: "host network and pid", spec: engine.Spec{Namespaces: engine.Namespaces{Network: "host", PID: "host"}}, script: `readlink /proc/self/ns/net; readlink /proc/self/ns/pid; ls /proc/` + fmt.Sprint(os.Getpid()) + `/stat`,
			want: []string{fmt.Sprintf("/proc/%d/stat", os.Getpid())}},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.spec
			s.ID, s.Pod, s.Image = fmt.Sprintf("spec-%d", i), fmt.Sprintf("pod-spec-%d", i), "busybox:test"
			s.Command = []string{"sh", "-c", tt.script}
			s.LogPath, s.CgroupPath = filepath.Join(c.Root, "log", s.ID), cgroupOf(c.Root, s.ID)
			out, _ := runToEnd(t, e, s)
			for _, w := range tt.want {
				if !strings.Contains(out, w) {
					t.Errorf("output lacks %q:\n%s", w, out)
				}
			}
			for _, w := range tt.not {
				if strings.Contains(out, w) {
					t.Errorf("output has %q:\n%s", w, out)
				}
			}
		})
	}
}

func TestLimits(t *testing.T) {
	c := testConfig(t)
	e := open(t, c)
	busybox(t, e)
	t.Run("OOM", func(t *testing.T) {
		s := crashSpec(c.Root, "hog", `dd if=/dev/zero of=/dev/null bs=200M count=1`)
		s.Resources.MemoryBytes = 32 << 20
		s.Command = s.Command[:0]
		s.Command = []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"}
		_, v := runToEnd(t, e, s)
		if !v.OOMKilled || v.ExitCode != 137 {
			t.Errorf("after a hog: %+v", v)
		}
	})
	t.Run("StatsAndUpdate", func(t *testing.T) {
		s := crashSpec(c.Root, "limited", polite+`echo data > /written; while true; do :; done & wait`)
		s.Resources = engine.Resources{MemoryBytes: 64 << 20, CPUQuotaUs: 20_000, CPUPeriodUs: 100_000, CPUShares: 512, PidsLimit: 50}
		if err := e.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Start(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		until(t, "it uses the processor", func() bool {
			st, err := e.Stats(t.Context(), s.ID)
			if err != nil {
				t.Fatal(err)
			}
			return st.CPUNanos > 1e6 && st.MemoryBytes > 0 && st.MemoryWorkingSet > 0 && st.Pids >= 2 && st.RootfsInodes > 0
		})
		limit := func() string {
			for _, f := range []string{"/sys/fs/cgroup/memory" + s.CgroupPath + "/memory.limit_in_bytes", "/sys/fs/cgroup" + s.CgroupPath + "/memory.max"} {
				if b, err := os.ReadFile(f); err == nil {
					return strings.TrimSpace(string(b))
				}
			}
			return "?"
		}
		if got := limit(); got != fmt.Sprint(64<<20) {
			t.Errorf("memory limit is %s", got)
		}
		if err := e.Update(t.Context(), s.ID, engine.Resources{MemoryBytes: 96 << 20, CPUQuotaUs: 40_000, CPUPeriodUs: 100_000}); err != nil {
			t.Fatal(err)
		}
		if got := limit(); got != fmt.Sprint(96<<20) {
			t.Errorf("memory limit after the update is %s", got)
		}
		end(t, e, s.ID)
	})
}

// end kills and removes a container.
func end(t *testing.T, e *Engine, id string) {
	t.Helper()
	if err := e.Signal(t.Context(), id, 9, false); err != nil {
		t.Error(err)
	}
	until(t, id+" has ended", func() bool {
		v, err := e.Inspect(t.Context(), id)
		return err == nil && v.State == engine.Exited
	})
	if err := e.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestStreams(t *testing.T) {
	c := testConfig(t)
	e := open(t, c)
	busybox(t, e)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	start := func(s engine.Spec) {
		t.Helper()
		if err := e.Create(ctx, s); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Start(ctx, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("AttachWithInput", func(t *testing.T) {
		s := crashSpec(c.Root, "cat-once", "")
		s.Command, s.Stdin, s.StdinOnce = []string{"cat"}, true, true
		start(s)
		var out, errs bytes.Buffer
		if err := e.Attach(ctx, s.ID, engine.IO{Stdin: strings.NewReader("one\ntwo\n"), Stdout: &out, Stderr: &errs}); err != nil {
			t.Fatal(err)
		}
		if out.String() != "one\ntwo\n" {
			t.Errorf("attached client saw %q", out.String())
		}
		until(t, "its input's end ends it", func() bool { v, _ := e.Inspect(ctx, s.ID); return v.State == engine.Exited })
		if err := e.Remove(ctx, s.ID); err != nil {
			t.Error(err)
		}
	})
	t.Run("InputStaysOpen", func(t *testing.T) {
		s := crashSpec(c.Root, "cat-again", "")
		s.Command, s.Stdin = []string{"cat"}, true
		start(s)
		// A client whose input ends was attached until the container ended.
		for _, text := range []string{"first\n", "second\n"} {
			in, say := io.Pipe()
			var got bytes.Buffer
			left := make(chan error, 1)
			go func() {
				left <- e.Attach(ctx, s.ID, engine.IO{Stdin: in, Stdout: writerFunc(func(p []byte) (int, error) {
					got.Write(p)
					return len(p), say.Close()
				})})
			}()
			if _, err := io.WriteString(say, text); err != nil {
				t.Fatal(err)
			}
			if err := <-left; err != nil || got.String() != text {
				t.Errorf("got %q, %v", got.String(), err)
			}
		}
		end(t, e, s.ID)
	})
	s := crashSpec(c.Root, "streams", polite+`sleep 1000 & wait`)
	start(s)
	t.Run("ExecWithTerminal", func(t *testing.T) {
		sizes := make(chan engine.Size, 1)
		sizes <- engine.Size{Width: 132, Height: 43}
		var out bytes.Buffer
		code, err := e.Exec(ctx, s.ID, engine.ExecSpec{TTY: true, Command: []string{"sh", "-c", `tty; while [ "$(stty size)" != "43 132" ]; do :; done; stty size; echo to-err >&2; exit 4`}},
			engine.IO{Stdin: neverReader{ctx}, Stdout: &out, Resize: sizes})
		if err != nil || code != 4 || !strings.Contains(out.String(), "43 132\r\nto-err\r\n") || !strings.Contains(out.String(), "/dev/pts/") {
			t.Errorf("code %d, err %v, output %q", code, err, out.String())
		}
	})
	t.Run("ExecSplitsStreams", func(t *testing.T) {
		var out, errs bytes.Buffer
		code, err := e.Exec(ctx, s.ID, engine.ExecSpec{Env: []string{"X=y"}, Command: []string{"sh", "-c", `echo $X; echo err >&2`}}, engine.IO{Stdout: &out, Stderr: &errs})
		if err != nil || code != 0 || out.String() != "y\n" || errs.String() != "err\n" {
			t.Errorf("code %d, err %v, %q %q", code, err, out.String(), errs.String())
		}
	})
	t.Run("ExecOfNothing", func(t *testing.T) {
		_, err := e.Exec(ctx, s.ID, engine.ExecSpec{Command: []string{"/no/such"}}, engine.IO{})
		if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("ExecLeavesChild", func(t *testing.T) {
		begin := time.Now()
		var out bytes.Buffer
		code, err := e.Exec(ctx, s.ID, engine.ExecSpec{Command: []string{"sh", "-c", `sleep 100 & echo done`}}, engine.IO{Stdout: &out})
		if err != nil || code != 0 || out.String() != "done\n" || time.Since(begin) > 30*time.Second { // the child has 100
			t.Errorf("code %d, err %v, %q, %v", code, err, out.String(), time.Since(begin))
		}
	})
	t.Run("ExecToSlowClient", func(t *testing.T) {
		const size = 300_000 // more than the pipes hold: most of it comes after the process's end
		n, slow := 0, false
		code, err := e.Exec(ctx, s.ID, engine.ExecSpec{Command: []string{"sh", "-c", fmt.Sprintf(`dd if=/dev/zero bs=1000 count=%d 2>/dev/null`, size/1000)}},
			engine.IO{Stdout: writerFunc(func(p []byte) (int, error) {
				if n += len(p); !slow && n > size-200_000 {
					slow = true
					time.Sleep(drainTime + 500*time.Millisecond)
				}
				return len(p), nil
			})})
		if err != nil || code != 0 || n != size {
			t.Errorf("code %d, err %v, %d bytes of %d", code, err, n, size)
		}
	})
	end(t, e, s.ID)
	t.Run("StopSignal", func(t *testing.T) {
		s := crashSpec(c.Root, "stops", `trap 'exit 42' USR1; echo ready; sleep 1000 & wait`)
		s.StopSignal = "SIGUSR1"
		start(s)
		until(t, "it listens", func() bool { b, _ := os.ReadFile(s.LogPath); return strings.Contains(string(b), "ready") })
		if err := e.Signal(ctx, s.ID, 0, false); err != nil {
			t.Fatal(err)
		}
		until(t, "it ends by its own signal", func() bool { v, _ := e.Inspect(ctx, s.ID); return v.State == engine.Exited && v.ExitCode == 42 })
		if err := e.Remove(ctx, s.ID); err != nil {
			t.Error(err)
		}
	})
	t.Run("Terminal", func(t *testing.T) {
		s := crashSpec(c.Root, "tty", `tty; echo hi`)
		s.TTY, s.Stdin = true, true
		out, _ := runToEnd(t, e, s)
		if !strings.Contains(out, "/dev/pts/0\r\nhi\r\n") {
			t.Errorf("output %q", out)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// neverReader is a client that keeps its input open and says nothing.
type neverReader struct{ ctx context.Context }

func (n neverReader) Read([]byte) (int, error) { <-n.ctx.Done(); return 0, io.EOF }

// TestPodShares: containers of one pod share namespaces by path, and the shim.
func TestPodShares(t *testing.T) {
	c := testConfig(t)
	e := open(t, c)
	busybox(t, e)
	a := crashSpec(c.Root, "share-a", polite+`sleep 1000 & wait`)
	a.Pod = "shared"
	if err := e.PreparePod(t.Context(), a.Pod); err != nil {
		t.Fatal(err)
	}
	if err := e.Create(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	pid, err := e.Start(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	ns := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, kind) }
	b := crashSpec(c.Root, "share-b", `readlink /proc/self/ns/net /proc/self/ns/ipc; readlink /proc/self/ns/uts`)
	b.Command = []string{"sh", "-c", `for n in net ipc uts pid; do ls -l /proc/self/ns/$n; done; ls /proc`}
	b.Pod = "shared"
	b.Namespaces = engine.Namespaces{Network: ns("net"), IPC: ns("ipc"), UTS: ns("uts"), PID: ns("pid")}
	out, _ := runToEnd(t, e, b)
	for _, kind := range []string{"net", "ipc", "uts", "pid"} {
		link, err := os.Readlink(ns(kind))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, link) {
			t.Errorf("%s namespace is not the pod's (%s):\n%s", kind, link, out)
		}
	}
	pods, _ := os.ReadDir(filepath.Join(c.State, "tasks", "pods"))
	if len(pods) != 1 {
		t.Errorf("%d shims for one pod", len(pods))
	}
	root, err := e.RootPath(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "busybox")); err != nil {
		t.Errorf("root path %s: %v", root, err)
	}
	end(t, e, a.ID)
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != syscall.ENOENT {
		t.Errorf("the root is still there: %v", err)
	}
}
