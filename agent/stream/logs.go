package stream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"orch/runtime/engine"
	"orch/runtime/logfile"
)

// logs prints the log of a container: what there is, and with follow what comes
// until the container has ended.
func (h *Handler) logs(w http.ResponseWriter, r *http.Request) error {
	p, ok := h.pod(r)
	if !ok {
		return refusef(http.StatusNotFound, "pod does not exist")
	}
	pod, name := r.PathValue("pod"), r.PathValue("container")
	c, ok := p.container(name)
	if !ok {
		return refusef(http.StatusNotFound, "container %q not found in pod %q", name, pod)
	}
	q := r.URL.Query()
	o, err := logOptions(q)
	if err != nil {
		return err
	}
	path := c.LogPath
	if flag(q, "previous") {
		if path = c.PreviousLogPath; path == "" {
			return refusef(http.StatusBadRequest, "previous terminated container %q in pod %q not found", name, pod)
		}
		o.Follow = false
	}
	if path == "" {
		return refusef(http.StatusBadRequest, "container %q in pod %q is %s", name, pod, waiting(c.Waiting))
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.life, func() {
		cancel()
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now()) // a client that reads nothing must not hold us
	})()
	if o.Follow {
		o.Done = h.ended(ctx, c)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	out := newSoon(w)
	defer out.close()
	stdout, stderr := io.Writer(out), io.Writer(out)
	switch q.Get("stream") {
	case "Stdout":
		stderr = io.Discard
	case "Stderr":
		stdout = io.Discard
	}
	if err := logfile.Read(ctx, path, o, stdout, stderr); err != nil && ctx.Err() == nil && out.failed() == nil {
		h.Log.Warn("reading a log failed", "path", path, "err", err)
		_, _ = fmt.Fprintf(out, "failed to read the log: %v\n", err)
	}
	return nil
}

// waiting words why there is no log, as the kubelet's validateContainerLogStatus does.
func waiting(reason string) string {
	switch reason {
	case "":
		return "waiting to start - no logs yet"
	case "ErrImagePull":
		return "waiting to start: image can't be pulled"
	case "ImagePullBackOff":
		return "waiting to start: trying and failing to pull image"
	}
	return "waiting to start: " + reason
}

// ended returns a channel that closes when the container has ended, or ctx.
func (h *Handler) ended(ctx context.Context, c Container) <-chan struct{} {
	done := make(chan struct{})
	events := h.Engine.Events(ctx) // before looking, so that no end falls between
	state, err := h.Engine.Inspect(ctx, c.ID)
	if err != nil || state.State == engine.Exited {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		for e := range events {
			if e.ID == c.ID && e.Kind == "exit" {
				return
			}
		}
	}()
	return done
}

const (
	// soonBytes and soonTime say when log lines go out: together, but at once for a
	// person who watches.
	soonBytes = 32 << 10
	soonTime  = 10 * time.Millisecond
)

// soon collects what is written and sends it a moment later: a line that comes
// alone is not kept waiting, and a million lines are not a million packets.
type soon struct {
	w     http.ResponseWriter
	mu    sync.Mutex
	buf   *bufio.Writer
	timer *time.Timer
	due   bool  // the timer runs
	err   error // the client is gone
}

// newSoon sends the head at once.
func newSoon(w http.ResponseWriter) *soon {
	s := &soon{w: w, buf: bufio.NewWriterSize(w, soonBytes)}
	s.timer = time.AfterFunc(time.Hour, s.flush)
	s.timer.Stop()
	s.flush()
	return s
}

func (s *soon) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	if !s.due {
		s.due = true
		s.timer.Reset(soonTime)
	}
	n, err := s.buf.Write(b)
	s.err = err
	return n, err
}

func (s *soon) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = false
	if s.err == nil {
		s.err = s.buf.Flush()
	}
	if s.err == nil {
		s.err = http.NewResponseController(s.w).Flush()
	}
}

func (s *soon) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// close sends the rest; the timer does nothing afterwards.
func (s *soon) close() {
	s.timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		_ = s.buf.Flush() // a client that is gone misses nothing
	}
	s.err = http.ErrServerClosed
}

func logOptions(q url.Values) (logfile.Options, error) {
	o := logfile.Options{Follow: flag(q, "follow"), Timestamps: flag(q, "timestamps")}
	number := func(name string, least int64) (*int64, error) {
		s := q.Get(name)
		if s == "" {
			return nil, nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < least {
			return nil, refusef(http.StatusBadRequest, "invalid %s %q", name, s)
		}
		return &n, nil
	}
	var err error
	if q.Get("tailLines") != "all" {
		if o.Tail, err = number("tailLines", 0); err != nil {
			return o, err
		}
	}
	limit, err := number("limitBytes", 1)
	if err != nil {
		return o, err
	}
	if limit != nil {
		o.LimitBytes = *limit
	}
	seconds, err := number("sinceSeconds", 1)
	if err != nil {
		return o, err
	}
	if seconds != nil {
		o.Since = time.Now().Add(-time.Duration(min(*seconds, maxSeconds)) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" {
		if o.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return o, refusef(http.StatusBadRequest, "invalid sinceTime %q", s)
		}
	}
	return o, nil
}

// maxSeconds is as far back as a Duration reaches.
const maxSeconds = int64(1<<63-1) / int64(time.Second)

// flag reads a boolean query parameter; "" with the key present is true, as the
// kubelet's "1" is.
func flag(q url.Values, names ...string) bool {
	for _, name := range names {
		if !q.Has(name) {
			continue
		}
		v := q.Get(name)
		b, err := strconv.ParseBool(v)
		if v == "" || (err == nil && b) {
			return true
		}
	}
	return false
}
