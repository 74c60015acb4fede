package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exec replaces this process by an embedded program; it returns only if it fails.
// The program is kept in dir under a name with its checksum, so that it is unpacked
// once for each version of orch; versions before it are removed. Where dir is empty
// or cannot be written, the program runs from memory, unpacked at each call.
func Exec(name, dir string, argv, env []string) error {
	path, memory, err := tool(embedded, name, dir)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, argv, env)
	runtime.KeepAlive(memory)
	return fmt.Errorf("executing %s: %w", name, err)
}

// Open returns an embedded program as a sealed file in memory, to be executed through
// its descriptor. The caller closes it.
func Open(name string) (*os.File, error) {
	sums, err := checksums(embedded)
	if err != nil {
		return nil, err
	}
	if sums[name] == "" {
		return nil, fmt.Errorf("unpacking %s: no checksum for it: %w", name, ErrNotBuilt)
	}
	return inMemory(embedded, name, sums[name])
}

// Keep puts an embedded program into dir, as Exec does, and returns its path.
func Keep(name, dir string) (string, error) {
	path, memory, err := tool(embedded, name, dir)
	if memory != nil { // dir cannot be written
		err = errors.Join(fmt.Errorf("unpacking %s into %s: the folder cannot be written", name, dir), memory.Close())
	}
	return path, err
}

// tool makes the program executable. The path is valid as long as memory, which may
// be nil, is open.
func tool(from fs.FS, name, dir string) (path string, memory *os.File, err error) {
	sums, err := checksums(from)
	if err != nil {
		return "", nil, err
	}
	sum := sums[name]
	if len(sum) < 16 {
		return "", nil, fmt.Errorf("unpacking %s: no checksum for it: %w", name, ErrNotBuilt)
	}
	if dir != "" {
		path = filepath.Join(dir, name+"-"+sum[:16])
		if trusted(path) {
			return path, nil, nil
		}
		if err = keep(from, name, sum, path); err == nil {
			return path, nil, nil
		}
	}
	memory, memoryErr := inMemory(from, name, sum)
	if memoryErr != nil {
		return "", nil, errors.Join(err, memoryErr)
	}
	return fmt.Sprintf("/proc/self/fd/%d", memory.Fd()), memory, nil
}

// keep puts the program at path and removes its other versions beside it.
func keep(from fs.FS, name, sum, path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the folder of tools: %w", err)
	}
	if err := place(from, name, sum, path); err != nil {
		return fmt.Errorf("unpacking %s: %w", name, err)
	}
	others, err := filepath.Glob(filepath.Join(dir, name+"-*"))
	for _, o := range others {
		if o != path {
			err = errors.Join(err, os.Remove(o))
		}
	}
	return err
}

// trusted tells whether path is a program that nobody but this user or root can
// have put there. It was verified when it was written, and came there whole.
func trusted(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() || st.Mode().Perm() != 0o755 {
		return false
	}
	owner := st.Sys().(*syscall.Stat_t).Uid
	return owner == 0 || int(owner) == os.Geteuid()
}

// inMemory puts the program into a sealed file without a name. The program that is
// executed from it does not inherit it.
func inMemory(from fs.FS, name, sum string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making room in memory for %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	err = expand(from, name, sum, f)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("unpacking %s into memory: %w", name, err), f.Close())
	}
	return f, nil
}
