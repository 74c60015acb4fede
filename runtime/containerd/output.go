package containerd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/runtime"
	"golang.org/x/sys/unix"

	"orch/runtime/logfile"
)

const (
	// chunkBytes is how much output is read at once.
	chunkBytes = 32 << 10
	// A client that takes no output for sinkTime, with sinkChunks waiting, is let go:
	// the container must not hang on it.
	sinkChunks = 16
	sinkTime   = 5 * time.Second
)

// output collects what a container prints, from named pipes that the shim
// writes to. While nobody reads (orch is being restarted) the data waits in
// the pipes; the shim holds both of their ends, so the container never sees them break.
type output struct {
	paths runtime.IO
	log   *logfile.Writer // nil: not kept
	warn  func(msg string, err error)

	stdout, stderr *os.File // ends of ours; stderr nil with a terminal
	stdin          *os.File // nil without stdin
	// turn is held by the attached client that writes to stdin.
	turn  chan struct{}
	keep  []*os.File // writing ends, until the shim has opened its own
	pumps sync.WaitGroup
	done  chan struct{} // all is read and logged
	once  sync.Once
	left  atomic.Bool // letGo was called

	mu    sync.Mutex
	sinks map[*sink]struct{}
	ended bool // no more sinks
}

// sink is an attached client.
type sink struct {
	chunks chan chunk
	gone   chan struct{} // closed when the client has left
	cut    chan struct{} // closed when no more chunks come
	once   sync.Once
}

func newSink() *sink {
	return &sink{chunks: make(chan chunk, sinkChunks), gone: make(chan struct{}), cut: make(chan struct{})}
}

func (s *sink) end() { s.once.Do(func() { close(s.cut) }) }

type chunk struct {
	stderr bool
	data   []byte
}

func (e *Engine) pipesDir(id string) string { return filepath.Join(e.ioDir(), id) }

// openOutput opens the pipes of a container (made anew with fresh) and its log.
func (e *Engine) openOutput(c *container, fresh bool) (_ *output, err error) {
	dir := e.pipesDir(c.id)
	o := &output{done: make(chan struct{}), turn: make(chan struct{}, 1), sinks: map[*sink]struct{}{}, paths: runtime.IO{
		Stdout: filepath.Join(dir, "stdout"), Terminal: c.meta.TTY,
	}}
	o.warn = func(msg string, err error) { e.log.Warn(msg, "container", c.id, "err", err) }
	if !c.meta.TTY {
		o.paths.Stderr = filepath.Join(dir, "stderr")
	}
	if c.meta.Stdin {
		o.paths.Stdin = filepath.Join(dir, "stdin")
	}
	defer func() {
		if err != nil {
			o.abandon()
		}
	}()
	if fresh {
		if err := makePipes(dir, o.paths); err != nil {
			return nil, fmt.Errorf("making pipes: %w", err)
		}
	}
	if err := o.open(fresh); err != nil {
		return nil, fmt.Errorf("opening pipes: %w", err)
	}
	if c.meta.LogPath != "" {
		o.log, err = logfile.NewWriter(logfile.Config{Path: c.meta.LogPath, MaxBytes: c.meta.LogMaxBytes, MaxFiles: c.meta.LogMaxFiles})
		if err != nil {
			return nil, err
		}
	}
	return o, nil
}

func makePipes(dir string, paths runtime.IO) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, p := range []string{paths.Stdin, paths.Stdout, paths.Stderr} {
		if p == "" {
			continue
		}
		if err := unix.Mkfifo(p, 0o700); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// open opens our ends. Until the shim has opened a writing end, one of ours
// keeps the reader from seeing an end that is none.
func (o *output) open(fresh bool) (err error) {
	read := func(path string) *os.File {
		if path == "" || err != nil {
			return nil
		}
		var f, w *os.File
		if f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err != nil {
			return nil
		}
		if fresh {
			if w, err = os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err != nil {
				f.Close()
				return nil
			}
			o.keep = append(o.keep, w)
		}
		return f
	}
	o.stdout, o.stderr = read(o.paths.Stdout), read(o.paths.Stderr)
	if o.paths.Stdin != "" && err == nil {
		// Both ends: the container's input does not end because nobody is attached.
		o.stdin, err = os.OpenFile(o.paths.Stdin, os.O_RDWR|syscall.O_NONBLOCK, 0)
	}
	return err
}

// start begins to read; called when the shim has its ends open.
func (o *output) start() {
	for _, w := range o.keep {
		w.Close()
	}
	o.keep = nil
	o.pumps.Go(func() { o.pump(o.stdout, false) })
	if o.stderr != nil {
		o.pumps.Go(func() { o.pump(o.stderr, true) })
	}
	go func() {
		o.pumps.Wait()
		o.finish()
	}()
}

// finish runs once all is read: the log is flushed, clients see the end.
func (o *output) finish() {
	o.once.Do(func() {
		if o.log != nil {
			if err := o.log.Close(); err != nil {
				o.warn("closing a container's log failed", err)
			}
		}
		if o.stdin != nil {
			o.stdin.Close()
		}
		o.mu.Lock()
		o.ended = true
		for s := range o.sinks {
			s.end()
		}
		o.sinks = nil
		o.mu.Unlock()
		close(o.done)
	})
}

// letGo closes our ends; what is still in the pipes stays there.
func (o *output) letGo() {
	o.left.Store(true)
	for _, f := range []*os.File{o.stdout, o.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// abandon ends an output that was never started.
func (o *output) abandon() {
	for _, w := range o.keep {
		w.Close()
	}
	o.letGo()
	o.pumps.Wait()
	o.finish()
}

// pump passes one stream on until its end. Buffers are taken only when there is
// something to read, so an idle container holds none.
func (o *output) pump(f *os.File, stderr bool) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		o.warn("reading a container's output failed", err)
		return
	}
	stream := logfile.Stdout
	if stderr {
		stream = logfile.Stderr
	}
	logFailed := false
	for {
		buf, err := readChunk(raw)
		if len(*buf) > 0 {
			if o.log != nil {
				err := o.log.Append(time.Now(), stream, *buf)
				if err != nil && !logFailed {
					o.warn("writing a container's log failed; output is lost", err)
				}
				logFailed = err != nil
			}
			o.spread(chunk{stderr, *buf})
		}
		buffers.Put(buf)
		if err != nil {
			if !errors.Is(err, io.EOF) && !o.left.Load() {
				o.warn("reading a container's output failed", err)
			}
			return
		}
	}
}

var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, chunkBytes)) }}

// readChunk waits until raw has data and reads it into a pooled buffer.
func readChunk(raw syscall.RawConn) (*[]byte, error) {
	var buf *[]byte
	var rerr error
	err := raw.Read(func(fd uintptr) bool {
		b, ok := buffers.Get().(*[]byte)
		if !ok {
			b = new(make([]byte, 0, chunkBytes))
		}
		n, err := 0, error(unix.EINTR)
		for err == unix.EINTR {
			n, err = unix.Read(int(fd), (*b)[:chunkBytes])
		}
		if err == unix.EAGAIN {
			buffers.Put(b)
			return false // wait
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		*b = (*b)[:max(n, 0)]
		buf, rerr = b, err
		return true
	})
	if buf == nil {
		buf = new([]byte)
		*buf = make([]byte, 0, chunkBytes)
	}
	return buf, errors.Join(err, rerr)
}

// spread hands a chunk to all attached clients.
func (o *output) spread(c chunk) {
	o.mu.Lock()
	if len(o.sinks) == 0 {
		o.mu.Unlock()
		return
	}
	all := make([]*sink, 0, len(o.sinks))
	for s := range o.sinks {
		all = append(all, s)
	}
	o.mu.Unlock()
	c.data = append([]byte(nil), c.data...) // the buffer is reused
	for _, s := range all {
		select {
		case s.chunks <- c:
		case <-s.gone:
		case <-time.After(sinkTime):
			o.remove(s)
			s.end()
		}
	}
}

// add joins a client; false when the output has ended already.
func (o *output) add(s *sink) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return false
	}
	o.sinks[s] = struct{}{}
	return true
}

func (o *output) remove(s *sink) {
	o.mu.Lock()
	delete(o.sinks, s)
	o.mu.Unlock()
}
