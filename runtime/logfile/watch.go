package logfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watcher tells that something happened in a log's folder.
type watcher struct {
	file *os.File
	// changed gets nil for "look again" (one at most waits), an error when the
	// watch has failed.
	changed chan error
}

// watch begins to watch the folder of path; Close ends its goroutine.
func watch(path string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.EMFILE) {
			return nil, errors.New("watching log: too many watches on this host: raise fs.inotify.max_user_instances")
		}
		return nil, fmt.Errorf("watching log: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	const events = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), events); err != nil {
		f.Close()
		return nil, fmt.Errorf("watching log folder %s: %w", filepath.Dir(path), err)
	}
	w := &watcher{file: f, changed: make(chan error, 1)}
	go w.run()
	return w, nil
}

// run passes events on until the file is closed.
func (w *watcher) run() {
	buf := make([]byte, 4096) // what is in the events does not matter: the reader looks again
	for {
		_, err := w.file.Read(buf)
		if err != nil && errors.Is(err, os.ErrClosed) {
			return
		}
		select {
		case w.changed <- err:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (w *watcher) Close() error { return w.file.Close() }
