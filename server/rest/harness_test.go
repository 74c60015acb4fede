package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"orch/datastore"
	"orch/datastore/memory"
	"orch/server/access"
	"orch/server/registry"
)

// everybody is an administrator, except who sends a name in X-User.
type everybody struct{}

func (everybody) Authenticate(r *http.Request) (registry.User, bool, error) {
	name := r.Header.Get("X-User")
	if name == "" {
		name = "admin"
	}
	return registry.User{Name: name, Groups: []string{"system:authenticated"}}, name != "nobody", nil
}

func (everybody) Authorize(_ context.Context, at access.Attributes) (bool, string, error) {
	return at.User.Name == "admin", "", nil
}

// world is a server on the memory store.
type world struct {
	registry *registry.Registry
	store    datastore.Store
	server   *Server
	http     *httptest.Server
	log      *syncBuffer
	// closed tells of connections with TLS that the server closes, of a few at least.
	closed chan struct{}
}

// watched is a listener that tells when the server closes a connection.
type watched struct {
	net.Listener
	closed chan struct{}
}

func (l watched) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return watchedConn{c, l.closed}, nil
}

type watchedConn struct {
	net.Conn
	closed chan struct{}
}

func (c watchedConn) Close() error {
	err := c.Conn.Close()
	select {
	case c.closed <- struct{}{}:
	default:
	}
	return err
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	store := memory.New()
	r, err := registry.New(registry.Config{Store: store, Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("registry: %v", err)
		}
	})
	w := &world{registry: r, store: store, log: &syncBuffer{}, closed: make(chan struct{}, 10)}
	c := Config{Registry: r, Authenticator: everybody{}, Authorizer: everybody{}, Version: "v1.37.0+orch", Log: slog.New(slog.NewTextHandler(w.log, nil))}
	if change != nil {
		change(&c)
	}
	if w.server, err = New(c); err != nil {
		t.Fatal(err)
	}
	w.http = httptest.NewServer(w.server)
	t.Cleanup(func() {
		w.server.drain()
		w.http.Close()
		cancel()
		wg.Wait()
		_ = store.Close()
	})
	<-r.Ready()
	return w
}

// do sends a request; header is names and values in turn.
func (w *world) do(t testing.TB, method, path, body string, header ...string) (*http.Response, []byte) {
	t.Helper()
	var rd io.Reader
	if body != "" {
		rd = bytes.NewReader([]byte(body))
	}
	req, err := http.NewRequest(method, w.http.URL+path, rd)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, data
}

// serveTLS runs the server as main does, on a loopback listener with TLS, and
// gives a client that trusts it and speaks HTTP/2.
func (w *world) serveTLS(t testing.TB) (url string, client *http.Client) {
	t.Helper()
	ts := httptest.NewUnstartedServer(nil)
	ts.StartTLS() // for its certificate
	cert := ts.TLS.Certificates[0]
	roots := ts.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	ts.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.server.config.Listener = watched{l, w.closed}
	w.server.config.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}, DynamicRecordSizingDisabled: true}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Run(ctx) }()
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"}}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
		tr.CloseIdleConnections()
	})
	return "https://" + l.Addr().String(), &http.Client{Transport: tr, Timeout: time.Minute}
}
