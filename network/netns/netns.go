// Package netns owns namespaces that outlive processes: it makes network, IPC
// and UTS namespaces, pins each on a file by a bind mount, enters them for the
// time of a function, and removes them. No process sits in a namespace to keep
// it alive. It refuses to know what is inside: links and addresses belong to
// package link. Start reading at Create and Do.
//
// A thread that has changed its namespace is dangerous: Go would run any
// goroutine on it. Hence every function here works on a locked thread of a new
// goroutine, and a thread that cannot be brought back ends with that goroutine.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// nsfsMagic is the file system type of a pinned namespace (linux/magic.h).
const nsfsMagic = 0x6e736673

// Spec names the files on which new namespaces are pinned. An empty path means
// that this namespace isn't made.
type Spec struct {
	Net, IPC, UTS string
	// Hostname is set inside the new UTS namespace; empty: as on the host.
	Hostname string
}

// kind is one sort of namespace: its clone flag and its name under /proc/self/ns.
type kind struct {
	path, proc string
	flag       int
}

func (s Spec) kinds() []kind {
	all := []kind{{s.Net, "net", unix.CLONE_NEWNET}, {s.IPC, "ipc", unix.CLONE_NEWIPC}, {s.UTS, "uts", unix.CLONE_NEWUTS}}
	var wanted []kind
	for _, k := range all {
		if k.path != "" {
			wanted = append(wanted, k)
		}
	}
	return wanted
}

// Prepare makes dir a shared mount of its own. Then an unpin reaches every
// mount namespace that copied the tree, and no copy keeps a namespace alive.
func Prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the namespace directory: %w", err)
	}
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, 0, 0, &st)
	mounted := err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	if !mounted {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mounting %s on itself: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("sharing the mount %s: %w", dir, err)
	}
	return nil
}

// Create makes the namespaces of spec and pins them; in a new network namespace
// the loopback device is up. It makes all of them or none. A path on which a
// namespace is pinned already is an error (os.ErrExist).
func Create(spec Spec) error {
	kinds := spec.kinds()
	for i, k := range kinds {
		if err := touch(k.path); err != nil {
			removeAll(kinds[:i])
			return err
		}
	}
	err := onThread(func() (bool, error) { return false, create(spec, kinds) })
	if err != nil {
		removeAll(kinds)
	}
	return err
}

// create runs on a thread that ends afterwards.
func create(spec Spec, kinds []kind) error {
	flags := 0
	for _, k := range kinds {
		flags |= k.flag
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("making namespaces: %w", err)
	}
	if spec.UTS != "" && spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("setting the host name %q: %w", spec.Hostname, err)
		}
	}
	if spec.Net != "" {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	for _, k := range kinds {
		source := fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), k.proc)
		if err := unix.Mount(source, k.path, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pinning the %s namespace on %s: %w", k.proc, k.path, err)
		}
	}
	return nil
}

// loopbackUp sets lo up by ioctl: one system call, no netlink socket.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a control socket: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	return nil
}

func touch(path string) error {
	if Is(path) {
		return fmt.Errorf("pinning a namespace on %s: %w", path, os.ErrExist)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making the namespace directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return fmt.Errorf("making the namespace file: %w", err)
	}
	return f.Close()
}

func removeAll(kinds []kind) {
	for _, k := range kinds {
		_ = Remove(k.path)
	}
}

// Is reports whether a namespace is pinned on path. A leftover plain file, as
// after a reboot, is none.
func Is(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == nsfsMagic
}

// Remove unpins and deletes each path; what isn't there is fine. The kernel
// destroys a namespace when its last process or socket is gone too.
func Remove(paths ...string) error {
	var errs []error
	for _, path := range paths {
		if path == "" {
			continue
		}
		// Mounted twice (by a copy of the tree that came back) means unmounting twice.
		for Is(path) {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unpinning %s: %w", path, err))
				break
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing a namespace file: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Do runs f inside the network namespace pinned on path; with an empty path it
// simply calls f. Goroutines that f starts are outside, sockets that it opens
// and processes that it forks are inside for good.
func Do(path string, f func() error) error {
	if path == "" {
		return f()
	}
	return onThread(func() (restored bool, err error) {
		home, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		if err != nil {
			return true, fmt.Errorf("opening the thread's network namespace: %w", err)
		}
		defer home.Close()
		target, err := os.Open(path)
		if err != nil {
			return true, fmt.Errorf("opening a network namespace: %w", err)
		}
		defer target.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("entering the network namespace %s: %w", path, err)
		}
		// Runs after a panic or Goexit in f too; the thread is lost when it fails.
		defer func() { restored = unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil }()
		return false, f()
	})
}

// onThread runs f on a locked thread and gives the thread back only when f
// says that it is as it was. A runtime.Goexit in f (a failed test) arrives as
// an error.
//
// Never on the process's first thread: Go parks that one for ever instead of
// ending it, the namespace would stay alive, and /proc/self and /proc/net would
// show it to everybody.
func onThread(f func() (restored bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		result := errors.New("ended before it returned")
		defer func() { done <- result }()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			result = onThread(f) // its goroutine can't get this thread, which is locked here
			return
		}
		var restored bool
		restored, result = f()
		if restored {
			runtime.UnlockOSThread()
		}
	}()
	return <-done
}
