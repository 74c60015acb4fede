package rest

import (
	"context"
	"strings"
)

// These verbs end at a node or a pod instead of the registry.

func (s *Server) logs(q *request) error {
	return s.connected(q, func() error { return s.connect.Logs(q.w, q.Request, q.call()) })
}

func (s *Server) stream(q *request) error {
	return s.connected(q, func() error { return s.connect.Stream(q.w, q.Request, q.call()) })
}

func (s *Server) proxy(q *request) error {
	// The escaped path is cut behind the subresource: the name cannot hold a slash.
	_, tail, _ := strings.Cut(q.URL.EscapedPath(), "/"+q.name+"/proxy/")
	return s.connected(q, func() error { return s.connect.Proxy(q.w, q.Request, q.call(), tail) })
}

// connected ends the connection when the server drains.
func (s *Server) connected(q *request, serve func() error) error {
	ctx, cancel := context.WithCancel(q.Context())
	defer cancel()
	defer context.AfterFunc(s.draining, cancel)()
	q.Request = q.WithContext(ctx)
	return serve()
}
