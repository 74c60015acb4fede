package rest

import (
	"context"
	"net/http"

	"orch/server/registry"
)

// update answers PUT.
func (s *Server) update(q *request) error {
	m, err := q.media(q.offer())
	if err != nil {
		return err
	}
	o, err := updateOptions(q.query)
	if err != nil {
		return err
	}
	obj, err := s.decode(q, o.FieldValidation)
	if err != nil {
		return err
	}
	res, err := s.config.Registry.Update(q.Context(), s.mayCreate(q), obj, o)
	if err != nil {
		return s.fail(q, err)
	}
	return s.answer(q, m, written(res), res)
}

// mayCreate is the call of a write that can bring the object into being; for that
// the user must be allowed to create.
func (s *Server) mayCreate(q *request) registry.Request {
	call := q.call()
	call.MayCreate = func(ctx context.Context) error {
		at := q.attributes()
		at.Verb = "create"
		return s.authorize(ctx, at)
	}
	return call
}

// written is the code of a write's answer.
func written(res registry.Result) int {
	if res.Created {
		return http.StatusCreated
	}
	return http.StatusOK
}
