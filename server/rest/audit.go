package rest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"orch/server/audit"
	"orch/server/registry"
	"orch/server/rest/wire"
)

// maxRequestID bounds the name that a client gives its request.
const maxRequestID = 128

// requestID is the client's name for the request, else a new one.
func requestID(r *http.Request) string {
	if id := r.Header.Get("Audit-Id"); id != "" && len(id) <= maxRequestID {
		return id
	}
	return auditID()
}

// identity is what authentication found.
type identity struct {
	user  registry.User
	known bool
	err   error
}

// note records whom the user acts as and what there is to say of their credential.
func (who *identity) note(rec *audit.Record) {
	if who.user.By != nil {
		rec.Impersonated(who.user)
	}
	if c := audit.UserOf(who.user).Credential; c != nil {
		for k, v := range c.Notes {
			rec.Annotate(k, v)
		}
	}
}

// audited is the rest of the gate for a server with an audit policy.
func (s *Server) audited(w http.ResponseWriter, r *http.Request, id string, who identity) {
	q, lasting := auditRequest(r)
	unknown := who.err != nil && wire.StatusOf(who.err).Code == http.StatusUnauthorized
	if !who.known && who.err == nil {
		who.user = anonymous()
	}
	q.User = audit.UserOf(who.user)
	rec := s.config.Audit.Begin(r, &q, id)
	if unknown {
		s.config.Audit.Failed(r, rec, http.StatusUnauthorized)
		wire.WriteError(w, r, who.err)
		return
	}
	if rec == nil {
		s.identified(w, r, who)
		return
	}
	s.config.Audit.Serve(w, r, rec, lasting, func(w http.ResponseWriter, r *http.Request) {
		who.note(rec)
		s.identified(w, r, who)
	})
}

// identified hands on the request of a known user, or refuses an impersonation.
func (s *Server) identified(w http.ResponseWriter, r *http.Request, who identity) {
	err := who.err
	if err == nil {
		err = s.admitted(w, r, who.user)
	}
	if r.Context().Err() != nil {
		defer noteReset(r)
	}
	if err == nil {
		return
	}
	if rec := audit.From(r.Context()); rec != nil {
		status := wire.StatusOf(err)
		rec.Status(status)
		if rec.WantsResponse() {
			if b, err := wire.AppendObject(nil, wire.Media{}, &status, wire.StatusGVK()); err == nil {
				rec.Response(b)
			}
		}
	}
	answerError(w, r, err)
}

// auditRequest is the request as a policy sees it, and whether it is one that lasts.
func auditRequest(r *http.Request) (audit.Request, bool) {
	a, isResource := parseAddress(r.URL.Path)
	if !isResource {
		return audit.Request{Verb: strings.ToLower(r.Method), Path: r.URL.Path}, false
	}
	var query url.Values
	if r.URL.RawQuery != "" {
		query = r.URL.Query()
	}
	q := request{Request: r, address: a, query: query, verb: verbOf(r, a, query)}
	return audit.Request{Verb: q.verb, Namespace: a.namespace, Group: a.group, Version: a.version, Resource: a.plural,
		Subresource: a.sub, Name: a.name, Path: r.URL.Path}, q.longLived()
}

// noteBody records what was sent: as it is if it is JSON, else as the object that it means.
func (q *request) noteBody(data []byte, format wire.Format, o runtime.Object) {
	switch {
	case !q.record.WantsRequest() || len(data) == 0:
	case format == wire.JSON:
		q.record.Request(data)
	case format == wire.YAML:
		if b, err := yaml.YAMLToJSON(data); err == nil {
			q.record.Request(b)
		}
	case o != nil:
		if b, err := json.Marshal(o); err == nil {
			q.record.Request(b)
		}
	}
}

// noteAnswer records what is answered, as JSON in whatever form the client reads.
func (s *Server) noteAnswer(q *request, m wire.Media, res registry.Result) {
	if !q.record.WantsResponse() {
		return
	}
	m.Format, m.Pretty = wire.JSON, false
	if b, err := s.encode(nil, q, m, res); err == nil {
		q.record.Response(b)
	}
}

// noteList records a collection.
func (s *Server) noteList(q *request, m wire.Media, l *registry.List) {
	if !q.record.WantsResponse() {
		return
	}
	m.Format, m.Pretty = wire.JSON, false
	var b []byte
	var err error
	if m.Shape == wire.Table {
		t, terr := s.tableOf(q, m, l.Items, metav1.ListMeta{ResourceVersion: l.ResourceVersion, Continue: l.Continue, RemainingItemCount: l.Remaining})
		if terr != nil {
			return
		}
		b, err = wire.AppendObject(nil, m, t, tableGVK(m))
	} else {
		var out bytes.Buffer
		_, err = wire.WriteList(&out, nil, m, q.row.Facts, l)
		b = out.Bytes()
	}
	if err == nil {
		q.record.Response(b)
	}
}
