package apply

import (
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"orch/api"
)

// Limits of a JSON patch, as upstream's.
const (
	maxJSONPatchOperations = 10000
	maxDocument            = 3 << 20
)

// Patch changes a JSON document. f is the document's kind: strategic merge patch
// needs its Go type.
func (a *Applier) Patch(pt types.PatchType, doc, patch []byte, f *api.Facts) ([]byte, error) {
	switch pt {
	case types.JSONPatchType:
		return jsonPatch(doc, patch)
	case types.MergePatchType:
		return mergePatch(doc, patch)
	case types.StrategicMergePatchType:
		if f.Dynamic {
			return nil, fmt.Errorf("%w: strategic merge patch format is not supported for %s", ErrUnsupported, f.Plural)
		}
		return strategicPatch(doc, patch, f)
	}
	return nil, fmt.Errorf("%w: %s", ErrUnsupported, pt)
}

func jsonPatch(doc, patch []byte) ([]byte, error) {
	var count []json.RawMessage
	if err := json.Unmarshal(patch, &count); err != nil {
		return nil, fmt.Errorf("error decoding patch: %w", err)
	}
	if len(count) > maxJSONPatchOperations {
		return nil, fmt.Errorf("%w: the allowed maximum operations in a JSON patch is %d, got %d", ErrTooManyOperations, maxJSONPatchOperations, len(count))
	}
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, fmt.Errorf("error decoding patch: %w", err)
	}
	out, err := applyRecovered(p, doc)
	if err != nil {
		return nil, errors.Join(ErrCannotApply, err)
	}
	if len(out) > maxDocument && len(out) > len(doc) {
		return nil, ErrTooLarge
	}
	return out, nil
}

// applyRecovered turns a panic of the library on hostile input into an error.
func applyRecovered(p jsonpatch.Patch, doc []byte) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("applying a JSON patch: %v", r)
		}
	}()
	return p.Apply(doc)
}

func strategicPatch(doc, patch []byte, f *api.Facts) ([]byte, error) {
	var was, by map[string]any
	if err := json.Unmarshal(doc, &was); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(patch, &by); err != nil {
		return nil, fmt.Errorf("error decoding patch: %w", err)
	}
	schema, err := strategicpatch.NewPatchMetaFromStruct(f.New())
	if err != nil {
		return nil, err
	}
	is, err := strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(was, by, schema)
	switch {
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return nil, err
	case err != nil:
		return nil, errors.Join(ErrCannotApply, err)
	}
	return json.Marshal(is)
}

// Decode reads a JSON document into an object. With strict it also lists unknown and
// repeated fields; they do not make err.
func Decode(doc []byte, into runtime.Object, strict bool) (unknown []error, err error) {
	var to any = into
	if u, ok := into.(*unstructured.Unstructured); ok {
		to = &u.Object
	}
	if strict {
		return kjson.UnmarshalStrict(doc, to)
	}
	return nil, kjson.UnmarshalCaseSensitivePreserveInts(doc, to)
}

// Repeated lists the fields that a patch names twice.
func Repeated(patch []byte) []error {
	var v any
	strict, _ := kjson.UnmarshalStrict(patch, &v) // that it is JSON at all is checked elsewhere
	return strict
}

// ParseIntent reads the body of a server-side apply: YAML or JSON. Repeated fields
// come back apart.
func (a *Applier) ParseIntent(body []byte) (*unstructured.Unstructured, []error, error) {
	u := &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &u.Object); err == nil && u.Object != nil {
		unknown, _ := kjson.UnmarshalStrict(body, &map[string]any{})
		return u, unknown, nil
	}
	doc, err := yaml.YAMLToJSON(body)
	if err != nil {
		return nil, nil, fmt.Errorf("error decoding YAML: %w", err)
	}
	var strict []error
	if _, err := yaml.YAMLToJSONStrict(body); err != nil {
		strict = append(strict, err)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(doc, &u.Object); err != nil {
		return nil, nil, fmt.Errorf("error decoding YAML: %w", err)
	}
	if u.Object == nil {
		return nil, nil, errors.New("error decoding YAML: the patch is empty")
	}
	return u, strict, nil
}
