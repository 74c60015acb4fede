package rest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orch/api"
	"orch/server/rest/hostile"
)

const (
	// patience is how long a request may keep the server busy. Fuzzing instruments all
	// code and shares the machine, so it is generous.
	patience = 20 * time.Second
	// crowd is the number of objects at which the world is swept.
	crowd = 2000
)

// alarm is a log that only remembers a panic.
type alarm struct{ rung atomic.Pointer[string] }

func (a *alarm) Enabled(context.Context, slog.Level) bool { return true }
func (a *alarm) WithAttrs([]slog.Attr) slog.Handler       { return a }
func (a *alarm) WithGroup(string) slog.Handler            { return a }

func (a *alarm) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		text := r.Message
		r.Attrs(func(v slog.Attr) bool { text += fmt.Sprint(" ", v); return true })
		a.rung.Store(&text)
	}
	return nil
}

// near is the other end of a request without a network. What streams without end (a
// watch, a log that is followed) is ended once it has begun.
type near struct {
	header http.Header
	code   int
	end    context.CancelFunc
}

func (n *near) Header() http.Header { return n.header }
func (n *near) Flush()              { n.end() }

func (n *near) WriteHeader(code int) {
	if n.code == 0 && code >= 200 {
		n.code = code
	}
}

func (n *near) Write(p []byte) (int, error) {
	n.WriteHeader(http.StatusOK)
	return len(p), nil
}

func (n *near) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	ours, theirs := net.Pipe()
	_ = ours.SetDeadline(time.Now().Add(50 * time.Millisecond))
	go func() { _, _ = io.Copy(io.Discard, ours) }()
	n.WriteHeader(http.StatusSwitchingProtocols)
	return theirs, bufio.NewReadWriter(bufio.NewReader(theirs), bufio.NewWriter(theirs)), nil
}

// arena is a world for requests without a network.
type arena struct {
	*world
	alarm *alarm
}

func newArena(f *testing.F) arena {
	a := &alarm{}
	return arena{newWorld(f, func(c *Config) { c.Log = slog.New(a) }), a}
}

// take serves one request and judges what became of it.
func (a arena) take(t *testing.T, r *http.Request) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n := &near{header: http.Header{}, end: cancel}
	r.RemoteAddr = "192.0.2.1:1234"
	begun := time.Now()
	a.serve(n, r.WithContext(ctx))
	if took := time.Since(begun); took > patience {
		t.Errorf("took %v", took)
	}
	if n.code != 0 && !fits(n.code) {
		t.Errorf("status %d", n.code)
	}
	if text := a.alarm.rung.Load(); text != nil {
		t.Fatal(*text)
	}
	if a.amount() > crowd {
		a.sweep(t)
	}
}

// serve takes the one panic that net/http expects.
func (a arena) serve(n *near, r *http.Request) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			panic(p)
		}
	}()
	a.server.ServeHTTP(n, r)
}

// amount counts the objects that requests have left.
func (w *world) amount() (n int64) {
	for _, r := range w.registry.Resources() {
		if !r.Computed && r.Facts != api.Namespaces.Facts {
			objects, _ := w.registry.Amount(r)
			n += objects
		}
	}
	return n
}

// seeds are requests of the hostile corpus that are short enough to be changed with profit.
func seeds(number uint64, each func(r *http.Request, raw, body []byte)) {
	for n := range number {
		raw := hostile.Make(corpusSeed, n).Raw
		if len(raw) > 2000 {
			continue
		}
		if r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw))); err == nil {
			body, _ := io.ReadAll(r.Body) // some are cut off on purpose
			each(r, raw, body)
		}
	}
}

// FuzzRequest: whatever is asked, no handler panics, hangs or answers with a server error.
func FuzzRequest(f *testing.F) {
	seeds(400, func(r *http.Request, _, body []byte) {
		f.Add(r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Accept"), r.Header.Get("Content-Type"), body)
	})
	a := newArena(f)
	f.Fuzz(func(t *testing.T, method, path, query, accept, contentType string, body []byte) {
		if strings.ContainsAny(method, " \r\n") || !strings.HasPrefix(path, "/") {
			return // net/http's to refuse
		}
		a.take(t, &http.Request{
			Method: method, URL: &url.URL{Path: path, RawQuery: query}, Host: "h", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Accept": {accept}, "Content-Type": {contentType}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		})
	})
}

// FuzzRaw is the same for what comes over the wire, header and all.
func FuzzRaw(f *testing.F) {
	seeds(200, func(_ *http.Request, raw, _ []byte) { f.Add(raw) })
	a := newArena(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err == nil && r.ProtoMajor == 1 {
			a.take(t, r)
		}
	})
}
