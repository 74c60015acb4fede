// Package tunnel is the server's end of the connections that agents dial out. A
// node behind NAT needs no open port: the API server opens streams to it over the
// one connection that it holds. The package moves bytes; it knows no HTTP beyond
// the upgrade and decides about nobody's rights but who a node is.
//
//	agent                                  server
//	GET /orch/v1/tunnel, Upgrade  ------>  ServeHTTP: whose certificate is it?
//	<------ 101 Switching Protocols        session becomes the node's (the old one closes)
//	yamux.Server, http.Serve  <======>     yamux.Client; Dial opens a stream per connection
//
// The server's own node has no connection: Local registers its handler, and Dial
// gives one end of a pipe. Start reading at Tunnel.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"orch/api"
)

// ErrNotConnected: the node holds no connection.
var ErrNotConnected = errors.New("node is not connected")

// Config is not changed after New.
type Config struct {
	// Node tells whose connection a request is; an error is answered with 403.
	Node func(*http.Request) (node string, err error)
	// MaxNodes bounds the sessions held; 0 is 5000. One more is answered with 503.
	MaxNodes int
	// MaxStreams bounds the open streams of one node; 0 is 1000. Dial fails beyond.
	MaxStreams int
	// Wait is how long Dial waits for a node that is not connected: after a restart
	// of the server all of them come back within a moment. 0 is 3 s.
	Wait time.Duration
	Log  *slog.Logger
}

// Tunnel holds the sessions. It has no goroutine of its own but those of the
// sessions, which end with Run.
type Tunnel struct {
	cfg Config

	mu     sync.Mutex
	closed bool
	nodes  map[string]dialer
	// changed closes when a node appears.
	changed chan struct{}
}

// dialer is a way to a node.
type dialer interface {
	dial(ctx context.Context) (net.Conn, error)
	close()
}

// New checks cfg.
func New(cfg Config) (*Tunnel, error) {
	if cfg.Node == nil {
		return nil, errors.New("setting up tunnel: Node is required")
	}
	if cfg.MaxNodes == 0 {
		cfg.MaxNodes = 5000
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 1000
	}
	if cfg.Wait == 0 {
		cfg.Wait = 3 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Tunnel{cfg: cfg, nodes: map[string]dialer{}, changed: make(chan struct{})}, nil
}

// Run holds the sessions until ctx ends, then closes them all.
func (t *Tunnel) Run(ctx context.Context) error {
	<-ctx.Done()
	t.mu.Lock()
	t.closed = true
	nodes := t.nodes
	t.nodes = map[string]dialer{}
	t.mu.Unlock()
	for _, d := range nodes {
		d.close()
	}
	return nil
}

// Dial opens a connection to the node's stream server.
func (t *Tunnel) Dial(ctx context.Context, node string) (net.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, t.cfg.Wait)
	defer cancel()
	for {
		t.mu.Lock()
		d, changed := t.nodes[node], t.changed
		t.mu.Unlock()
		if d != nil {
			c, err := d.dial(ctx)
			if err == nil || !errors.Is(err, yamux.ErrSessionShutdown) {
				return c, err
			}
			t.remove(node, d)
			continue
		}
		select {
		case <-changed:
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("dialling node %q: %w", node, ErrNotConnected)
		}
	}
}

// Connected tells whether the node can be reached now.
func (t *Tunnel) Connected(node string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nodes[node] != nil
}

// Local makes h the stream server of the server's own node until stop is called.
func (t *Tunnel) Local(node string, h http.Handler) (stop func()) {
	l := newLocal(h)
	if !t.put(node, l) {
		l.close()
		return func() {}
	}
	return func() {
		t.remove(node, l)
		l.close()
	}
}

// put makes d the way to the node; a former one is closed. False if there is no room.
func (t *Tunnel) put(node string, d dialer) bool {
	t.mu.Lock()
	old := t.nodes[node]
	if t.closed || (old == nil && len(t.nodes) >= t.cfg.MaxNodes) {
		t.mu.Unlock()
		return false
	}
	t.nodes[node] = d
	close(t.changed)
	t.changed = make(chan struct{})
	t.mu.Unlock()
	if old != nil {
		old.close()
	}
	return true
}

func (t *Tunnel) remove(node string, d dialer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nodes[node] == d {
		delete(t.nodes, node)
	}
}

// ServeHTTP takes an agent's connection. It returns when the session ends.
func (t *Tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, err := t.cfg.Node(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), api.TunnelProtocol) || r.ProtoMajor != 1 {
		w.Header().Set("Upgrade", api.TunnelProtocol)
		http.Error(w, "this path wants an HTTP/1.1 upgrade to "+api.TunnelProtocol, http.StatusUpgradeRequired)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "connection cannot be taken over", http.StatusInternalServerError)
		return
	}
	if err := t.hold(node, conn, rw.Reader); err != nil {
		t.cfg.Log.Warn("tunnel ended", "node", node, "remote", r.RemoteAddr, "err", err)
	}
}

func (t *Tunnel) hold(node string, conn net.Conn, buffered io.Reader) error {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		conn.Close()
		return err
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.TunnelProtocol+"\r\n\r\n"); err != nil {
		conn.Close()
		return err
	}
	s, err := yamux.Client(&prefixed{Conn: conn, r: buffered}, muxConfig())
	if err != nil {
		conn.Close()
		return err
	}
	d := &session{mux: s, limit: t.cfg.MaxStreams}
	if !t.put(node, d) {
		d.close()
		return errors.New("no room for another node, or the server is stopping")
	}
	defer t.remove(node, d)
	<-s.CloseChan()
	return nil
}

func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.KeepAliveInterval = 30 * time.Second // keeps NAT entries and notices dead peers
	c.ConnectionWriteTimeout = 10 * time.Second
	c.MaxStreamWindowSize = 1 << 20
	c.LogOutput = io.Discard
	return c
}

// prefixed reads what the HTTP server had read ahead first.
type prefixed struct {
	net.Conn
	r io.Reader
}

func (p *prefixed) Read(b []byte) (int, error) { return p.r.Read(b) }

// session is the way to a joined node.
type session struct {
	mux   *yamux.Session
	limit int
}

func (s *session) dial(ctx context.Context) (net.Conn, error) {
	if s.mux.IsClosed() {
		return nil, yamux.ErrSessionShutdown
	}
	if s.mux.NumStreams() >= s.limit {
		return nil, fmt.Errorf("dialling node: it has %d connections open, which is the limit", s.limit)
	}
	c, err := s.mux.OpenStream()
	if err != nil {
		return nil, errors.Join(err, yamux.ErrSessionShutdown)
	}
	return c, nil
}

func (s *session) close() { _ = s.mux.Close() } // a dead connection has nothing to tell
