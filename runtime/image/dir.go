package image

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"orch/runtime/engine"
)

// cacheFile remembers, in the watched folder, what has been imported.
const cacheFile = ".cache.json"

// DirConfig of a Dir.
type DirConfig struct {
	// Path of the folder; it is made when missing.
	Path   string
	Images engine.Images
	// Imported is called after each file that was taken; nil for nobody.
	Imported func()
	Log      *slog.Logger
}

// Dir imports the archives of a folder (*.tar, .tar.gz, .tgz, .tar.zst), those that
// are there and those that come, and pulls what the lines of *.txt files name. All are pinned. A file
// is taken when it is closed after writing, moved in or linked, so half-written ones wait. Files that have not
// changed since their import are skipped as long as their images are there.
type Dir struct {
	cfg DirConfig
	// seen is what was imported, by file name; failed what was complained of.
	seen   map[string]imported
	failed map[string]fileState
	ready  chan struct{}

	mu sync.Mutex // guards what follows
	// busy: archives are looked at which were there or have come.
	busy bool
	// step is closed after each archive.
	step chan struct{}
}

// fileState tells whether a file has changed.
type fileState struct {
	Size    int64     `json:"size"`
	ModTime time.Time `json:"modTime"`
}

type imported struct {
	fileState
	IDs []string `json:"ids"`
}

// NewDir makes a Dir; Run does the work.
func NewDir(c DirConfig) (*Dir, error) {
	if !filepath.IsAbs(c.Path) || c.Images == nil {
		return nil, fmt.Errorf("image folder: path %q must be absolute, and images be given", c.Path)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Dir{cfg: c, seen: map[string]imported{}, failed: map[string]fileState{}, ready: make(chan struct{}), busy: true, step: make(chan struct{})}, nil
}

// Wait returns when there is enough, or when no archive of the folder is left to import:
// who misses an image need not ask a registry before. enough is asked at least once.
func (d *Dir) Wait(ctx context.Context, enough func() bool) {
	for {
		d.mu.Lock()
		busy, step := d.busy, d.step
		d.mu.Unlock()
		if enough() || !busy {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-step:
		}
	}
}

// stepped tells those who wait that an archive has been looked at.
func (d *Dir) stepped(busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = busy
	close(d.step)
	d.step = make(chan struct{})
}

// Ready is closed when what was there at the start has been looked at.
func (d *Dir) Ready() <-chan struct{} { return d.ready }

// Run imports until ctx ends.
func (d *Dir) Run(ctx context.Context) error {
	if err := os.MkdirAll(d.cfg.Path, 0o755); err != nil {
		return fmt.Errorf("making image folder: %w", err)
	}
	// The watch begins before the first look: nothing falls in between.
	changes, stop, err := watchDir(ctx, d.cfg.Path)
	if err != nil {
		return err
	}
	defer stop()
	d.loadCache()
	entries, err := os.ReadDir(d.cfg.Path)
	if err != nil {
		return fmt.Errorf("reading image folder: %w", err)
	}
	defer d.stepped(false)
	// Lists come last: what they name may be in an archive, and who misses one of their
	// images pulls it without them.
	slices.SortStableFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(rank(a.Name()), rank(b.Name())) })
	for _, e := range entries {
		d.stepped(isArchive(e.Name()))
		d.take(ctx, e.Name())
	}
	d.stepped(false)
	close(d.ready)
	for {
		select {
		case <-ctx.Done():
			return nil
		case c, ok := <-changes:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("watching image folder: the watch has ended")
			}
			if !c.whole && !linked(filepath.Join(d.cfg.Path, c.name)) {
				continue // its writer closes it
			}
			d.stepped(isArchive(c.name))
			d.take(ctx, c.name)
			d.stepped(false)
		}
	}
}

// rank puts archives before lists.
func rank(name string) int {
	if isArchive(name) {
		return 0
	}
	return 1
}

func isArchive(name string) bool {
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// take imports one file if it is one to import and has changed.
func (d *Dir) take(ctx context.Context, name string) {
	list := strings.HasSuffix(name, ".txt")
	if ctx.Err() != nil || strings.HasPrefix(name, ".") || (!isArchive(name) && !list) {
		return
	}
	path := filepath.Join(d.cfg.Path, name)
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() {
		return // gone again
	}
	state := fileState{st.Size(), st.ModTime().UTC()}
	if was, ok := d.seen[name]; ok && was.fileState == state && d.present(ctx, was.IDs) {
		return
	}
	if d.failed[name] == state {
		return // said once
	}
	start := time.Now()
	var got []engine.Image
	if list {
		got, err = d.pullList(ctx, path)
	} else {
		got, err = d.importFile(ctx, path)
	}
	if err != nil {
		if ctx.Err() == nil {
			d.failed[name] = state
			d.cfg.Log.Error("importing an image file failed", "file", path, "err", err)
		}
		return
	}
	delete(d.failed, name)
	ids, names := []string{}, []string{}
	for _, img := range got {
		ids = append(ids, img.ID)
		names = append(names, img.Names...)
	}
	d.seen[name] = imported{state, ids}
	d.saveCache()
	if d.cfg.Imported != nil {
		d.cfg.Imported()
	}
	d.cfg.Log.Info("imported images", "file", path, "images", names, "took", time.Since(start).Round(time.Millisecond))
}

func (d *Dir) importFile(ctx context.Context, path string) ([]engine.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return d.cfg.Images.Import(ctx, f, true)
}

// pullList pulls what a text file names, one reference a line.
func (d *Dir) pullList(ctx context.Context, path string) ([]engine.Image, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []engine.Image
	for line := range strings.Lines(string(b)) {
		ref := strings.TrimSpace(line)
		if ref == "" || strings.HasPrefix(ref, "#") {
			continue
		}
		img, err := d.cfg.Images.Resolve(ctx, ref)
		if err != nil {
			img, err = d.cfg.Images.Pull(ctx, ref, nil, nil)
		}
		if err != nil {
			return out, err
		}
		out = append(out, img)
	}
	return out, nil
}

func (d *Dir) present(ctx context.Context, ids []string) bool {
	return !slices.ContainsFunc(ids, func(id string) bool {
		_, err := d.cfg.Images.Resolve(ctx, id)
		return err != nil
	})
}

// loadCache reads what was imported before; a bad cache only means importing again.
func (d *Dir) loadCache() {
	b, err := os.ReadFile(filepath.Join(d.cfg.Path, cacheFile))
	if err != nil {
		return
	}
	var seen map[string]imported
	if json.Unmarshal(b, &seen) == nil && seen != nil {
		d.seen = seen
	}
}

func (d *Dir) saveCache() {
	maps.DeleteFunc(d.seen, func(name string, _ imported) bool {
		_, err := os.Stat(filepath.Join(d.cfg.Path, name))
		return errors.Is(err, fs.ErrNotExist)
	})
	path := filepath.Join(d.cfg.Path, cacheFile)
	b, err := json.Marshal(d.seen)
	if err == nil {
		err = os.WriteFile(path+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		d.cfg.Log.Warn("remembering imported images failed; they will be imported again", "err", err)
	}
}

// linked tells of a name that has just come into the folder whether it is a link to a file which
// was there before: nobody will close that. A file that is being written is none: its own name has
// come with it, or somebody has it open for writing.
func linked(path string) bool {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return false
	case st.Mode()&fs.ModeSymlink != 0:
		return true
	case !st.Mode().IsRegular() || st.Size() == 0:
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	// The kernel gives a lease of what nobody writes; some file systems have none. The first name
	// of the file may be gone already, so the count alone does not say.
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		return err == nil
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return !errors.Is(err, unix.EAGAIN) && ok && sys.Nlink > 1
}

// change is a file that came or was written. whole: nobody writes it any more.
type change struct {
	name  string
	whole bool
}

// watchDir sends the files that were written and closed, moved in, or have come.
// The channel is closed when the watch ends; stop ends it.
func watchDir(ctx context.Context, path string) (_ <-chan change, stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watching image folder: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_ONLYDIR); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("watching image folder %s: %w", path, err)
	}
	out := make(chan change)
	go func() {
		defer close(out)
		buf := make([]byte, 16<<10)
		for {
			n, err := f.Read(buf)
			if err != nil {
				return
			}
			for _, c := range changesIn(buf[:n]) {
				select {
				case out <- c:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, func() { f.Close() }, nil
}

// changesIn takes the files out of a block of inotify events, each once.
func changesIn(b []byte) []change {
	const maskAt, lengthAt = 4, 12 // offsets of the mask, and of the length of the name
	var out []change
	for len(b) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(b[maskAt:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[lengthAt:]))
		if end > len(b) {
			break
		}
		c := change{strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00"), mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO) != 0}
		switch i := slices.IndexFunc(out, func(o change) bool { return o.name == c.name }); {
		case c.name == "":
		case i < 0:
			out = append(out, c)
		default:
			out[i].whole = out[i].whole || c.whole
		}
		b = b[end:]
	}
	return out
}
