package lab

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Binary is the orch under test.
func Binary() string {
	if b := os.Getenv("ORCH_BINARY"); b != "" {
		return b
	}
	p, _ := filepath.Abs(filepath.Join(root(), "dist", "orch"))
	return p
}

// root of the repository: the parent of e2e.
func root() string {
	d, _ := os.Getwd()
	for d != "/" {
		if _, err := os.Stat(filepath.Join(d, "arch_test.go")); err == nil {
			return d
		}
		d = filepath.Dir(d)
	}
	return "."
}

// Root of the repository.
func Root() string { return root() }

// readyTimeout is how long an orch may take to be ready, on a machine that is busy.
const readyTimeout = 2 * time.Minute

// Process is an orch that runs on a host.
type Process struct {
	*Host
	args []string
	cmd  *exec.Cmd
	log  *lines
	done chan struct{}
}

// lines keeps what a process printed, for waiting and for failures; bounded.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxLog = 4 << 20

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() < maxLog {
		l.buf.Write(b)
	}
	return len(b), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// flags keep an orch inside its host's directory.
func (h *Host) flags() []string {
	return []string{"--data-dir", h.Dir, "--node-name", h.Name, "--node-ip", h.IP.String()}
}

// StartServer runs `orch server` until it says that it is ready.
func (h *Host) StartServer(args ...string) *Process {
	h.Helper()
	p := h.start(append(append([]string{"server"}, h.flags()...), append([]string{"--write-kubeconfig", h.Kubeconfig(), "--advertise-address", h.IP.String()}, args...)...)...)
	p.WaitReady(readyTimeout)
	return p
}

// StartAgent runs `orch agent join` against a server.
func (h *Host) StartAgent(server *Process, args ...string) *Process {
	h.Helper()
	token, err := os.ReadFile(filepath.Join(server.Dir, "server", "token"))
	h.must(err)
	url := fmt.Sprintf("https://%s:6443", server.IP)
	return h.start(append(append([]string{"agent", "join", url, "--token", strings.TrimSpace(string(token))}, h.flags()...), args...)...)
}

func (h *Host) start(args ...string) *Process {
	h.Helper()
	if _, err := os.Stat(Binary()); err != nil {
		h.Fatalf("%s is missing: run make build", Binary())
	}
	p := &Process{Host: h, args: args, log: &lines{}}
	p.run()
	h.Cleanup(func() {
		p.Stop()
		if h.Failed() {
			h.Logf("output of orch on %s:\n%s", h.Name, tail(p.log.String(), 200))
		}
		h.killContainers()
	})
	return p
}

func tail(s string, n int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

func (p *Process) run() {
	p.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + p.ns, "--", Binary()}, p.args...)...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "KUBECONFIG=") || strings.HasPrefix(s, "ORCH_") || strings.HasPrefix(s, "K3S_")
	}), "ORCH_CONFIG="+os.DevNull)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.must(cmd.Start())
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	p.cmd, p.done = cmd, done
}

// PID of the running orch.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is what it has printed.
func (p *Process) Log() string { return p.log.String() }

// WaitReady waits for the n-th "orch is ready" of all its runs.
func (p *Process) WaitReady(timeout time.Duration) {
	p.Helper()
	want := strings.Count(p.log.String(), "orch is ready") + 1
	p.waitReady(want, timeout)
}

func (p *Process) waitReady(want int, timeout time.Duration) {
	p.Helper()
	p.Eventually(timeout, "orch is ready", func() error {
		select {
		case <-p.done:
			p.Fatalf("orch on %s ended: %s", p.Name, tail(p.log.String(), 30))
		default:
		}
		if strings.Count(p.log.String(), "orch is ready") < want {
			return fmt.Errorf("not yet")
		}
		return nil
	})
}

// Kill ends it at once (SIGKILL); its containers go on.
func (p *Process) Kill() {
	p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop ends it cleanly.
func (p *Process) Stop() {
	select {
	case <-p.done:
		return
	default:
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.Errorf("orch on %s did not stop on SIGTERM", p.Name)
		p.Kill()
	}
}

// Restart starts it again after Kill or Stop and waits until it is ready.
func (p *Process) Restart() {
	p.Helper()
	want := strings.Count(p.log.String(), "orch is ready") + 1
	p.run()
	p.waitReady(want, readyTimeout)
}

// RestartWithout starts it again without one of its arguments.
func (p *Process) RestartWithout(arg string) {
	p.Helper()
	p.args = slices.DeleteFunc(slices.Clone(p.args), func(a string) bool { return a == arg })
	p.Restart()
}

// killContainers ends the shims and containers that outlive orch.
func (h *Host) killContainers() {
	for _, pid := range h.shims() {
		killTree(pid)
	}
	unmountBelow(h.Dir)
}

// shims of this host are found by its directory in their command line.
func (h *Host) shims() (pids []int) {
	entries, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, e := range entries {
		b, err := os.ReadFile(e)
		if err != nil || !bytes.Contains(b, []byte(h.Dir+"/")) || !bytes.Contains(b, []byte("containerd-shim")) {
			continue
		}
		var pid int
		fmt.Sscanf(e, "/proc/%d/", &pid)
		pids = append(pids, pid)
	}
	return pids
}

// children of a process, over all its threads.
func children(pid int) (out []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		for _, f := range strings.Fields(string(b)) {
			var child int
			fmt.Sscanf(f, "%d", &child)
			out = append(out, child)
		}
	}
	return out
}

// killTree ends a shim and everything below it.
func killTree(pid int) {
	for _, child := range children(pid) {
		killTree(child)
	}
	syscall.Kill(pid, syscall.SIGKILL)
}

// Containers are the first processes of the containers that run on the host, by
// PID, with their command line and start time: equal maps mean that none was
// restarted in between.
func (h *Host) Containers() map[int]string {
	out := map[int]string{}
	for _, shim := range h.shims() {
		for _, pid := range children(shim) {
			cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			stat, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			_, fields, ok := strings.Cut(string(stat), ") ")
			if f := strings.Fields(fields); err == nil && err2 == nil && ok && len(f) > 19 && len(cmd) > 0 {
				out[pid] = strings.TrimSpace(strings.ReplaceAll(string(cmd), "\x00", " ")) + " since " + f[19]
			}
		}
	}
	return out
}

func unmountBelow(dir string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	var mounts []string
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			mounts = append(mounts, f[4])
		}
	}
	slices.Reverse(mounts)
	for _, m := range mounts {
		unix.Unmount(m, unix.MNT_DETACH)
	}
}

// Kubeconfig is where the server on the host writes it.
func (h *Host) Kubeconfig() string { return filepath.Join(h.Dir, "kubeconfig.yaml") }

// Config for clients in this process; connections are made on the host.
func (h *Host) Config() *rest.Config {
	h.Helper()
	c, err := clientcmd.BuildConfigFromFlags("", h.Kubeconfig())
	h.must(err)
	c.Dial = h.Dial
	c.QPS, c.Burst = -1, -1
	return c
}

// Clientset is client-go against the server on the host.
func (h *Host) Clientset() *kubernetes.Clientset {
	h.Helper()
	c, err := kubernetes.NewForConfig(h.Config())
	h.must(err)
	return c
}

// Eventually calls check until it returns nil.
func (h *Host) Eventually(timeout time.Duration, what string, check func() error) {
	h.Helper()
	var err error
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	h.Fatalf("%s: not within %v: %v", what, timeout, err)
}

// HTTP is a client whose connections are made on the host; one connection a request.
func (h *Host) HTTP() *http.Client {
	return &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
}
