package stream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"

	"orch/runtime/engine"
	"orch/runtime/logfile"
)

// logs prints the log of a container: what there is, and with follow what comes
// until the container has ended.
func (h *Handler) logs(w http.ResponseWriter, r *http.Request) error {
	c, err := h.container(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	o, err := logOptions(q)
	if err != nil {
		return errors.NewBadRequest(err.Error())
	}
	path := c.LogPath
	if flag(q, "previous") {
		if path = c.PreviousLogPath; path == "" {
			return errors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", c.Name, r.PathValue("pod")))
		}
		o.Follow = false
	}
	if path == "" || c.ID == "" && c.LogPath == "" {
		return errors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: ContainerCreating", c.Name, r.PathValue("pod")))
	}
	if o.Follow {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		o.Done = h.ended(ctx, c)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	out := &flushing{w, http.NewResponseController(w), o.Follow}
	out.rc.Flush()
	stdout, stderr := io.Writer(out), io.Writer(out)
	switch q.Get("stream") {
	case "Stdout":
		stderr = io.Discard
	case "Stderr":
		stdout = io.Discard
	}
	if err := logfile.Read(r.Context(), path, o, stdout, stderr); err != nil && r.Context().Err() == nil {
		h.Log.Warn("reading a log failed", "path", path, "err", err)
		fmt.Fprintf(out, "failed to read the log: %v\n", err)
	}
	return nil
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

// flushing sends each piece at once when the log is followed.
type flushing struct {
	http.ResponseWriter
	rc     *http.ResponseController
	follow bool
}

func (f *flushing) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	if err == nil && f.follow {
		err = f.rc.Flush()
	}
	return n, err
}

func logOptions(q url.Values) (logfile.Options, error) {
	o := logfile.Options{Follow: flag(q, "follow"), Timestamps: flag(q, "timestamps")}
	if s := q.Get("tailLines"); s != "" && s != "all" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return o, fmt.Errorf("invalid tailLines %q", s)
		}
		o.Tail = &n
	}
	if s := q.Get("limitBytes"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return o, fmt.Errorf("invalid limitBytes %q", s)
		}
		o.LimitBytes = n
	}
	if s := q.Get("sinceSeconds"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return o, fmt.Errorf("invalid sinceSeconds %q", s)
		}
		o.Since = time.Now().Add(-time.Duration(n) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return o, fmt.Errorf("invalid sinceTime %q", s)
		}
		o.Since = t
	}
	return o, nil
}

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
