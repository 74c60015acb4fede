package logfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Options of Read. The zero value prints the whole log once.
type Options struct {
	// Tail is the number of lines from the end to begin with; nil means all.
	Tail *int64
	// Since leaves out what is older; the zero time leaves nothing out.
	Since time.Time
	// Timestamps puts the time in front of each line.
	Timestamps bool
	// LimitBytes ends after that many bytes of output; 0 means no limit.
	LimitBytes int64
	// Follow waits for more until ctx ends or Done is closed and all is read.
	Follow bool
	// Done is closed when nothing more will be written (the container has
	// ended and its log is flushed). May be nil.
	Done <-chan struct{}
}

// Read prints the log at path: lines of stdout to stdout, of stderr to stderr;
// a nil writer leaves that stream out. It begins in the newest rotated file that is not
// compressed, so that a rotation does not hide what was written just before. A log that does
// not exist yet is empty (with Follow it is waited for).
func Read(ctx context.Context, path string, o Options, stdout, stderr io.Writer) error {
	p := &printer{opts: o, left: o.LimitBytes, stdout: stdout, stderr: stderr}
	err := read(ctx, path, o, p)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

func read(ctx context.Context, path string, o Options, p *printer) error {
	var wake *watcher
	if o.Follow {
		// The watch begins before the first look: nothing falls in between.
		w, err := watch(path)
		if err != nil {
			return err
		}
		defer w.Close()
		wake = w
	}
	files, err := openChain(path, o.Tail)
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for len(files) > 1 {
		if _, err := p.drain(ctx, files[0].r); err != nil {
			return err
		}
		files[0].Close()
		files = files[1:]
	}
	var cur *source
	if len(files) == 1 {
		cur, files = files[0], nil
	}
	return p.follow(ctx, path, cur, o, wake)
}

// follow prints what comes, from file to file. It owns cur.
func (p *printer) follow(ctx context.Context, path string, cur *source, o Options, wake *watcher) error {
	defer func() {
		if cur != nil {
			cur.Close()
		}
	}()
	ended := false // Done was seen, this is the last round
	for {
		for {
			next, err := p.step(ctx, path, cur)
			if err != nil {
				return err
			}
			if next == nil {
				break
			}
			cur = next
		}
		if !o.Follow || ended {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-o.Done:
			ended = true
		case err := <-wake.changed:
			if err != nil {
				return fmt.Errorf("watching log: %w", err)
			}
		}
	}
}

// step prints cur to its end and returns the file that took its place, if one did.
func (p *printer) step(ctx context.Context, path string, cur *source) (*source, error) {
	if cur != nil {
		if _, err := p.drain(ctx, cur.r); err != nil {
			return nil, err
		}
	}
	next, err := openSource(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	if cur != nil && os.SameFile(cur.info, next.info) {
		next.Close()
		return nil, nil
	}
	if cur != nil {
		// What was written between the end we saw and the rename.
		if _, err := p.drain(ctx, cur.r); err != nil {
			next.Close()
			return nil, err
		}
		p.torn = p.torn[:0]
		cur.Close()
	}
	return next, nil
}

// source is one open file of a log.
type source struct {
	*os.File
	info os.FileInfo
	r    *bufio.Reader
}

func openSource(path string) (*source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &source{File: f, info: info, r: bufio.NewReaderSize(f, 64<<10)}, nil
}

// openChain opens the files to begin with, oldest first, at the right place for tail.
func openChain(path string, tail *int64) (files []*source, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	var names []string
	if old := rotated(path); len(old) > 0 && !strings.HasSuffix(old[len(old)-1], gzipSuffix) {
		names = append(names, old[len(old)-1])
	}
	names = append(names, path)
	for _, name := range names {
		f, err := openSource(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated or removed since
		}
		if err != nil {
			return files, fmt.Errorf("opening log: %w", err)
		}
		files = append(files, f)
	}
	if tail == nil {
		return files, nil
	}
	want := max(*tail, 0)
	for i := len(files) - 1; i >= 0; i-- {
		if want == 0 && i < len(files)-1 {
			for _, f := range files[:i+1] {
				f.Close()
			}
			return files[i+1:], nil
		}
		offset, got, err := tailOffset(files[i].File, files[i].info.Size(), want)
		if err != nil {
			return files, fmt.Errorf("finding the end of log: %w", err)
		}
		if _, err := files[i].Seek(offset, io.SeekStart); err != nil {
			return files, fmt.Errorf("seeking in log: %w", err)
		}
		want -= got
	}
	return files, nil
}

// tailOffset finds where the last n lines of f begin, and how many there are.
func tailOffset(f io.ReaderAt, size, n int64) (offset, lines int64, err error) {
	if n == 0 {
		return size, 0, nil
	}
	const block = 32 << 10
	buf := make([]byte, block)
	for end := size; end > 0; {
		start := max(end-block, 0)
		b := buf[:end-start]
		if _, err := f.ReadAt(b, start); err != nil && err != io.EOF {
			return 0, 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' || start+int64(i) == size-1 {
				continue
			}
			if lines++; lines == n {
				return start + int64(i) + 1, lines, nil
			}
		}
		end = start
	}
	if size > 0 {
		lines++
	}
	return 0, lines, nil
}
