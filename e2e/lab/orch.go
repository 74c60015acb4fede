package lab

import (
	"bytes"
	"context"
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
	p.WaitReady(60 * time.Second)
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
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "KUBECONFIG=") || strings.HasPrefix(s, "ORCH_") }), "ORCH_CONFIG="+os.DevNull)
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
	case <-time.After(30 * time.Second):
		p.Errorf("orch on %s did not stop on SIGTERM", p.Name)
		p.Kill()
	}
}

// Restart starts it again after Kill or Stop and waits until it is ready.
func (p *Process) Restart() {
	p.Helper()
	want := strings.Count(p.log.String(), "orch is ready") + 1
	p.run()
	p.waitReady(want, 60*time.Second)
}

// killContainers ends the shims and containers that outlive orch, found by the
// host's directory in their command line.
func (h *Host) killContainers() {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(e, "cmdline"))
		if err != nil || !bytes.Contains(b, []byte(h.Dir+"/")) || !bytes.Contains(b, []byte("containerd-shim")) {
			continue
		}
		var pid int
		fmt.Sscanf(filepath.Base(e), "%d", &pid)
		killTree(pid)
	}
	unmountBelow(h.Dir)
}

// killTree ends a shim and everything below it.
func killTree(pid int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(b)) {
		var child int
		fmt.Sscanf(f, "%d", &child)
		killTree(child)
	}
	syscall.Kill(pid, syscall.SIGKILL)
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

// Command runs a program on the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.ns, "--", name}, args...)...)
}

// TryKubectl runs the embedded kubectl and returns both outputs.
func (h *Host) TryKubectl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := h.Command(ctx, Binary(), append([]string{"kubectl", "--kubeconfig", h.Kubeconfig()}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// Kubectl fails the test when kubectl fails.
func (h *Host) Kubectl(args ...string) string {
	h.Helper()
	out, err := h.TryKubectl(args...)
	if err != nil {
		h.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// HTTP is a client whose connections are made on the host; one connection a request.
func (h *Host) HTTP() *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
}
