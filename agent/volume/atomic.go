package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A volume made of objects looks like this, so that a reader sees either all of
// the old files or all of the new ones:
//
//	DIR/..data          -> ..2026_11_21_09_30_00.123456 (renamed over in one step)
//	DIR/..2026_…/a/b    the files
//	DIR/a               -> ..data/a
const dataLink = "..data"

// write makes dir hold exactly files; it reports whether anything changed.
// group, if not nil, owns the files and may read them.
func write(dir string, files map[string]file, group *int64) (changed bool, err error) {
	current, _ := os.Readlink(filepath.Join(dir, dataLink))
	if current != "" && same(filepath.Join(dir, current), files) {
		return false, nil
	}
	fresh, err := os.MkdirTemp(dir, "..2006_01_02_")
	if err != nil {
		return false, err
	}
	if err := fill(fresh, files, group); err != nil {
		return false, errors.Join(err, os.RemoveAll(fresh))
	}
	link := filepath.Join(dir, dataLink+"_tmp")
	os.Remove(link)
	if err := errors.Join(os.Symlink(filepath.Base(fresh), link), os.Rename(link, filepath.Join(dir, dataLink))); err != nil {
		return false, errors.Join(err, os.RemoveAll(fresh))
	}
	if err := links(dir, files); err != nil {
		return true, err
	}
	if current != "" {
		return true, os.RemoveAll(filepath.Join(dir, current))
	}
	return true, nil
}

// same tells whether dir holds exactly files. Modes are not compared: a change of
// modes comes with a new pod.
func same(dir string, files map[string]file) bool {
	found := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		f, ok := files[rel]
		if !ok {
			return fs.ErrNotExist
		}
		b, err := os.ReadFile(p)
		if err != nil || !bytes.Equal(b, f.data) {
			return fs.ErrNotExist
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}

func fill(dir string, files map[string]file, group *int64) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(f.mode) & 0o777
		if group != nil {
			mode |= 0o040
		}
		if err := os.WriteFile(p, f.data, mode); err != nil {
			return err
		}
		if err := os.Chmod(p, mode); err != nil { // past the umask
			return err
		}
		if err := os.Chown(p, orKeep(f.user), orKeep(group)); err != nil {
			return err
		}
	}
	return nil
}

// orKeep is an id for chown, which leaves what nil stands for.
func orKeep(id *int64) int {
	if id == nil {
		return -1
	}
	return int(*id)
}

// links makes the visible names point through ..data and takes away old ones.
func links(dir string, files map[string]file) error {
	want := map[string]bool{}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		want[first] = true
	}
	for name := range want {
		p := filepath.Join(dir, name)
		target := filepath.Join(dataLink, name)
		if old, err := os.Readlink(p); err == nil && old == target {
			continue
		}
		if err := errors.Join(os.RemoveAll(p), os.Symlink(target, p)); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading %s: %w", dir, err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !want[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
