package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Config of a Writer.
type Config struct {
	Path string
	// MaxBytes starts a new file when reached; 0 means 10 MiB.
	MaxBytes int64
	// MaxFiles bounds the files of one log, the current one included; 0 means 5.
	MaxFiles int
}

// Writer appends to one log. Its methods may be called from several goroutines.
type Writer struct {
	cfg Config

	mu      sync.Mutex
	file    *os.File // nil after Close
	size    int64
	buf     []byte            // records being put together, reused
	pending map[string][]byte // by stream: a line whose end has not come yet
	tidy    sync.WaitGroup    // compression of rotated files
}

// NewWriter opens the log at c.Path, making its folder when missing. A torn
// last line (power cut) is ended first.
func NewWriter(c Config) (*Writer, error) {
	if c.Path == "" {
		return nil, errors.New("opening log: no path")
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 10 << 20
	}
	if c.MaxFiles <= 0 {
		c.MaxFiles = 5
	}
	w := &Writer{cfg: c, pending: map[string][]byte{}}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o755); err != nil {
		return nil, fmt.Errorf("making log folder: %w", err)
	}
	if err := w.openLocked(); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Writer) openLocked() error {
	f, err := os.OpenFile(w.cfg.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("looking at log: %w", err)
	}
	w.file, w.size = f, st.Size()
	if w.size == 0 {
		return nil
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, w.size-1); err == nil && last[0] != '\n' {
		n, _ := f.Write([]byte{'\n'})
		w.size += int64(n)
	}
	return nil
}

// Stream returns a writer of raw output of one stream (Stdout, Stderr).
func (w *Writer) Stream(name string) io.Writer { return &streamWriter{w, name} }

type streamWriter struct {
	w    *Writer
	name string
}

func (s *streamWriter) Write(p []byte) (int, error) {
	if err := s.w.Append(time.Now(), s.name, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Append takes output as it came. Whole lines are written at once, the rest
// waits for its end or for maxRecordBytes. On an error (disk full) the lines are lost,
// the writer stays usable.
func (w *Writer) Append(at time.Time, stream string, p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return os.ErrClosed
	}
	b, rest := w.buf[:0], w.pending[stream]
	for len(p) > 0 {
		line, after, whole := bytes.Cut(p, []byte{'\n'})
		p = after
		if len(rest) > 0 {
			line = append(rest, line...)
			rest = rest[:0]
		}
		// A line of exactly maxRecordBytes is whole; a longer one is cut.
		for len(line) > maxRecordBytes {
			b = appendRecord(b, at, stream, true, line[:maxRecordBytes])
			line = line[maxRecordBytes:]
		}
		if whole {
			b = appendRecord(b, at, stream, false, line)
			continue
		}
		rest = append(rest[:0], line...) // line may share rest's array: append moves forward only
	}
	w.pending[stream] = rest
	w.buf = b
	if cap(w.buf) > 256<<10 {
		w.buf = nil
	}
	return w.writeLocked(b)
}

func (w *Writer) writeLocked(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := w.file.Write(b)
	w.size += int64(n)
	if err != nil {
		return fmt.Errorf("writing log: %w", err)
	}
	if w.size < w.cfg.MaxBytes {
		return nil
	}
	return w.rotateLocked(time.Now())
}

// EndStream writes what waits for its end, as a part of a line: the program wrote no line end, so
// readers add none. Called when the stream is closed.
func (w *Writer) EndStream(stream string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.endStreamLocked(stream)
}

func (w *Writer) endStreamLocked(stream string) error {
	rest := w.pending[stream]
	delete(w.pending, stream)
	if len(rest) == 0 || w.file == nil {
		return nil
	}
	return w.writeLocked(appendRecord(nil, time.Now(), stream, true, rest))
}

// Reopen opens the path anew, after somebody else has moved the file away.
func (w *Writer) Reopen() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return os.ErrClosed
	}
	old := w.file
	if err := w.openLocked(); err != nil {
		return err
	}
	return old.Close()
}

// Close ends both streams and closes the file. It is fine to call it twice.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.file == nil {
		w.mu.Unlock()
		return nil
	}
	err := errors.Join(w.endStreamLocked(Stdout), w.endStreamLocked(Stderr), w.file.Close())
	w.file = nil
	w.mu.Unlock()
	w.tidy.Wait()
	return err
}
