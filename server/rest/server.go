package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"orch/api"
	"orch/server/access"
	"orch/server/aggregator"
	"orch/server/audit"
	"orch/server/backend"
	"orch/server/flow"
	"orch/server/registry"
	"orch/server/rest/connect"
	"orch/server/rest/discovery"
	"orch/server/rest/health"
	"orch/server/rest/openapi"
	"orch/server/rest/tally"
)

// Authenticator says who makes a request; ok is false for nobody known. An error is a 401 or 403 Status.
type Authenticator interface {
	Authenticate(r *http.Request) (u registry.User, ok bool, err error)
}

// Authorizer says whether a user may.
type Authorizer interface {
	Authorize(ctx context.Context, at access.Attributes) (allowed bool, reason string, err error)
}

// Check is one thing that health depends on.
type Check = health.Check

// Config of a Server. It is not changed after New.
type Config struct {
	Registry      *registry.Registry
	Authenticator Authenticator
	Authorizer    Authorizer
	// Audit records requests; nil where there is no policy.
	Audit *audit.Auditor
	// Nodes reaches the nodes' own API; nil where there are no nodes.
	Nodes connect.Dialer
	// Backends reaches pods and services; nil where there is no network of pods.
	Backends *backend.Backends
	// Aggregator knows the versions that other servers answer for; nil for none.
	Aggregator *aggregator.Aggregator
	// Handlers are routes that do their own authentication, by path, or by prefix if
	// it ends in a slash.
	Handlers map[string]http.Handler
	// Protected are routes behind the gate; UserFrom tells who asks.
	Protected map[string]http.Handler
	Checks    []Check
	// Checked is told of every check's result; it may be nil.
	Checked health.Seen
	// Flow decides whose turn it is; nil is one that knows the mandatory levels only.
	Flow *flow.Control
	// Listener takes plain connections; TLS is put on them. Needed by Run only.
	Listener net.Listener
	// TLS is the server's; without it Run serves without encryption (tests).
	TLS *tls.Config
	// Version is what /version says: v1.37.0+orch.
	Version, Commit, BuildDate string
	Log                        *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Server serves the API. It is an http.Handler; Run puts it on the listener.
type Server struct {
	config    Config
	log       *slog.Logger
	now       func() time.Time
	flow      *flow.Control
	watches   watchLimit
	deadlines deadlines
	tally     *tally.Tally
	discovery *discovery.Documents
	documents *openapi.Documents
	// open routes are before the gate, protected ones and pages behind it.
	open, protected, pages routeTable
	connect                *connect.Connector

	// draining ends when shutdown begins: watches end with it.
	draining context.Context
	drain    context.CancelFunc
}

// Limits of connections.
const (
	maxStreams     = 1000
	maxHeaderBytes = 64 << 10
	// drainTime is how long requests in flight may take to end on shutdown.
	drainTime = 10 * time.Second
)

// New checks the configuration.
func New(c Config) (*Server, error) {
	switch {
	case c.Registry == nil:
		return nil, errors.New("rest: no registry")
	case c.Authenticator == nil || c.Authorizer == nil:
		return nil, errors.New("rest: no authenticator or no authorizer")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Flow == nil {
		c.Flow = flow.New(flow.Config{Now: c.Now})
	}
	docs, err := openapi.New()
	if err != nil {
		return nil, fmt.Errorf("rest: %w", err)
	}
	s := &Server{config: c, log: c.Log, now: c.Now, flow: c.Flow, tally: tally.New(), deadlines: usualDeadlines(), documents: docs, connect: connect.New(c.Registry, c.Nodes, c.Backends)}
	s.draining, s.drain = context.WithCancel(context.Background())
	s.discovery = discovery.New(kinds{c.Registry}, nil)
	if c.Aggregator != nil {
		s.discovery = discovery.New(kinds{c.Registry}, c.Aggregator)
		docs.SetOthers(others{c.Aggregator})
	}
	pages := health.Pages(c.Checks, s.draining, c.Checked, c.Log)
	pages["/version"] = s.versionPage()
	pages["/version/"] = pages["/version"]
	for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/"} {
		pages[path] = docs
	}
	s.open, s.protected, s.pages = newRouteTable(c.Handlers), newRouteTable(c.Protected), newRouteTable(pages)
	return s, nil
}

// Documents lets custom resources add their OpenAPI documents.
func (s *Server) Documents() *openapi.Documents { return s.documents }

// kinds is the registry as discovery sees it.
type kinds struct{ *registry.Registry }

func (k kinds) Kinds() []*api.Facts {
	var list []*api.Facts
	for _, r := range k.Resources() {
		list = append(list, r.Facts)
	}
	return list
}

// Run serves on the listener until ctx ends, then lets requests in flight finish:
// first the watches are told to end, then connections are closed as they fall idle.
func (s *Server) Run(ctx context.Context) error {
	if s.config.Listener == nil {
		return errors.New("rest: no listener")
	}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	h := &http.Server{
		Handler: s, TLSConfig: s.config.TLS,
		ReadHeaderTimeout: s.deadlines.headers, IdleTimeout: s.deadlines.idle, MaxHeaderBytes: maxHeaderBytes,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: s.deadlines.ping, PingTimeout: s.deadlines.ping / 2,
			MaxReceiveBufferPerConnection: 4 << 20, MaxReceiveBufferPerStream: 1 << 20},
		BaseContext: func(net.Listener) context.Context { return base }, ConnContext: connContext,
		ErrorLog: stdlog.New(quiet{s.log, s.tally}, "", 0),
	}
	listener := &bounded{Listener: s.config.Listener, max: maxConnections}
	ended := make(chan error, 1)
	go func() {
		if s.config.TLS == nil {
			ended <- h.Serve(listener)
			return
		}
		ended <- h.ServeTLS(listener, "", "")
	}()
	select {
	case err := <-ended:
		s.drain()
		return fmt.Errorf("serving the API: %w", err)
	case <-ctx.Done():
	}
	s.drain()
	limit, stop := context.WithTimeout(base, drainTime)
	defer stop()
	if err := h.Shutdown(limit); err != nil {
		cancel()
		_ = h.Close()
	}
	<-ended
	return nil
}

// quiet lowers what net/http says of bad clients (handshakes that fail, ...) to debug.
type quiet struct {
	log   *slog.Logger
	tally *tally.Tally
}

func (q quiet) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("TLS handshake error from")) {
		q.tally.Handshakes.Add(1)
	}
	q.log.Debug("http server", "msg", string(p))
	return len(p), nil
}
