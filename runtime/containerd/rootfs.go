package containerd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// maxTableBytes bounds /etc/passwd and /etc/group of an image.
const maxTableBytes = 1 << 20

// imageFiles reads files of a root file system that is not mounted, layer by
// layer as overlayfs would look.
func imageFiles(mounts []mount.Mount) func(string) ([]byte, error) {
	layers := layersOf(mounts)
	return func(path string) ([]byte, error) {
		for _, dir := range layers {
			b, end, err := readLayer(dir, strings.TrimPrefix(filepath.Clean(path), "/"))
			if err == nil {
				return b, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			if end {
				break
			}
		}
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
}

// layersOf lists the folders of a mount, the topmost first.
func layersOf(mounts []mount.Mount) []string {
	var out []string
	for _, m := range mounts {
		if m.Type != "overlay" {
			out = append(out, m.Source)
			continue
		}
		for _, o := range m.Options {
			if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
				out = append(out, strings.Split(v, ":")...)
			}
		}
	}
	return out
}

// readLayer reads path in one layer. end is true when the layer hides those below it.
func readLayer(dir, path string) (b []byte, end bool, err error) {
	root, err := os.OpenRoot(dir) // links that lead out of the layer are refused
	if err != nil {
		return nil, false, err
	}
	defer root.Close()
	for p := path; p != "." && p != "/"; p = filepath.Dir(p) {
		st, err := root.Lstat(p)
		if err != nil {
			continue
		}
		if isWhiteout(st) || (st.IsDir() && isOpaque(filepath.Join(dir, p))) {
			end = true
		}
	}
	st, err := root.Stat(path)
	if err != nil {
		return nil, end, fs.ErrNotExist // absent, hidden or a link that leads elsewhere
	}
	if !st.Mode().IsRegular() {
		return nil, end, fs.ErrNotExist
	}
	f, err := root.Open(path)
	if err != nil {
		return nil, end, err
	}
	defer f.Close()
	b, err = io.ReadAll(io.LimitReader(f, maxTableBytes))
	return b, end, err
}

func isWhiteout(st os.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && st.Mode()&os.ModeCharDevice != 0 && sys.Rdev == 0
}

func isOpaque(dir string) bool {
	var v [1]byte
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

// volatile leaves out the flush of the whole disk that the kernel does when an
// overlay is unmounted. What a container wrote into its own layer need not outlive a power cut: the
// layer is never mounted again. Kernels before 5.10 do not know the option.
func (e *Engine) volatile(mounts []mount.Mount) []mount.Mount {
	if !e.volatileWorks() {
		return mounts
	}
	out := make([]mount.Mount, len(mounts))
	for i, m := range mounts {
		writable := false
		for _, o := range m.Options {
			writable = writable || strings.HasPrefix(o, "upperdir=")
		}
		if m.Type == "overlay" && writable {
			m.Options = append(append([]string(nil), m.Options...), "volatile")
		}
		out[i] = m
	}
	return out
}

func (e *Engine) volatileWorks() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 5 || major == 5 && minor >= 10)
}
