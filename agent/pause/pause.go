// Package pause holds the PID namespace of a pod whose containers share their
// processes: a namespace lives only as long as its process 1, and no container
// may be that, since it can end. The process has no privileges, an empty root
// and 200 bytes of code. It outlives orch. Start reading at Start.
package pause

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// nobody is the user of the process.
const nobody = 65535

// Start makes a PID namespace, pins it at pin, and returns its process. dir becomes
// the root of the process: it holds nothing but the program. One that is there and
// lives is kept.
func Start(dir, pin string) (pid int, err error) {
	if pid, ok := find(pin); ok {
		return pid, nil
	}
	if err := Stop(pin); err != nil {
		return 0, err
	}
	if err := install(dir); err != nil {
		return 0, err
	}
	cmd := exec.Cmd{
		Path: "/pause", Args: []string{"pause"}, Dir: "/", Env: []string{},
		SysProcAttr: &syscall.SysProcAttr{
			Chroot: dir, Cloneflags: unix.CLONE_NEWPID, Setsid: true,
			Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		},
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting the process that holds the PID namespace: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaped while we are its parent; init does it later
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill()
		}
	}()
	if err := os.MkdirAll(filepath.Dir(pin), 0o755); err != nil {
		return 0, fmt.Errorf("making the namespace directory: %w", err)
	}
	if err := os.WriteFile(pin, nil, 0o444); err != nil {
		return 0, fmt.Errorf("making the pin of the PID namespace: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/pid", cmd.Process.Pid), pin, "", unix.MS_BIND, ""); err != nil {
		return 0, fmt.Errorf("pinning the PID namespace: %w", err)
	}
	if err := os.WriteFile(pidFile(pin), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return 0, fmt.Errorf("noting the process that holds the PID namespace: %w", err)
	}
	return cmd.Process.Pid, nil
}

// Stop ends the process, and with it all that is left in the namespace, and takes
// the pin away. Nothing there is no error.
func Stop(pin string) error {
	if pid, ok := find(pin); ok {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending the process that holds the PID namespace: %w", err)
		}
	}
	if err := unix.Unmount(pin, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unpinning the PID namespace: %w", err)
	}
	for _, f := range []string{pin, pidFile(pin)} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the pin of the PID namespace: %w", err)
		}
	}
	return nil
}

func pidFile(pin string) string { return pin + ".pid" }

// find returns the process if it still is in the pinned namespace: its number may
// have been given to another since.
func find(pin string) (pid int, ok bool) {
	b, err := os.ReadFile(pidFile(pin))
	if err != nil {
		return 0, false
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil || pid <= 1 {
		return 0, false
	}
	var pinned, its unix.Stat_t
	if unix.Stat(pin, &pinned) != nil || unix.Stat(fmt.Sprintf("/proc/%d/ns/pid", pid), &its) != nil {
		return 0, false
	}
	return pid, pinned.Ino == its.Ino && pinned.Dev == its.Dev
}

// install writes the program, unless it is there.
func install(dir string) error {
	machine := elf.EM_X86_64
	if goruntime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	want := program(machine)
	name := filepath.Join(dir, "pause")
	if have, err := os.ReadFile(name); err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the root of the pause program: %w", err)
	}
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, want, 0o555); err != nil {
		return fmt.Errorf("writing the pause program: %w", err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("writing the pause program: %w", err)
	}
	return nil
}
