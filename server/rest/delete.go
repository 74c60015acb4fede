package rest

import (
	"net/http"
)

// delete answers DELETE of one object.
func (s *Server) delete(q *request) error {
	m, err := q.media(q.offer())
	if err != nil {
		return err
	}
	o, err := s.deleteOptions(q)
	if err != nil {
		return err
	}
	res, err := s.config.Registry.Delete(q.Context(), q.call(), o)
	if err != nil {
		return s.fail(q, err)
	}
	code := http.StatusOK
	// Upstream says 202 when the object stays for its dependents to go first.
	if res.Item != nil && o.OrphanDependents != nil && !*o.OrphanDependents {
		code = http.StatusAccepted
	}
	return s.answer(q, m, code, res)
}
