package rest

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// get answers with one object, from its kept bytes.
func (s *Server) get(q *request) error {
	m, err := q.media(q.offer())
	if err != nil {
		return err
	}
	var o metav1.GetOptions
	if q.query != nil {
		o.ResourceVersion = q.query.Get("resourceVersion")
	}
	res, err := s.config.Registry.Get(q.Context(), q.call(), o)
	if err != nil {
		return err
	}
	return s.answer(q, m, http.StatusOK, res)
}
