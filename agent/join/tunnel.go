package join

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/yamux"

	"orch/api"
)

// Serve holds the outbound connection to the server and answers with h what the
// server asks through it. It connects again, with growing pauses, until ctx ends.
func (m *Membership) Serve(ctx context.Context, h http.Handler) error {
	pause := firstPause
	for ctx.Err() == nil {
		start := time.Now()
		err := m.serveOnce(ctx, h)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(start) > longPause {
			pause = firstPause // it had worked
		}
		m.cfg.Log.Info("the connection to the server ended, connecting again", "server", m.url.String(), "err", err)
		wait(ctx, pause)
		pause = min(2*pause, longPause)
	}
	return nil
}

func (m *Membership) serveOnce(ctx context.Context, h http.Handler) error {
	conn, err := m.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buffered, err := upgrade(conn, m.url.Host)
	if err != nil {
		return err
	}
	cfg := yamux.DefaultConfig()
	cfg.KeepAliveInterval = 30 * time.Second
	cfg.MaxStreamWindowSize = 1 << 20
	cfg.LogOutput = io.Discard
	mux, err := yamux.Server(&prefixed{conn, buffered}, cfg)
	if err != nil {
		return err
	}
	defer mux.Close()
	server := &http.Server{Handler: h, ReadHeaderTimeout: requestTimeout, BaseContext: func(net.Listener) context.Context { return ctx }}
	defer server.Close()
	err = server.Serve(mux)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
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
		return nil, fmt.Errorf("the server answered %s: %s", answer.Status, b)
	}
	return r, conn.SetDeadline(time.Time{})
}

type prefixed struct {
	net.Conn
	r io.Reader
}

func (p *prefixed) Read(b []byte) (int, error) { return p.r.Read(b) }
