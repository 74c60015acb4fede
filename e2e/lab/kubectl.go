package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// kubectlTimeout is longer than any single kubectl of the tests takes.
const kubectlTimeout = 5 * time.Minute

// Output of a command that has ended.
type Output struct {
	Stdout, Stderr string
	// Code is the exit code; -1 when it did not end by itself.
	Code int
}

// Both outputs in one text.
func (o Output) Both() string { return o.Stdout + o.Stderr }

// Command runs a program on the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.ns, "--", name}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+h.Kubeconfig(), "KUBECACHEDIR="+filepath.Join(h.Dir, "kubecache"), "HOME="+h.Dir)
	return cmd
}

// Run runs a program on the host to its end, with stdin.
func (h *Host) Run(stdin, name string, args ...string) Output {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kubectlTimeout)
	defer cancel()
	cmd := h.Command(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return h.finish(cmd)
}

func (h *Host) finish(cmd *exec.Cmd) Output {
	h.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.Fatalf("running %v: %v", cmd.Args, err)
	}
	return Output{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// KubectlIn runs the embedded kubectl with stdin.
func (h *Host) KubectlIn(stdin string, args ...string) Output {
	h.Helper()
	return h.Run(stdin, Binary(), append([]string{"kubectl"}, args...)...)
}

// TryKubectl runs the embedded kubectl and returns both outputs.
func (h *Host) TryKubectl(args ...string) (string, error) {
	h.Helper()
	o := h.KubectlIn("", args...)
	if o.Code != 0 {
		return o.Both(), errors.New(strings.TrimSpace(o.Stderr))
	}
	return o.Both(), nil
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

// Running is a program on the host that has not ended yet.
type Running struct {
	cmd  *exec.Cmd
	out  *lines
	done chan struct{}
}

// Start runs a program on the host beside the test, at most until its end.
func (h *Host) Start(name string, args ...string) *Running {
	h.Helper()
	r := &Running{cmd: h.Command(context.Background(), name, args...), out: &lines{}, done: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	h.must(r.cmd.Start())
	go func() { r.cmd.Wait(); close(r.done) }()
	h.Cleanup(r.Stop)
	return r
}

// StartKubectl is Start for the embedded kubectl.
func (h *Host) StartKubectl(args ...string) *Running {
	h.Helper()
	return h.Start(Binary(), append([]string{"kubectl"}, args...)...)
}

// Output so far, both streams.
func (r *Running) Output() string { return r.out.String() }

// Done closes when it has ended.
func (r *Running) Done() <-chan struct{} { return r.done }

// Code is the exit code after Done.
func (r *Running) Code() int { return r.cmd.ProcessState.ExitCode() }

// Stop interrupts it and waits for its end.
func (r *Running) Stop() {
	r.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-r.done:
	case <-time.After(5 * time.Second):
		r.cmd.Process.Kill()
		<-r.done
	}
}

// orchTimeout bounds an orch that is expected to end by itself.
const orchTimeout = 2 * time.Minute

// Orch runs orch on the host to its end, with what env adds or replaces; for
// calls that are expected to fail or to end soon.
func (h *Host) Orch(env []string, args ...string) Output {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), orchTimeout)
	defer cancel()
	cmd := h.Command(ctx, Binary(), args...)
	cmd.Env = append(cmd.Env, env...)
	return h.finish(cmd)
}
