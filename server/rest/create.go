package rest

import (
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"

	"orch/server/rest/wire"
)

// create answers POST to a collection, and to subresources that take a body.
func (s *Server) create(q *request) error {
	m, err := q.media(q.offer())
	if err != nil {
		return err
	}
	o, err := createOptions(q.query)
	if err != nil {
		return err
	}
	obj, err := s.decode(q, o.FieldValidation)
	if err != nil {
		return err
	}
	res, err := s.config.Registry.Create(q.Context(), q.call(), obj, o)
	if err != nil {
		return s.fail(q, err)
	}
	return s.answer(q, m, http.StatusCreated, res)
}

// decode reads the request's body as the kind that the resource or subresource takes.
func (s *Server) decode(q *request, validation string) (runtime.Object, error) {
	format, err := wire.BodyFormat(q.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	if format == wire.Protobuf && q.row.Dynamic {
		return nil, wire.UnsupportedMedia(wire.Offer{}.String())
	}
	data, err := readBody(q.w, q.Request)
	if err != nil {
		return nil, err
	}
	if validation == "" {
		validation = string(wire.Warn)
	}
	body := wire.Body{Data: data, Format: format, Validation: wire.Validation(validation), Warn: q.warn.add}
	kind := s.config.Registry.BodyFor(q.row.Facts, q.sub)
	if kind.Dynamic {
		body.Coerce = func(o runtime.Object, list bool) ([]string, error) { return s.config.Registry.Coerce(kind, o, list) }
	}
	o, err := wire.Decode(body, kind)
	if q.record != nil {
		q.noteBody(data, format, o)
	}
	return o, err
}

// fail keeps the warnings that came before a failure.
func (s *Server) fail(q *request, err error) error {
	q.warn.write(q.w.Header())
	return err
}
