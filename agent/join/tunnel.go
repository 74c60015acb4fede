package join

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/yamux"

	"orch/api"
)

// Serve holds the outbound connection to the server and answers with h what the
// server asks through it. It connects again, with growing pauses, until ctx ends.
func (m *Membership) Serve(ctx context.Context, h http.Handler) error {
	pause, told := firstPause, ""
	for ctx.Err() == nil {
		connected, err := m.serveOnce(ctx, h)
		if ctx.Err() != nil {
			return nil
		}
		if connected {
			pause, told = firstPause, ""
		}
		if err == nil {
			err = io.EOF
		}
		if err.Error() != told {
			told = err.Error()
			m.cfg.Log.Warn("no connection to the server, trying again", "server", m.url.String(), "err", err)
		}
		wait(ctx, pause)
		pause = min(2*pause, longPause)
	}
	return nil
}

// serveOnce connects and serves until the connection ends.
func (m *Membership) serveOnce(ctx context.Context, h http.Handler) (connected bool, err error) {
	conn, err := m.dial(ctx)
	if _, other := errors.AsType[x509.UnknownAuthorityError](err); other {
		return false, errors.New("its certificate is of another CA than the one this node has joined: if the server was set up anew, join with its new token")
	}
	if err != nil {
		return false, explain(err, m.url.Hostname())
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buffered, err := upgrade(conn, m.url.Host)
	if err != nil {
		return false, err
	}
	cfg := yamux.DefaultConfig()
	cfg.KeepAliveInterval = 30 * time.Second
	cfg.MaxStreamWindowSize = 1 << 20
	cfg.LogOutput = io.Discard
	mux, err := yamux.Server(&prefixed{conn, buffered}, cfg)
	if err != nil {
		return false, err
	}
	defer mux.Close()
	m.cfg.Log.Info("connected to the server", "server", m.url.String())
	server := &http.Server{Handler: h, ReadHeaderTimeout: requestTimeout, IdleTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	defer server.Close()
	err = server.Serve(mux)
	if errors.Is(err, http.ErrServerClosed) {
		return true, nil
	}
	return true, err
}

func (m *Membership) dial(ctx context.Context) (net.Conn, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.CA())
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: requestTimeout, KeepAlive: 15 * time.Second}, Config: &tls.Config{
		RootCAs: roots, NextProtos: []string{"http/1.1"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.Certificate() },
	}}
	address := m.url.Host
	if m.url.Port() == "" {
		address = net.JoinHostPort(m.url.Hostname(), "443")
	}
	return d.DialContext(ctx, "tcp", address)
}

// upgrade asks for the tunnel and returns what was read ahead.
func upgrade(conn net.Conn, host string) (*bufio.Reader, error) {
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.PathTunnel, host, api.TunnelProtocol); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		b, _ := io.ReadAll(io.LimitReader(answer.Body, 1024))
		return nil, fmt.Errorf("the server answered %s: %s", answer.Status, strings.TrimSpace(string(b)))
	}
	return r, conn.SetDeadline(time.Time{})
}

type prefixed struct {
	net.Conn
	r io.Reader
}

func (p *prefixed) Read(b []byte) (int, error) { return p.r.Read(b) }
