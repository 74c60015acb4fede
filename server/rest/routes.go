// Package rest is the HTTP face of the API server: one gate that every request
// passes (who are you, may you, is there room), a file for each verb, and the
// pages beside the resources. It owns the meaning of paths, headers, queries and
// bodies. It refuses to know how objects are completed, checked or stored: that
// is the registry. Start reading at Server.ServeHTTP, then verbs, then a verb's file.
package rest

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/server/access"
	"orch/server/audit"
	"orch/server/registry"
	"orch/server/rest/surface"
	"orch/server/rest/tally"
	"orch/server/rest/wire"
)

// verbs is the switchboard: who answers which verb on a resource.
var verbs = map[string]func(*Server, *request) error{
	"create":           (*Server).create,
	"get":              (*Server).get,
	"list":             (*Server).list,
	"watch":            (*Server).watch,
	"update":           (*Server).update,
	"patch":            (*Server).patch,
	"delete":           (*Server).delete,
	"deletecollection": (*Server).deleteCollection,
}

// connects are the subresources that lead to a node instead of the registry.
var connects = map[string]func(*Server, *request) error{
	"log":         (*Server).logs,
	"exec":        (*Server).stream,
	"attach":      (*Server).stream,
	"portforward": (*Server).stream,
	"proxy":       (*Server).proxy,
}

// ServeHTTP is the gate.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer s.recover(w, r)
	if h := s.open.find(r.URL.Path); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	h := w.Header()
	id := requestID(r)
	h["Audit-Id"] = []string{id}
	h["Cache-Control"] = noCache
	user, known, err := s.authenticate(r)
	if s.config.Audit != nil {
		s.audited(w, r, id, identity{user, known, err})
		return
	}
	if err != nil {
		wire.WriteError(w, r, err)
		return
	}
	if !known {
		user = anonymous()
	}
	if err := s.admitted(w, r, user); err != nil {
		answerError(w, r, err)
	}
	if r.Context().Err() != nil {
		noteReset(r)
	}
}

var noCache = []string{"no-cache, private"}

func (s *Server) recover(w http.ResponseWriter, r *http.Request) {
	p := recover()
	switch p {
	case nil:
	case http.ErrAbortHandler: // the net/http way to cut a connection
		panic(p)
	default:
		s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
		wire.WriteError(w, r, apierrors.NewInternalError(fmt.Errorf("this request caused the server to panic: look in the logs for details")))
	}
}

// admitted authorizes a request of a known user and hands it on.
func (s *Server) admitted(w http.ResponseWriter, r *http.Request, user registry.User) error {
	if c := user.Credential; c != nil && c.Warning != "" {
		var told warnings // at once: it comes with refusals too
		told.add(c.Warning)
		told.write(w.Header())
	}
	var query url.Values
	if r.URL.RawQuery != "" {
		query = r.URL.Query()
	}
	a, isResource := parseAddress(r.URL.Path)
	if !isResource {
		start := s.now()
		err := s.page(w, r, user)
		s.countPage(r, err, s.now().Sub(start))
		return err
	}
	q := &request{Request: r, address: a, w: w, user: user, query: query, verb: verbOf(r, a, query), code: http.StatusOK, unlimited: r.Context()}
	if q.remote = s.remote(a.group, a.version); q.remote != nil && q.verb == "" {
		q.verb = strings.ToLower(r.Method) // the other server knows what it means
	}
	if s.config.Audit != nil {
		q.record = audit.From(r.Context())
	}
	if q.verb == "" {
		return wire.MethodNotAllowed()
	}
	q.began = s.now()
	err := s.serve(q)
	s.count(q, err, s.now().Sub(q.began))
	return err
}

// serve waits for the request's turn and takes it to its verb.
func (s *Server) serve(q *request) error {
	q.row = s.config.Registry.Find(q.group, q.version, q.plural)
	if q.longLived() {
		return s.serveLasting(q)
	}
	limit, err := timeLimit(q.query)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.Context(), limit)
	defer cancel()
	defer s.deadlines.cutOff(q.w, limit)()
	q.Request = q.WithContext(ctx)
	if err := s.enter(q); err != nil {
		return err
	}
	defer q.ticket.Leave()
	return s.dispatch(q)
}

// serveLasting serves what may last: watches take a place until they have begun, the
// others none.
func (s *Server) serveLasting(q *request) error {
	defer s.tally.Of(s.labels(q)).Begin()()
	if q.verb != "watch" || q.remote != nil {
		return s.dispatch(q)
	}
	if err := s.enter(q); err != nil {
		return err
	}
	defer q.ticket.Leave()
	done, err := s.watches.enter(q.user.Name)
	if err != nil {
		return err
	}
	defer done()
	ask := q.flow()
	defer s.flow.Watching(&ask, q.selectsNode())()
	return s.dispatch(q)
}

// dispatch asks whether the user may and takes the request to its verb.
func (s *Server) dispatch(q *request) error {
	if err := s.authorize(q.Context(), q.attributes()); err != nil {
		return err
	}
	if q.remote != nil {
		return s.connected(q, func() error {
			q.code = q.remote.Serve(q.w, q.Request, q.user)
			return nil
		})
	}
	verb, err := s.route(q)
	if err != nil {
		return err
	}
	if q.row.Warning != "" {
		q.warn.add(q.row.Warning)
		s.tally.AskedFor(tally.Outdated{Group: q.group, Version: q.version, Resource: q.plural, Sub: q.sub})
	}
	return verb(s, q)
}

// authorize turns a refusal into its 403.
func (s *Server) authorize(ctx context.Context, at access.Attributes) error {
	allowed, reason, err := s.config.Authorizer.Authorize(ctx, at)
	if allowed {
		return nil
	}
	if err != nil && reason == "" {
		reason = err.Error()
	}
	return access.Forbidden(at, reason)
}

// route finds what serves the verb of the request's resource.
func (s *Server) route(q *request) (func(*Server, *request) error, error) {
	if q.row == nil || q.sub != "" && !q.row.HasSub(q.sub) || !q.inScope() {
		return nil, wire.NotFound()
	}
	if q.tail != "" && q.sub != "proxy" || q.verb == "watch" && q.sub != "" {
		return nil, wire.NotFound()
	}
	if !surface.Serves(q.row.Facts, q.sub, q.verb) || q.Method == http.MethodHead && q.sub != "proxy" || !q.collectionScope() {
		return nil, wire.MethodNotAllowed()
	}
	if serve := connects[q.sub]; serve != nil {
		return serve, nil
	}
	return verbs[q.verb], nil
}

// inScope tells whether such a path exists for the kind: objects of namespaced kinds
// lie in a namespace, others do not.
func (q *request) inScope() bool {
	if q.row.Cluster {
		return q.namespace == "" || q.plural == "namespaces"
	}
	return q.namespace != "" || q.name == ""
}

// collectionScope refuses writes to namespaced kinds across all namespaces.
func (q *request) collectionScope() bool {
	return q.row.Cluster || q.namespace != "" || q.verb == "list" || q.verb == "watch"
}

// routeTable finds handlers of paths beside the resources.
type routeTable struct {
	exact map[string]http.Handler
	// prefixes end in a slash, the longest first.
	prefixes []prefixRoute
}

type prefixRoute struct {
	prefix string
	http.Handler
}

func newRouteTable(routes map[string]http.Handler) routeTable {
	t := routeTable{exact: routes}
	for path, h := range routes {
		if strings.HasSuffix(path, "/") {
			t.prefixes = append(t.prefixes, prefixRoute{path, h})
		}
	}
	slices.SortFunc(t.prefixes, func(a, b prefixRoute) int { return len(b.prefix) - len(a.prefix) })
	return t
}

// find looks for the whole path, then for the longest prefix; nil if there is none.
func (t *routeTable) find(path string) http.Handler {
	if h := t.exact[path]; h != nil {
		return h
	}
	for _, p := range t.prefixes {
		if strings.HasPrefix(path, p.prefix) {
			return p.Handler
		}
	}
	return nil
}

func anonymous() registry.User {
	return registry.User{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}
}

type userKey struct{}

// UserFrom is the user of a request that a Protected handler got.
func UserFrom(ctx context.Context) registry.User {
	u, _ := ctx.Value(userKey{}).(registry.User)
	return u
}

// page serves what is no resource: discovery, documents, health, extra routes.
func (s *Server) page(w http.ResponseWriter, r *http.Request, user registry.User) error {
	path := r.URL.Path
	if _, err := timeLimit(r.URL.Query()); err != nil {
		return err
	}
	leave, err := s.enterPage(w, r, user)
	if err != nil {
		return err
	}
	defer leave()
	at := access.Attributes{User: user, Verb: strings.ToLower(r.Method), Path: path}
	if err := s.authorize(r.Context(), at); err != nil {
		return err
	}
	if h := s.protected.find(path); h != nil {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, user)))
		return nil
	}
	if t := s.remoteRoot(path); t != nil {
		t.Serve(w, r, user)
		return nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if s.pages.find(path) == nil && !s.discovery.Serves(path) {
			return wire.NotFound()
		}
		return wire.MethodNotAllowed()
	}
	switch {
	case path == "/":
		return s.index(w)
	case s.pages.find(path) != nil:
		s.pages.find(path).ServeHTTP(w, r)
	case s.discovery.Serves(path):
		s.discovery.ServeHTTP(w, r)
	default:
		return wire.NotFound()
	}
	return nil
}
