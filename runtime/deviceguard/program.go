package deviceguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPrograms is how many programs a control group can have.
const maxPrograms = 64

// program is a loaded program that we hold open.
type program struct {
	fd int
	id uint32
}

// bpf is the system call; attr is the part of its union that the command reads.
func bpf[A any](command uintptr, attr *A) (int, error) {
	for {
		r, _, e := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
		runtime.KeepAlive(attr)
		switch e {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN:
			continue
		}
		return 0, e
	}
}

// inGroup opens a control group.
func inGroup(path string, f func(dir int) error) error {
	dir, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(dir)
	return f(dir)
}

// attached are the ids of the device programs of a control group's own.
func attached(dir int) ([]uint32, error) {
	var ids [maxPrograms]uint32
	attr := struct {
		target, kind, query, flags uint32
		ids                        uint64
		count, _                   uint32
	}{target: uint32(dir), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: maxPrograms}
	_, err := bpf(unix.BPF_PROG_QUERY, &attr)
	runtime.KeepAlive(&ids)
	if err != nil {
		return nil, fmt.Errorf("asking for the device programs of a control group: %w", err)
	}
	return append([]uint32(nil), ids[:min(attr.count, maxPrograms)]...), nil
}

type attachment struct{ target, program, kind, flags uint32 }

func attach(dir, fd int) error {
	_, err := bpf(unix.BPF_PROG_ATTACH, &attachment{uint32(dir), uint32(fd), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI})
	return err
}

func detach(dir int, id uint32) error {
	fd, err := byID(id)
	if errors.Is(err, unix.ENOENT) {
		return nil // it went by itself
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = bpf(unix.BPF_PROG_DETACH, &attachment{uint32(dir), uint32(fd), unix.BPF_CGROUP_DEVICE, 0})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func byID(id uint32) (int, error) {
	return bpf(unix.BPF_PROG_GET_FD_BY_ID, &struct{ id, next, flags uint32 }{id: id})
}

type object struct {
	path      uint64
	fd, flags uint32
}

// pin keeps a program by a name. One of that name from before is given up.
func pin(id uint32, path string) error {
	fd, err := byID(id)
	if err != nil {
		return fmt.Errorf("opening the device program %d: %w", id, err)
	}
	defer unix.Close(fd)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	_, err = bpf(unix.BPF_OBJ_PIN, &object{uint64(uintptr(unsafe.Pointer(name))), uint32(fd), 0})
	runtime.KeepAlive(name)
	if err != nil {
		return &os.PathError{Op: "pin", Path: path, Err: err}
	}
	return nil
}

// pinned opens what pin kept.
func pinned(path string) (program, error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return program{}, err
	}
	fd, err := bpf(unix.BPF_OBJ_GET, &object{path: uint64(uintptr(unsafe.Pointer(name)))})
	runtime.KeepAlive(name)
	if err != nil {
		return program{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var info [64]uint32 // struct bpf_prog_info begins with type and id
	attr := struct {
		fd, length uint32
		info       uint64
	}{uint32(fd), uint32(unsafe.Sizeof(info)), uint64(uintptr(unsafe.Pointer(&info[0])))}
	_, err = bpf(unix.BPF_OBJ_GET_INFO_BY_FD, &attr)
	runtime.KeepAlive(&info)
	if err != nil {
		unix.Close(fd)
		return program{}, fmt.Errorf("asking for the id of %s: %w", path, err)
	}
	return program{fd, info[1]}, nil
}

// mountPins makes the folder a file system that can hold programs.
func (g Guard) mountPins() error {
	if err := os.MkdirAll(g.Pins, 0o700); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(g.Pins, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: g.Pins, Err: err}
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", g.Pins, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return &os.PathError{Op: "mount", Path: filepath.Clean(g.Pins), Err: err}
	}
	return nil
}
