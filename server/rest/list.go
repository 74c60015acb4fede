package rest

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/server/registry"
	"orch/server/rest/wire"
)

// list answers with a collection, from the kept bytes of its items.
func (s *Server) list(q *request) error {
	m, err := q.media(q.offer())
	if err != nil {
		return err
	}
	o, err := listOptions(q.query)
	if err != nil {
		return err
	}
	l, err := s.config.Registry.List(q.Context(), q.call(), o)
	if err != nil {
		return err
	}
	return s.answerList(q, m, l)
}

func (s *Server) answerList(q *request, m wire.Media, l *registry.List) error {
	if q.record != nil {
		s.noteList(q, m, l)
	}
	p := buffers.Get().(*[]byte)
	if m.Shape == wire.Table {
		t, err := s.tableOf(q, m, l.Items, metav1.ListMeta{ResourceVersion: l.ResourceVersion, Continue: l.Continue, RemainingItemCount: l.Remaining})
		if err != nil {
			return err
		}
		data, err := wire.AppendObject((*p)[:0], m, t, tableGVK(m))
		if err == nil {
			s.send(q, m, http.StatusOK, data)
		}
		putBuffer(p, data)
		return err
	}
	q.warn.write(q.w.Header())
	q.w.Header()["Content-Type"] = contentTypes[m.Format]
	out := body{w: q.w, r: q.Request, code: http.StatusOK}
	scratch, err := wire.WriteList(&out, *p, m, q.row.Facts, l)
	out.close()
	q.size = out.size
	putBuffer(p, scratch)
	if out.open {
		return nil // the head is sent: a failure now can only cut the answer short
	}
	return err
}
