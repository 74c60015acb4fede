package rest

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"orch/api/client"
	"orch/server/access"
	"orch/server/aggregator"
	"orch/server/audit"
	"orch/server/flow"
	"orch/server/registry"
	"orch/server/rest/wire"
)

// address is what a URL path says about a request to a resource.
type address struct {
	group, version, plural string
	namespace, name, sub   string
	// tail is the path behind a proxy subresource, escaped as the client sent it.
	tail string
	// watched is true for the old /watch/ paths.
	watched bool
}

// parseAddress takes apart /api/VERSION/... and /apis/GROUP/VERSION/...; ok is
// false for paths that name no resource.
func parseAddress(path string) (a address, ok bool) {
	rest, isCore := strings.CutPrefix(path, "/api/")
	if !isCore {
		if rest, ok = strings.CutPrefix(path, "/apis/"); !ok {
			return a, false
		}
		a.group, rest, ok = strings.Cut(rest, "/")
		if !ok || a.group == "" {
			return a, false
		}
	}
	a.version, rest, ok = strings.Cut(rest, "/")
	if !ok || rest == "" {
		return a, false
	}
	if after, old := strings.CutPrefix(rest, "watch/"); old && after != "" {
		a.watched, rest = true, after
	}
	a.plural, rest, _ = strings.Cut(rest, "/")
	if a.plural == "namespaces" {
		rest = a.insideNamespace(rest)
	}
	a.name, rest, _ = strings.Cut(rest, "/")
	a.sub, a.tail, _ = strings.Cut(rest, "/")
	return a, true
}

// insideNamespace decides whether namespaces/NAME/... is about the namespace or
// about something in it.
func (a *address) insideNamespace(rest string) string {
	name, after, more := strings.Cut(rest, "/")
	if name == "" {
		return rest
	}
	a.namespace = name
	if !more || after == "" {
		return name
	}
	next, behind, _ := strings.Cut(after, "/")
	if next == "status" || next == "finalize" {
		return rest
	}
	a.plural = next
	return behind
}

// request is one request to a resource on its way through the gate to its verb.
type request struct {
	*http.Request
	address
	w    http.ResponseWriter
	row  *registry.Resource
	user registry.User
	verb string
	// query is nil where there is none.
	query url.Values
	warn  warnings
	// ticket is its place among the requests that are served.
	ticket flow.Ticket
	// remote is the server that answers in our stead; nil for none.
	remote *aggregator.Route
	// record is nil for a request that is not audited.
	record *audit.Record
	// began is when it came in.
	began time.Time
	// code is what was answered; 200 unless somebody says else.
	code int
	// size is the bytes of the answer, before they are compressed.
	size int64
	// unlimited ends when the client goes, not when its time is over.
	unlimited context.Context
}

// verbOf is the verb that authorization knows.
func verbOf(r *http.Request, a address, query url.Values) string {
	switch r.Method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if a.name == "" {
			return "deletecollection"
		}
		return "delete"
	case http.MethodGet, http.MethodHead:
		switch {
		case a.watched || a.name == "" && truth(query, "watch"):
			return "watch"
		case a.name == "":
			return "list"
		}
		return "get"
	}
	if r.Method == http.MethodOptions && a.sub == "proxy" {
		return "get" // what it asks for is the backend's to say
	}
	return ""
}

// attributes is the question put to authorization.
func (q *request) attributes() access.Attributes {
	at := access.Attributes{User: q.user, Verb: q.verb, Namespace: q.namespace, Group: q.group, Version: q.version,
		Resource: q.plural, Subresource: q.sub, Name: q.name}
	switch q.verb {
	case "list", "watch", "deletecollection":
		at.FieldSelector, at.LabelSelector = q.query.Get("fieldSelector"), q.query.Get("labelSelector")
	}
	return at
}

// Asked is what a request wants, all but who wants it.
func Asked(r *http.Request) access.Attributes {
	a, isResource := parseAddress(r.URL.Path)
	if !isResource {
		return access.Attributes{Verb: strings.ToLower(r.Method), Path: r.URL.Path}
	}
	q := request{Request: r, address: a, query: r.URL.Query()}
	if q.verb = verbOf(r, a, q.query); q.verb == "" {
		q.verb = strings.ToLower(r.Method)
	}
	return q.attributes()
}

// longLived tells that a request may last and is bounded by no timeout.
func (q *request) longLived() bool {
	switch q.sub {
	case "exec", "attach", "portforward", "proxy":
		return true
	case "log":
		return truth(q.query, "follow")
	}
	return q.verb == "watch" || q.remote != nil && q.Header.Get("Upgrade") != ""
}

// target is what the registry calls the object.
func (q *request) target() client.Target {
	t := client.Target{Kind: q.row.Facts, Namespace: q.namespace, Name: q.name, Subresource: q.sub}
	if q.row.Cluster {
		t.Namespace = "" // namespaces/NAME names its namespace for authorization only
	}
	return t
}

// call is the request as the registry takes it.
func (q *request) call() registry.Request {
	c := registry.Request{User: q.user, Target: q.target(), Verb: q.verb, UserAgent: q.UserAgent(), Warn: q.warn.add}
	if q.record != nil {
		c.Annotate = q.record.Annotate
	}
	return c
}

// offer is what can be asked for of the request's kind.
func (q *request) offer() wire.Offer {
	table := !q.row.Computed || q.row.NewList != nil // reviews and the like have no columns
	return wire.Offer{Protobuf: !q.row.Dynamic, Table: table, Metadata: true}
}

func (q *request) media(offer wire.Offer) (wire.Media, error) {
	m, err := wire.Negotiate(q.Header.Get("Accept"), offer)
	return m.PrettyFor(q.Request), err
}
