package cdi

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// boardLists are where NVIDIA's packages for Jetson boards say what a container needs of
// the host, for NVIDIA's own container runtime: lines of a sort and a path, such as
// "lib, /usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1".
const boardLists = "etc/nvidia-container-runtime/host-files-for-container.d/*.csv"

// maxBoardEntries bounds what lists can name.
const maxBoardEntries = 4096

// board reads the lists. What they name and the board lacks is left out, as NVIDIA's
// runtime does: one list serves several boards.
func board(w Where) (Files, error) {
	out := Files{Version: w.Version, Arch: w.Arch, Root: w.Root}
	lists, err := fs.Glob(w.FS, boardLists)
	if err != nil {
		return out, fmt.Errorf("looking for the board's lists: %w", err)
	}
	if len(lists) == 0 {
		return out, errors.New("there is no list of the board's driver files in /etc/nvidia-container-runtime/host-files-for-container.d: install nvidia-l4t-init, or the packages of JetPack")
	}
	for _, name := range lists {
		f, err := w.FS.Open(name)
		if err != nil {
			return out, fmt.Errorf("reading the board's list %s: %w", name, err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if err = out.entry(w.FS, lines.Text()); err != nil {
				break
			}
		}
		if err = errors.Join(err, lines.Err(), f.Close()); err != nil {
			return out, fmt.Errorf("reading the board's list %s: %w", name, err)
		}
	}
	return out, nil
}

// entry adds what one line names.
func (f *Files) entry(root fs.FS, line string) error {
	sort, p, ok := strings.Cut(line, ",")
	sort, p = strings.TrimSpace(sort), path.Clean(strings.TrimSpace(p))
	if !ok || strings.HasPrefix(sort, "#") || !path.IsAbs(p) || p == "/" {
		return nil
	}
	if len(f.Nodes)+len(f.Libraries)+len(f.Others) >= maxBoardEntries {
		return fmt.Errorf("it has more than %d entries", maxBoardEntries)
	}
	found, err := fs.Glob(root, p[1:])
	if err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	for _, name := range found {
		st, err := fs.Stat(root, name)
		if err != nil {
			continue // a link to what this board lacks
		}
		f.add(root, sort, "/"+name, st)
	}
	return nil
}

func (f *Files) add(root fs.FS, sort, p string, st fs.FileInfo) {
	named := func(o File) bool { return o.Path == p }
	switch sort {
	case "dev":
		n, ok := st.Sys().(*syscall.Stat_t)
		if node := (Node{Path: p}); ok && st.Mode()&fs.ModeCharDevice != 0 {
			node.Major, node.Minor = unix.Major(n.Rdev), unix.Minor(n.Rdev)
			if !slices.Contains(f.Nodes, node) {
				f.Nodes = append(f.Nodes, node)
			}
		}
	case "lib", "sym", "dir":
		// A bind mount follows the link, so the container has a file under its name. The
		// loader also looks for what the library calls itself.
		if strings.Contains(path.Base(p), ".so") && st.Mode().IsRegular() {
			if !slices.ContainsFunc(f.Libraries, named) {
				l := File{Path: p, Of: Compute}
				if so := soname(root, p); strings.Contains(path.Base(p), ".so.") && so != path.Base(p) && so == path.Base(so) {
					l.Links = []string{so}
				}
				f.Libraries = append(f.Libraries, l)
			}
		} else if !slices.ContainsFunc(f.Others, named) {
			f.Others = append(f.Others, File{Path: p, Of: Compute})
		}
	}
}
