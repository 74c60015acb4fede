// Package health answers load balancers that ask, on a Service's
// healthCheckNodePort, whether this node has endpoints of it. It is told by the
// proxy and decides nothing. Start reading at Server.Set.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"orch/network/netns"
	"orch/network/proxy"
)

// Server listens on the ports that it was told last.
type Server struct {
	netns string
	log   *slog.Logger

	mu    sync.Mutex // guards ports
	ports map[uint16]*port
}

// port is one listening address.
type port struct {
	http *http.Server
	mu   sync.Mutex // guards check
	check
}

type check = proxy.HealthCheck

// New returns a server that listens in the network namespace at path ("" is the
// process's own).
func New(path string, log *slog.Logger) *Server {
	return &Server{netns: path, log: log, ports: map[uint16]*port{}}
}

// Set makes checks the ports that are answered. A port that can't be had is
// logged and tried again with the next Set.
func (s *Server) Set(checks []proxy.HealthCheck) {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[uint16]bool{}
	for _, c := range checks {
		want[c.Port] = true
		if p := s.ports[c.Port]; p != nil {
			p.mu.Lock()
			p.check = c
			p.mu.Unlock()
			continue
		}
		p, err := s.listen(c)
		if err != nil {
			s.log.Error("health check node port is not served", "service", c.Namespace+"/"+c.Name, "port", c.Port, "err", err)
			continue
		}
		s.ports[c.Port] = p
	}
	for n, p := range s.ports {
		if !want[n] {
			p.http.Close()
			delete(s.ports, n)
		}
	}
}

func (s *Server) listen(c check) (*port, error) {
	var l net.Listener
	err := netns.Do(s.netns, func() (err error) {
		l, err = net.Listen("tcp", ":"+strconv.Itoa(int(c.Port)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	p := &port{check: c}
	p.http = &http.Server{Handler: p, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 4 << 10}
	go func() {
		if err := p.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("health check node port ended", "port", c.Port, "err", err)
		}
	}()
	return p, nil
}

// Run waits for the end of ctx and closes all ports.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.Set(nil)
	return nil
}

// ServeHTTP answers as upstream's proxy does: 200 with local endpoints, else 503.
func (p *port) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	c := p.check
	p.mu.Unlock()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(c.Local))
	if c.Local == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	type name struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	_ = json.NewEncoder(w).Encode(struct {
		Service             name `json:"service"`
		LocalEndpoints      int  `json:"localEndpoints"`
		ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
	}{name{c.Namespace, c.Name}, c.Local, true})
}
