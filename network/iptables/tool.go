package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"orch/network/netns"
)

// tool runs the host's iptables programs.
type tool struct {
	netns         string
	restore, save string
	nft           bool

	// seesPIDs: the kernel's process ids are those that we see, too.
	seesPIDs bool

	mu    sync.Mutex // guards all below
	pids  [16]int    // of the last runs of restore; a ring
	next  int
	wrote time.Time
}

// ErrMissing: the host has no iptables.
var ErrMissing = errors.New("iptables is not installed (remedy: apt-get install iptables, or the package of that name of this system)")

// toolTimeout bounds one run. A kernel that is busy with other writers takes
// seconds at most.
const toolTimeout = 60 * time.Second

// find looks in the path and where administrators' programs live.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", ErrMissing
}

func newTool(path string) (*tool, error) {
	t := &tool{netns: path}
	var err error
	if t.restore, err = find("iptables-restore"); err != nil {
		return nil, err
	}
	if t.save, err = find("iptables-save"); err != nil {
		return nil, err
	}
	out, err := exec.Command(t.restore, "--version").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its version: %w: %s", t.restore, err, bytes.TrimSpace(out))
	}
	// "iptables-restore v1.8.9 (nf_tables)"; before 1.8 there was no variant.
	t.nft = bytes.Contains(out, []byte("nf_tables"))
	pidNS, err := os.Readlink("/proc/self/ns/pid")
	t.seesPIDs = err == nil && pidNS == initialPIDs
	return t, nil
}

// initialPIDs is the host's process id namespace (linux/proc_ns.h).
const initialPIDs = "pid:[4026531836]"

// dump returns the whole ruleset of the kernel.
func (t *tool) dump(ctx context.Context) ([]byte, error) {
	return t.run(ctx, nil, t.save)
}

// apply feeds a text to iptables-restore. Chains that the text doesn't name
// stay as they are; -w waits for other programs that hold the legacy lock.
func (t *tool) apply(ctx context.Context, text []byte) error {
	_, err := t.run(ctx, text, t.restore, "--noflush", "-w", "5")
	return err
}

func (t *tool) run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	t.mu.Lock() // the watcher must know the process before it can change anything
	err := netns.Do(t.netns, cmd.Start)
	if err == nil && stdin != nil {
		t.pids[t.next%len(t.pids)] = cmd.Process.Pid
		t.next++
		t.wrote = time.Now()
	}
	t.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("running %s: %w: %s", filepath.Base(name), err, explain(stdin, errs.String()))
	}
	return out.Bytes(), nil
}

// ours reports whether a process is one of the last that we ran to write. In a
// container the kernel's ids mean nothing to us: then it is a program of the
// same name, soon after we wrote.
func (t *tool) ours(pid int, name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.seesPIDs {
		return time.Since(t.wrote) < 2*time.Second && name != "" && strings.HasPrefix(filepath.Base(t.restore), name)
	}
	return pid != 0 && slices.Contains(t.pids[:], pid)
}

// explain shortens the tool's complaint to a line and adds the input line that
// it names, without which "line 4711 failed" helps nobody.
func explain(stdin []byte, stderr string) string {
	msg := strings.TrimSpace(stderr)
	if i := strings.Index(msg, "\n"); i > 0 {
		msg = msg[:i]
	}
	var n int
	if i := strings.Index(stderr, "line "); i >= 0 {
		fmt.Sscanf(stderr[i:], "line %d", &n)
	}
	if lines := bytes.Split(stdin, []byte("\n")); n > 0 && n <= len(lines) {
		return fmt.Sprintf("%s (%q)", msg, lines[n-1])
	}
	return msg
}
