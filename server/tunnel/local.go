package tunnel

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// local is the way to the server's own node: pipes into an HTTP server.
type local struct {
	server *http.Server
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func newLocal(h http.Handler) *local {
	l := &local{
		server: &http.Server{Handler: h, ReadHeaderTimeout: time.Minute},
		conns:  make(chan net.Conn), done: make(chan struct{}),
	}
	// Serve ends with close: Accept fails then.
	go func() { _ = l.server.Serve(l) }()
	return l
}

func (l *local) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.done:
		return nil, ErrNotConnected
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *local) close() {
	l.once.Do(func() {
		close(l.done)
		_ = l.server.Close() // closes the pipes too
	})
}

// Accept, Close and Addr make local the listener of its own server.
func (l *local) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *local) Close() error { return nil }

func (l *local) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "local" }
