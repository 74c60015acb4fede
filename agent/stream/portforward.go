package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const (
	// tunnelProtocol carries the whole SPDY connection inside a WebSocket.
	forwardProtocol = portforward.PortForwardProtocolV1Name
	tunnelProtocol  = "SPDY/3.1+" + forwardProtocol
	// maxForwards bounds the connections through one port-forward.
	maxForwards = 1000
)

// forwarder forwards connections to the ports of one pod.
type forwarder struct {
	dial func(ctx context.Context, port uint16) (net.Conn, error)
	pod  string
	uid  types.UID
	link *link
}

// portForward reaches ports of a pod: over SPDY, over SPDY in a WebSocket (today's
// kubectl), or with the ports as channels of a WebSocket (other clients).
func (h *Handler) portForward(w http.ResponseWriter, r *http.Request) error {
	p, ok := h.pod(r)
	if !ok {
		return refusef(http.StatusInternalServerError, "pod not found (%q)", fullName(r))
	}
	f := &forwarder{pod: fullName(r), uid: p.UID, link: h.newLink(r), dial: func(ctx context.Context, port uint16) (net.Conn, error) {
		return h.Dialer.DialPod(ctx, p.NetNS, port)
	}}
	defer f.link.cancel()
	switch {
	case isWebSocket(r) && slices.Contains(websocket.Subprotocols(r), tunnelProtocol):
		ws, err := h.upgrade(w, r, f.link, tunnelProtocol)
		if ws == nil {
			return err
		}
		m := newMultiplexed(f, h.SetupTimeout)
		conn, err := spdy.NewServerConnectionWithPings(&framed{portforward.NewTunnelingConnection("node", ws), nil}, m.opened, h.Ping)
		if err != nil {
			return nil // nothing can be answered any more
		}
		m.run(conn)
	case isWebSocket(r):
		return h.forwardChannels(w, r, f)
	case httpstream.IsUpgradeRequest(r):
		if _, err := httpstream.Handshake(r, w, []string{forwardProtocol}); err != nil {
			return nil // it has answered
		}
		m := newMultiplexed(f, h.SetupTimeout)
		if conn := spdy.NewResponseUpgraderWithPings(h.Ping).UpgradeResponse(watched{w, f.link, true}, r, m.opened); conn != nil {
			m.run(conn)
		}
	default:
		return errNoUpgrade
	}
	return nil
}

// framed bounds the SPDY frames that come out of a tunnel.
type framed struct {
	net.Conn
	in *frames
}

func (f *framed) Read(b []byte) (int, error) {
	if f.in == nil { // the library reads from one goroutine
		f.in = &frames{r: f.Conn}
	}
	return f.in.Read(b)
}

// forward copies both ways until both sides have ended, or the link has. The error
// is what the client is to be told.
func (f *forwarder) forward(port uint16, data io.ReadWriter, ended func()) error {
	wrong := func(err error) error {
		return fmt.Errorf("error forwarding port %d to pod %s, uid %v: %w", port, f.pod, f.uid, err)
	}
	conn, err := f.dial(f.link.ctx, port)
	if err != nil {
		return wrong(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(f.link.ctx, func() { conn.Close() })
	defer stop()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, err := io.Copy(counted{conn, f.link}, data)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite() // a pod that is gone already has ended reading, too
		}
	}()
	_, err = io.Copy(counted{data, f.link}, conn)
	ended()
	<-sent // the client ends its half once it has seen the end of ours
	if err != nil && f.link.ctx.Err() == nil {
		return wrong(err)
	}
	return nil
}

// multiplexed is a port-forward over SPDY: each forwarded connection is a pair of
// streams, one for its data and one to tell of errors.
type multiplexed struct {
	*forwarder
	patience time.Duration
	ready    chan struct{} // closed when conn is set

	mu    sync.Mutex
	conn  httpstream.Connection
	pairs map[string]*pair // by request ID, until both streams are there
	count int              // pairs that are forwarded
	work  sync.WaitGroup
}

// pair is one forwarded connection.
type pair struct {
	data, errors httpstream.Stream
	timeout      *time.Timer
}

func newMultiplexed(f *forwarder, patience time.Duration) *multiplexed {
	return &multiplexed{forwarder: f, patience: patience, pairs: map[string]*pair{}, ready: make(chan struct{})}
}

// run serves the connection until the link ends.
func (m *multiplexed) run(conn httpstream.Connection) {
	m.conn = conn
	close(m.ready)
	follow(conn, m.link)
	conn.Close() // ends what waits for streams
	m.mu.Lock()
	for id, p := range m.pairs {
		p.timeout.Stop()
		delete(m.pairs, id)
	}
	m.mu.Unlock()
	m.work.Wait()
}

// opened takes a new stream; the second of a pair starts the forwarding. An error
// refuses the stream; a client that does not keep to the protocol is let go.
func (m *multiplexed) opened(s httpstream.Stream, sent <-chan struct{}) error {
	port, err := strconv.ParseUint(s.Headers().Get(core.PortHeader), 10, 16)
	if err != nil || port == 0 {
		m.link.cancel()
		return fmt.Errorf("unable to parse %q as a port", s.Headers().Get(core.PortHeader))
	}
	kind, id := s.Headers().Get(core.StreamType), requestID(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.link.ctx.Err() != nil {
		return errors.New("the connection is closing")
	}
	p := m.pairs[id]
	if p == nil {
		if len(m.pairs)+m.count >= maxForwards {
			return fmt.Errorf("more than %d connections at once", maxForwards)
		}
		p = &pair{timeout: time.AfterFunc(m.patience, func() { m.giveUp(id) })}
		m.pairs[id] = p
	}
	switch {
	case kind == core.StreamTypeData && p.data == nil:
		p.data = s
	case kind == core.StreamTypeError && p.errors == nil:
		p.errors = s
	default:
		m.link.cancel()
		return fmt.Errorf("a stream of type %q that is unknown or there already", kind)
	}
	if p.data == nil || p.errors == nil {
		return nil
	}
	p.timeout.Stop()
	delete(m.pairs, id)
	m.count++
	m.work.Go(func() {
		<-sent
		m.serve(p, uint16(port))
	})
	return nil
}

// requestID pairs streams. Clients that send none open the error stream first, and
// the data stream next.
func requestID(s httpstream.Stream) string {
	if id := s.Headers().Get(core.PortForwardRequestIDHeader); id != "" {
		return id
	}
	id := s.Identifier()
	if s.Headers().Get(core.StreamType) == core.StreamTypeData {
		id -= 2
	}
	return "stream " + strconv.FormatUint(uint64(id), 10)
}

// giveUp drops a stream whose other half did not come.
func (m *multiplexed) giveUp(id string) {
	m.mu.Lock()
	p := m.pairs[id]
	delete(m.pairs, id)
	m.mu.Unlock()
	if p != nil {
		m.drop(p.data, p.errors)
	}
}

// drop forgets streams, which must not be used any more.
func (m *multiplexed) drop(streams ...httpstream.Stream) {
	<-m.ready
	for _, s := range streams {
		if s != nil {
			_ = s.Reset()
			m.conn.RemoveStreams(s)
		}
	}
}

func (m *multiplexed) serve(p *pair, port uint16) {
	defer func() {
		_ = p.errors.Close()
		m.drop(p.data, p.errors)
		m.mu.Lock()
		m.count--
		m.mu.Unlock()
	}()
	go func() { _, _ = io.Copy(io.Discard, p.errors) }() // nothing is expected; it ends with the stream
	if err := m.forward(port, p.data, func() { _ = p.data.Close() }); err != nil {
		_, _ = io.WriteString(p.errors, err.Error())
	}
}
