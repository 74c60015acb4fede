package rest

import (
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"orch/server/rest/wire"
)

// patch answers PATCH in its four languages.
func (s *Server) patch(q *request) error {
	m, err := q.media(q.offer())
	if err != nil {
		return err
	}
	pt, err := q.patchType()
	if err != nil {
		return err
	}
	o, err := patchOptions(q.query, pt)
	if err != nil {
		return err
	}
	data, err := readBody(q.w, q.Request)
	if err != nil {
		return err
	}
	if q.record != nil {
		format := wire.JSON
		if pt == types.ApplyYAMLPatchType {
			format = wire.YAML
		}
		q.noteBody(data, format, nil)
	}
	res, err := s.config.Registry.Patch(q.Context(), s.mayCreate(q), pt, data, o)
	if err != nil {
		return s.fail(q, err)
	}
	return s.answer(q, m, written(res), res)
}

// patchType reads the Content-Type; custom resources know no strategic merge.
func (q *request) patchType() (types.PatchType, error) {
	name, _, _ := strings.Cut(q.Header.Get("Content-Type"), ";")
	offers := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType}
	if q.row.Dynamic {
		offers = []types.PatchType{types.JSONPatchType, types.MergePatchType, types.ApplyYAMLPatchType}
	}
	words := make([]string, len(offers))
	for i, pt := range offers {
		if strings.TrimSpace(name) == string(pt) {
			return pt, nil
		}
		words[i] = string(pt)
	}
	return "", wire.UnsupportedMedia(strings.Join(words, ", "))
}
