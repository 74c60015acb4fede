package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// pidFile in a pod's directory names its shim; it is there when the shim has a keeper.
	pidFile = "pid"
	// keeperIn and keeperOut are the shim's numbers of the keeper's two ends.
	keeperIn, keeperOut = 4, 5
	// keptPipes is how many pipes one container has at most: stdout and stderr.
	keptPipes = 2
	maxID     = 256
)

// keeper keeps the output pipes of a pod's containers open for as long as the
// pod's shim lives. A pipe that nobody has open loses what is in it, and the shim
// closes its ends when the container has ended: what a container said last would
// be lost if orch were away in that moment.
//
// It is a pair of connected sockets, both of which the shim inherits and never
// looks at. A pipe that lies in it as a message is open, so the pair alone does it;
// there is no further process. The kernel bounds what lies there (the socket's send
// buffer: some hundred containers, those that are deleted not counted); beyond that, a
// container is not kept.
type keeper struct {
	mu      sync.Mutex
	in, out int
}

// newKeeper also returns what the shim has to inherit as keeperIn and keeperOut.
func newKeeper() (*keeper, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making socket pair: %w", err)
	}
	return &keeper{in: fds[0], out: fds[1]}, nil
}

// inherit duplicates both ends for a program to be started; the caller closes them.
func (k *keeper) inherit() ([]*os.File, error) {
	var files []*os.File
	for _, fd := range []int{k.in, k.out} {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("duplicating socket: %w", err)
		}
		files = append(files, os.NewFile(uintptr(dup), "keeper"))
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// findKeeper takes the ends from a shim that a former process started; nil
// without an error for a shim that has none.
func findKeeper(podDir string) (*keeper, error) {
	b, err := os.ReadFile(filepath.Join(podDir, pidFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	pid, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("reading shim's PID: %w", err)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("opening shim %d: %w", pid, err)
	}
	defer unix.Close(process)
	in, err := unix.PidfdGetfd(process, keeperIn, 0)
	if err != nil {
		return nil, fmt.Errorf("taking socket from shim %d: %w", pid, err)
	}
	out, err := unix.PidfdGetfd(process, keeperOut, 0)
	if err != nil {
		_ = unix.Close(in)
		return nil, fmt.Errorf("taking socket from shim %d: %w", pid, err)
	}
	return &keeper{in: in, out: out}, nil
}

// close lets go of our ends; what lies in the pair stays with the shim's.
func (k *keeper) close() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.in >= 0 {
		_, _ = unix.Close(k.in), unix.Close(k.out)
		k.in, k.out = -1, -1
	}
}

// put keeps the named pipes among paths for a container, until drop.
func (k *keeper) put(id string, paths ...string) error {
	if k == nil {
		return nil
	}
	var fds []int
	defer func() { closeFDs(fds) }()
	for _, path := range paths {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			continue // a log program's address, or nothing
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening pipe: %w", err)
		}
		fds = append(fds, fd)
	}
	if len(fds) == 0 {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.send(kept{id, fds})
}

// kept is one message: the pipes of one container.
type kept struct {
	id  string
	fds []int
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

func (k *keeper) send(m kept) error {
	if k.in < 0 {
		return errors.New("keeper is closed")
	}
	return unix.Sendmsg(k.in, []byte(m.id), unix.UnixRights(m.fds...), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// drop lets go of a container's pipes. The others' are taken out on the way and
// put back: they are lost only if this process is killed in between.
func (k *keeper) drop(id string) error {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.in < 0 {
		return nil
	}
	var errs []error
	var others []kept
	for {
		m, err := k.receive()
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			errs = append(errs, err)
			break
		}
		if m.id == id {
			closeFDs(m.fds)
			continue
		}
		others = append(others, m)
	}
	for _, m := range others {
		errs = append(errs, k.send(m))
		closeFDs(m.fds)
	}
	return errors.Join(errs...)
}

// receive takes one message out. The kernel ends a read behind one that carries
// files, so messages stay apart although the sockets are streams.
func (k *keeper) receive() (kept, error) {
	text, control := make([]byte, maxID), make([]byte, unix.CmsgSpace(4*keptPipes))
	n, oob, _, _, err := unix.Recvmsg(k.out, text, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return kept{}, err
	}
	m := kept{id: string(text[:n])}
	parts, err := unix.ParseSocketControlMessage(control[:oob])
	if err != nil {
		return kept{}, fmt.Errorf("reading kept pipes: %w", err)
	}
	for i := range parts {
		fds, err := unix.ParseUnixRights(&parts[i])
		if err != nil {
			return kept{}, fmt.Errorf("reading kept pipes: %w", err)
		}
		m.fds = append(m.fds, fds...)
	}
	if n == 0 {
		return kept{}, errors.New("reading kept pipes: end of stream")
	}
	return m, nil
}
