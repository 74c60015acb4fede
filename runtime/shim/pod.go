package shim

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

const (
	podsDir   = "pods"
	keyLength = 24
	// unusedPodLife is how long a shim that was prepared waits for its first task.
	unusedPodLife = time.Minute
	// shutdownTime is how long a shim may take to end.
	shutdownTime = 3 * time.Second
)

// pod is one shim process and the connection to it.
//
// Its life: starting (ready is open) -> serving -> gone (dead is closed). It is
// taken out of the Runtime's table in the moment it is told to shut down, so
// that nobody puts a task into a shim that is ending.
type pod struct {
	ns, group string
	key       string // name of its directory and socket
	dir       string

	ready chan struct{} // closed when started or failed
	err   error         // read after ready
	conn  *ttrpc.Client
	api   taskapi.TTRPCTaskService
	pipes *keeper       // nil: a shim that was started without
	dead  chan struct{} // closed when the connection has ended

	users  int // tasks, and calls that may become one; guarded by Runtime.mu
	unused *time.Timer
	letgo  sync.Once
}

// PreparePod starts the shim of a pod ahead of its first task; the next Create
// of that pod finds it running. A pod that gets no task within a minute ends again.
func (r *Runtime) PreparePod(ctx context.Context, group string) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	p, err := r.acquirePod(ctx, ns, group)
	if err != nil {
		return err
	}
	r.mu.Lock()
	p.users--
	if p.users == 0 {
		p.unused = time.AfterFunc(unusedPodLife, func() { r.endIfUnused(p) })
	}
	r.mu.Unlock()
	return nil
}

// acquirePod finds the pod's shim or starts it. The caller is counted as a user until done.
func (r *Runtime) acquirePod(ctx context.Context, ns, group string) (*pod, error) {
	id := ns + "/" + group
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, errors.New("starting shim: runtime is closed")
	}
	p := r.pods[id]
	mine := p == nil
	if mine {
		p = &pod{ns: ns, group: group, key: newKey(), ready: make(chan struct{}), dead: make(chan struct{})}
		p.dir = filepath.Join(r.cfg.State, podsDir, p.key)
		r.pods[id] = p
	}
	p.users++
	if p.unused != nil {
		p.unused.Stop()
		p.unused = nil
	}
	r.mu.Unlock()

	if mine {
		p.err = p.start(r)
		close(p.ready)
	}
	select {
	case <-p.ready:
	case <-ctx.Done():
		p.done(r, false)
		return nil, fmt.Errorf("waiting for shim of pod %s: %w", group, ctx.Err())
	}
	if p.err != nil {
		r.mu.Lock()
		if r.pods[id] == p {
			delete(r.pods, id)
		}
		r.mu.Unlock()
		return nil, fmt.Errorf("starting shim of pod %s: %w", group, p.err)
	}
	return p, nil
}

// done ends the use that acquirePod counted; a use that became a task goes on until the task is deleted.
func (p *pod) done(r *Runtime, becameTask bool) {
	if becameTask {
		return
	}
	r.mu.Lock()
	p.users--
	r.mu.Unlock()
	r.endIfUnused(p)
}

// endIfUnused shuts the shim down when it has no task and nobody is about to make one.
func (r *Runtime) endIfUnused(p *pod) {
	id := p.ns + "/" + p.group
	r.mu.Lock()
	if p.users > 0 || r.pods[id] != p {
		r.mu.Unlock()
		return
	}
	delete(r.pods, id)
	r.mu.Unlock()
	<-p.ready
	if p.err != nil {
		return
	}
	p.shutdown(r)
}

// shutdown ends the shim process and removes what it leaves.
func (p *pod) shutdown(r *Runtime) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), p.ns), shutdownTime)
	defer cancel()
	_, err := p.api.Shutdown(ctx, &taskapi.ShutdownRequest{ID: p.group})
	if err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		r.cfg.Log.Warn("ending a shim failed", "pod", p.group, "err", err)
	}
	p.letGo()
	// The shim's last act is to remove its socket, by the address file in its
	// directory: the socket goes first here, the directory is not needed by then.
	_ = os.Remove(filepath.Join(r.cfg.SocketDir, p.key))
	_ = os.RemoveAll(p.dir)
}

// letGo closes our end of the connection.
func (p *pod) letGo() error {
	var err error
	p.letgo.Do(func() {
		if p.conn != nil {
			err = p.conn.Close()
		}
		p.pipes.close()
	})
	return err
}

// start runs the shim program with a listening socket as its third file, the
// way the shim's own starter does it, and connects. The connection is accepted
// by the kernel while the shim is still loading.
func (p *pod) start(r *Runtime) (err error) {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	socket := filepath.Join(r.cfg.SocketDir, p.key)
	defer func() {
		if err != nil {
			_ = os.Remove(socket)
			_ = os.RemoveAll(p.dir)
			p.pipes.close()
		}
	}()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	file, err := l.File()
	if err != nil {
		return err
	}
	defer file.Close()
	if p.pipes, err = newKeeper(); err != nil {
		return err
	}
	ends, err := p.pipes.inherit()
	if err != nil {
		return err
	}
	defer closeAll(ends)
	for name, text := range map[string]string{"address": "unix://" + socket, "log": "", "group": p.group, "namespace": p.ns} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	cmd := exec.Command(r.cfg.Shim, "-namespace", p.ns, "-id", p.key, "-address", r.cfg.Address)
	cmd.Dir = p.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=2", "NAMESPACE=" + p.ns,
		"TTRPC_ADDRESS=" + r.cfg.EventAddress, "GRPC_ADDRESS=" + r.cfg.Address,
	}
	cmd.ExtraFiles = append([]*os.File{file}, ends...) // the shim's own starter gives the first
	// Shims outlive us and must not hold on to files that we have inherited (a
	// lock, a pipe to whoever started us).
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	// Its own session: no terminal's signal and no exit of ours reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, pidFile), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		_ = cmd.Process.Kill()
		return err
	}
	raiseOOMScore(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // reaps it, if we live that long
	if err := p.connect(r, socket); err != nil {
		_ = cmd.Process.Kill()
		return err
	}
	return nil
}

// connect opens the connection; when it ends unasked, the pod's tasks are lost.
func (p *pod) connect(r *Runtime, socket string) error {
	conn, err := net.DialTimeout("unix", socket, 5*time.Second)
	if err != nil {
		return fmt.Errorf("connecting to shim: %w", err)
	}
	p.conn = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() {
		close(p.dead)
		r.podDied(p)
	}))
	p.api = taskapi.NewTTRPCTaskClient(p.conn)
	return nil
}

// raiseOOMScore makes the shim a likelier victim than we are, so that the
// kernel, short of memory, does not take all pods down by ending us first.
func raiseOOMScore(pid int) {
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	n, err := strconv.Atoi(string(own[:max(len(own)-1, 0)]))
	if err != nil || n >= 1000 {
		return
	}
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(n+1)), 0)
}

func newKey() string {
	var b [keyLength / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
