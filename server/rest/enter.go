package rest

import (
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/server/flow"
	"orch/server/registry"
	"orch/server/rest/wire"
)

// refusal is the 429 of flow control. Upstream says it in plain text.
type refusal struct{ *apierrors.StatusError }

const tooMany = "Too many requests, please try again later."

func refused(seconds int) error {
	return refusal{apierrors.NewTooManyRequests(tooMany, seconds)}
}

// answerError answers with a Status, or with what upstream says instead.
func answerError(w http.ResponseWriter, r *http.Request, err error) {
	if e, is := err.(refusal); is {
		w.Header().Set("Retry-After", strconv.Itoa(int(e.ErrStatus.Details.RetryAfterSeconds)))
		http.Error(w, tooMany, http.StatusTooManyRequests)
		return
	}
	if r.ProtoMajor == 1 && r.Context().Err() == nil && wire.StatusOf(err).Code == http.StatusGatewayTimeout {
		w.Header().Set("Connection", "close") // cutOff has given it a deadline
	}
	wire.WriteError(w, r, err)
}

// enter waits for the request's turn. Its ticket must be left.
func (s *Server) enter(q *request) error {
	ask := q.flow()
	if ask.Listed {
		ask.Stored.Objects, ask.Stored.Bytes = s.config.Registry.Amount(q.row)
	}
	ok := s.flow.Enter(q.Context(), &ask, &q.ticket)
	q.ticket.Headers(q.w.Header())
	if !ok {
		return refused(q.ticket.RetryAfter)
	}
	return nil
}

// flow is the request as flow control looks at it.
func (q *request) flow() flow.Request {
	f := flow.Request{
		User: q.user.Name, Groups: q.user.Groups, Verb: q.verb, Group: q.group, Version: q.version, Resource: q.plural,
		Subresource: q.sub, Namespace: q.namespace, Name: q.name,
	}
	switch q.verb {
	case "list":
		f.Listed = q.row != nil
		if q.query != nil {
			f.Limit, _ = strconv.ParseInt(q.query.Get("limit"), 10, 64) // one that is none is refused later
		}
	case "watch":
		rv := q.query.Get("resourceVersion")
		f.Listed = q.row != nil && (truth(q.query, "sendInitialEvents") || rv == "" || rv == "0")
	case "get":
	default:
		f.Writes = true
	}
	return f
}

// enterPage is enter for what is no resource.
func (s *Server) enterPage(w http.ResponseWriter, r *http.Request, user registry.User) (leave func(), err error) {
	if strings.HasPrefix(r.URL.Path, "/debug/pprof/") {
		return func() {}, nil // upstream counts profiles as long-running
	}
	verb := strings.ToLower(r.Method)
	t := new(flow.Ticket)
	ok := s.flow.Enter(r.Context(), &flow.Request{User: user.Name, Groups: user.Groups, Verb: verb, Path: r.URL.Path, Writes: verb != "get" && verb != "head"}, t)
	t.Headers(w.Header())
	if !ok {
		return nil, refused(t.RetryAfter)
	}
	return t.Leave, nil
}

// selectsNode tells whether a watch is for the pods of one node.
func (q *request) selectsNode() bool {
	if q.plural != "pods" || q.query == nil {
		return false
	}
	for _, part := range strings.Split(q.query.Get("fieldSelector"), ",") {
		if v, is := strings.CutPrefix(part, "spec.nodeName="); is && strings.TrimPrefix(v, "=") != "" {
			return true
		}
	}
	return false
}
