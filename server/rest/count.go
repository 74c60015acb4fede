package rest

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orch/server/registry"
	"orch/server/rest/tally"
	"orch/server/rest/wire"
)

// Collector shows the numbers of requests on a metrics page.
func (s *Server) Collector() prometheus.Collector { return s.tally.Collector() }

// count keeps the numbers of a request that has ended.
func (s *Server) count(q *request, err error, took time.Duration) {
	o := tally.Outcome{Code: q.code, Took: took, Waited: q.ticket.Waited, Size: q.size, DryRun: q.dryRun() != ""}
	if err != nil {
		o.Code = int(wire.StatusOf(err).Code)
		_, o.Terminated = err.(refusal)
		o.Terminated = o.Terminated || o.Code == http.StatusGatewayTimeout
	}
	if !q.longLived() {
		o.Aborted = q.unlimited.Err() != nil
	}
	s.tally.Of(s.labels(q)).Done(o)
}

// labels say under what a request counts; only what is on the kind table becomes one.
func (s *Server) labels(q *request) tally.Request {
	r := tally.Request{Verb: metricVerb(q), DryRun: q.dryRun(), Scope: "cluster"}
	switch {
	case q.name != "" || q.verb == "create":
		r.Scope = "resource"
	case q.namespace != "":
		r.Scope = "namespace"
	}
	if q.row != nil {
		r.Group, r.Version, r.Resource = q.group, q.version, q.plural
		if q.row.HasSub(q.sub) {
			r.Sub = q.sub
		}
	}
	return r
}

var connectVerbs = []string{"log", "exec", "attach", "portforward", "proxy"}

func metricVerb(q *request) string {
	switch {
	case slices.Contains(connectVerbs, q.sub):
		return "CONNECT"
	case q.verb == "patch" && strings.HasPrefix(q.Header.Get("Content-Type"), "application/apply-patch"):
		return "APPLY"
	}
	return metricVerbs[q.verb]
}

var metricVerbs = map[string]string{
	"create": "POST", "get": "GET", "list": "LIST", "watch": "WATCH", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETE",
}

// dryRun is All, invalid, or empty.
func (q *request) dryRun() string {
	list := q.query["dryRun"]
	if len(list) == 0 {
		return ""
	}
	for _, v := range list {
		if v != "All" {
			return "invalid"
		}
	}
	return "All"
}

// countPage counts a request for a page: under its path where that is a known one.
func (s *Server) countPage(r *http.Request, err error, took time.Duration) {
	o := tally.Outcome{Code: http.StatusOK, Took: took}
	if err != nil {
		o.Code = int(wire.StatusOf(err).Code)
		_, o.Terminated = err.(refusal)
	}
	of := tally.Request{Verb: "GET"}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		of.Verb = "other"
		if slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, r.Method) {
			of.Verb = r.Method
		}
	}
	for _, routes := range []*routeTable{&s.protected, &s.pages} {
		if routes.exact[r.URL.Path] != nil {
			of.Sub = r.URL.Path
		}
	}
	s.tally.Of(of).Done(o)
}

// authenticate asks who it is, and counts the answers.
func (s *Server) authenticate(r *http.Request) (user registry.User, known bool, err error) {
	start := s.now()
	user, known, err = s.config.Authenticator.Authenticate(r)
	result := tally.Success
	switch {
	case err != nil:
		result = tally.Error
	case !known:
		result = tally.Failure
	}
	now := s.now()
	s.tally.Authenticated(result, user.Name, now.Sub(start))
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && result == tally.Success {
		s.tally.Expiry.Observe(max(0, r.TLS.PeerCertificates[0].NotAfter.Sub(now).Seconds()))
	}
	return user, known, err
}
