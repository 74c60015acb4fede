package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const (
	// forwardProtocol is the protocol of port-forward over SPDY; over WebSocket the
	// whole SPDY connection goes through a tunnel with tunnelProtocol.
	forwardProtocol = "portforward.k8s.io"
	tunnelProtocol  = "SPDY/3.1+" + forwardProtocol
	// maxForwards bounds the connections through one port-forward.
	maxForwards = 256
)

// forwarder serves the connections of one port-forward.
type forwarder struct {
	dial func(ctx context.Context, port uint16) (net.Conn, error)

	mu    sync.Mutex
	pairs map[string]*pair // by request ID, until both streams are there
	count int
	work  sync.WaitGroup
}

// pair is one forwarded connection: its data and the stream that tells of errors.
type pair struct{ data, errors httpstream.Stream }

func (h *Handler) portForward(w http.ResponseWriter, r *http.Request) error {
	p, err := h.pod(r)
	if err != nil {
		return err
	}
	f := &forwarder{pairs: map[string]*pair{}, dial: func(ctx context.Context, port uint16) (net.Conn, error) {
		return h.Dialer.DialPod(ctx, p.NetNS, port)
	}}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	conn, err := f.upgrade(ctx, w, r)
	if err != nil || conn == nil {
		return err
	}
	select {
	case <-conn.CloseChan():
	case <-ctx.Done():
	}
	conn.Close()
	cancel()
	f.work.Wait()
	return nil
}

// upgrade makes the SPDY connection, directly or inside a WebSocket. A nil
// connection without an error was refused with an answer.
func (f *forwarder) upgrade(ctx context.Context, w http.ResponseWriter, r *http.Request) (httpstream.Connection, error) {
	opened := func(s httpstream.Stream, sent <-chan struct{}) error { return f.opened(ctx, s, sent) }
	switch {
	case isWebSocket(r) && strings.Contains(r.Header.Get("Sec-Websocket-Protocol"), tunnelProtocol):
		ws, err := upgrader(tunnelProtocol).Upgrade(w, r, nil)
		if err != nil {
			return nil, nil
		}
		return spdy.NewServerConnectionWithPings(portforward.NewTunnelingConnection("node", ws), opened, time.Minute)
	case isWebSocket(r):
		return nil, apierrors.NewBadRequest("port-forward over WebSocket needs the subprotocol " + tunnelProtocol)
	case !httpstream.IsUpgradeRequest(r):
		return nil, apierrors.NewBadRequest("Upgrade request required")
	}
	if _, err := httpstream.Handshake(r, w, []string{forwardProtocol}); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return spdy.NewResponseUpgraderWithPings(time.Minute).UpgradeResponse(w, r, opened), nil
}

// opened takes a new stream; the second of a pair starts the forwarding.
func (f *forwarder) opened(ctx context.Context, s httpstream.Stream, sent <-chan struct{}) error {
	port, err := strconv.ParseUint(s.Headers().Get(core.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("%q is no port", s.Headers().Get(core.PortHeader))
	}
	id := s.Headers().Get(core.PortForwardRequestIDHeader)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count >= maxForwards {
		return fmt.Errorf("more than %d connections at once", maxForwards)
	}
	p := f.pairs[id]
	if p == nil {
		p = &pair{}
		f.pairs[id] = p
	}
	switch kind := s.Headers().Get(core.StreamType); kind {
	case core.StreamTypeData:
		p.data = s
	case core.StreamTypeError:
		p.errors = s
	default:
		return fmt.Errorf("%q is no stream type of a port-forward", kind)
	}
	if p.data == nil || p.errors == nil {
		return nil
	}
	delete(f.pairs, id)
	f.count++
	f.work.Go(func() {
		<-sent
		f.forward(ctx, p, uint16(port))
	})
	return nil
}

// forward copies both ways until both sides have ended.
func (f *forwarder) forward(ctx context.Context, p *pair, port uint16) {
	defer func() {
		p.data.Close()
		p.errors.Close()
		f.mu.Lock()
		f.count--
		f.mu.Unlock()
	}()
	conn, err := f.dial(ctx, port)
	if err != nil {
		fmt.Fprintf(p.errors, "an error occurred forwarding %d: %v", port, err)
		p.data.Reset()
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	in := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, p.data)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			err = errors.Join(err, half.CloseWrite())
		}
		in <- err
	}()
	if _, err := io.Copy(p.data, conn); err != nil && ctx.Err() == nil {
		fmt.Fprintf(p.errors, "an error occurred forwarding %d: %v", port, err)
	}
	p.data.Close()
	<-in // the client ends its half once it has seen the end of ours
}
