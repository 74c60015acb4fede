package mps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a control daemon, ours or one that a former orch started: it is followed by
// a descriptor, which is never a stranger's that got its number.
type process struct {
	pid   int
	fd    *os.File
	ended chan struct{}

	mu     sync.Mutex
	status string // how it ended, if we are its parent
}

// pidFile has the number of the process and the time at which it began, in the kernel's
// ticks: a number is given to another one some day.
const pidFile = "orch.pid"

func (d *daemon) dir() string { return filepath.Dir(d.places.Pipe) }

// find returns the process that a former orch, or a former try, left; nil if there is none.
func (d *daemon) find(s Service) (*process, error) {
	b, err := os.ReadFile(filepath.Join(d.dir(), pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil {
		return nil, fmt.Errorf("reading the MPS daemon's pid file: %w", err)
	}
	var pid int
	var began, devices string
	if _, err := fmt.Sscan(string(b), &pid, &began, &devices); err != nil || pid <= 1 {
		return nil, nil //nolint:nilnil // a file that is no such thing: nobody is followed by it
	}
	p, err := follow(pid)
	if err != nil {
		return nil, nil //nolint:nilnil // it is gone
	}
	if startedAt(pid) != began {
		p.close()
		return nil, nil //nolint:nilnil // another process has its number
	}
	if len(s.Devices) > 0 && devices != strings.Join(s.Devices, ",") { // it serves other devices: begin anew
		err := p.kill()
		p.close()
		return nil, err
	}
	return p, nil
}

// startedAt is field 22 of /proc/<pid>/stat, empty for no process.
func startedAt(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	if f := strings.Fields(rest); len(f) > 19 {
		return f[19]
	}
	return ""
}

// follow watches a process by its descriptor.
func follow(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	p := &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd"), ended: ended}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, p.fd.Close())
	}
	go func() { // ends with the process, or by close
		err := raw.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err == nil {
			close(ended)
		}
	}()
	return p, nil
}

func (p *process) close() { _ = p.fd.Close() } // it is closed once

func (p *process) how() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status == "" {
		return "nobody saw how"
	}
	return p.status
}

// gone waits for the end of the process.
func (p *process) gone(ctx context.Context, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-p.ended:
		return true
	case <-ctx.Done():
	case <-t.C:
	}
	return false
}

// kill ends the process by force.
func (p *process) kill() error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return fmt.Errorf("killing the MPS daemon: %w", err)
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }); err != nil {
		return fmt.Errorf("killing the MPS daemon: %w", err)
	}
	if errors.Is(sent, unix.ESRCH) || p.gone(context.Background(), askLimit) {
		return nil
	}
	return errors.Join(sent, errors.New("the MPS daemon does not die: the driver holds it"))
}

// start makes the folders and the process. It gets a /dev/shm of its own, which its
// clients share: that is where client and server meet.
func (d *daemon) start(s Service) (*process, error) {
	program, err := d.config.Program()
	if err != nil {
		return nil, err
	}
	if err := d.folders(); err != nil {
		return nil, err
	}
	said, err := os.OpenFile(filepath.Join(d.places.Log, "start.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("making the MPS daemon's log: %w", err)
	}
	defer said.Close()
	cmd := exec.Command(program.Path, "-f")
	cmd.Env = append(d.env(program), "CUDA_VISIBLE_DEVICES="+strings.Join(s.Devices, ","))
	cmd.Stdout, cmd.Stderr, cmd.Dir = said, said, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a signal for the agent's group is not for it
	if err := withShm(d.places.Shm, cmd.Start); err != nil {
		return nil, fmt.Errorf("starting %s: %w", program.Path, err)
	}
	p, err := follow(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("following the MPS daemon: %w", err)
	}
	began := startedAt(cmd.Process.Pid)
	p.ended = make(chan struct{})
	go func() { // ends with the process, which may outlive us
		_ = cmd.Wait() // how it ended is in ProcessState
		p.mu.Lock()
		p.status = cmd.ProcessState.String()
		if line := lastLine(said.Name()); line != "" {
			p.status += ": " + line
		}
		p.mu.Unlock()
		close(p.ended)
	}()
	text := fmt.Sprintf("%d %s %s\n", p.pid, began, strings.Join(s.Devices, ","))
	if err := os.WriteFile(filepath.Join(d.dir(), pidFile), []byte(text), 0o644); err != nil {
		return nil, errors.Join(fmt.Errorf("noting the MPS daemon: %w", err), p.kill())
	}
	return p, nil
}

// lastLine is the last that a file says, of its first kilobytes.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 4<<10)
	n, _ := f.Read(b)
	lines := strings.Split(strings.TrimSpace(string(b[:n])), "\n")
	return lines[len(lines)-1]
}

// folders are made anew: sockets of a daemon that is gone must not be there.
func (d *daemon) folders() error {
	if err := d.clear(); err != nil {
		return err
	}
	// A server has its client's user, which need not be ours.
	for _, dir := range []string{d.places.Pipe, d.places.Log, d.places.Shm} {
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.Chmod(dir, 0o777|os.ModeSticky)
		}
		if err != nil {
			return fmt.Errorf("making the MPS daemon's folders: %w", err)
		}
	}
	if err := unix.Mount("shm", d.places.Shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("mounting the MPS daemon's memory: %w", err)
	}
	return nil
}

// clear takes the folders away.
func (d *daemon) clear() error {
	for { // one that was mounted twice is mounted twice
		err := unix.Unmount(d.places.Shm, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmounting the MPS daemon's memory: %w", err)
		}
	}
	if err := os.RemoveAll(d.dir()); err != nil {
		return fmt.Errorf("removing the MPS daemon's folders: %w", err)
	}
	return nil
}

// withShm runs f on a thread of its own whose /dev/shm is dir, and with it every process
// that f starts. The thread ends afterwards: nothing else must run on it.
func withShm(dir string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil { // what is unmounted on the host is unmounted here too
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
		}
		if err == nil {
			err = unix.Mount(dir, TargetShm, "", unix.MS_BIND, "")
		}
		if err != nil {
			done <- fmt.Errorf("giving it a %s of its own: %w", TargetShm, err)
			return
		}
		done <- f()
	}()
	return <-done
}
