package client

import (
	"encoding/json"
	"fmt"
	"mime"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
)

const (
	mediaJSON     = "application/json"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
	// protobufMagic begins every protobuf body; a runtime.Unknown envelope follows.
	protobufMagic = "k8s\x00"
)

// marshaler and unmarshaler are what the generated types of built-in kinds have.
type marshaler interface{ Marshal() ([]byte, error) }
type unmarshaler interface{ Unmarshal([]byte) error }

// gvkOf is the group, version and kind under which an object travels. Objects
// of our own seldom carry it, so the scheme is asked.
func gvkOf(o runtime.Object) (schema.GroupVersionKind, error) {
	if gvk := o.GetObjectKind().GroupVersionKind(); gvk.Kind != "" && gvk.Version != "" {
		return gvk, nil
	}
	gvks, _, err := api.Scheme().ObjectKinds(o)
	if err != nil {
		return schema.GroupVersionKind{}, fmt.Errorf("encoding %T: %w", o, err)
	}
	return gvks[0], nil
}

// encode returns the body for an object and its media type: protobuf where the
// type has it, JSON for custom resources. The object is not touched.
func encode(o runtime.Object) (body []byte, media string, err error) {
	gvk, err := gvkOf(o)
	if err != nil {
		return nil, "", err
	}
	version, kind := gvk.ToAPIVersionAndKind()
	m, ok := o.(marshaler)
	if !ok {
		return encodeJSON(o, gvk)
	}
	raw, err := m.Marshal()
	if err != nil {
		return nil, "", fmt.Errorf("encoding %s: %w", kind, err)
	}
	envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: version, Kind: kind}, Raw: raw}
	wrapped, err := envelope.Marshal()
	if err != nil {
		return nil, "", fmt.Errorf("encoding %s: %w", kind, err)
	}
	return append([]byte(protobufMagic), wrapped...), mediaProtobuf, nil
}

func encodeJSON(o runtime.Object, gvk schema.GroupVersionKind) ([]byte, string, error) {
	if o.GetObjectKind().GroupVersionKind() != gvk {
		o = o.DeepCopyObject()
		o.GetObjectKind().SetGroupVersionKind(gvk)
	}
	body, err := json.Marshal(o)
	if err != nil {
		return nil, "", fmt.Errorf("encoding %s: %w", gvk.Kind, err)
	}
	return body, mediaJSON, nil
}

// decode makes the object that a body of the media type holds. want gives the
// value where the body's kind is the expected one; others (a Status, the answer
// of a subresource) come from the scheme.
func decode(body []byte, contentType string, want func(schema.GroupVersionKind) runtime.Object) (runtime.Object, error) {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, fmt.Errorf("decoding answer of type %q: %w", contentType, err)
	}
	switch media {
	case mediaProtobuf:
		return decodeProtobuf(body, want)
	case mediaJSON:
		return decodeJSON(body, want)
	}
	return nil, fmt.Errorf("decoding answer: media type %q is not known", media)
}

func decodeProtobuf(body []byte, want func(schema.GroupVersionKind) runtime.Object) (runtime.Object, error) {
	if len(body) < len(protobufMagic) || string(body[:len(protobufMagic)]) != protobufMagic {
		return nil, fmt.Errorf("decoding protobuf: the envelope is missing")
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(body[len(protobufMagic):]); err != nil {
		return nil, fmt.Errorf("decoding protobuf envelope: %w", err)
	}
	gvk := schema.FromAPIVersionAndKind(envelope.APIVersion, envelope.Kind)
	o, err := newObject(gvk, want)
	if err != nil {
		return nil, err
	}
	u, ok := o.(unmarshaler)
	if !ok {
		return nil, fmt.Errorf("decoding %s: no protobuf form", gvk)
	}
	if err := u.Unmarshal(envelope.Raw); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", gvk, err)
	}
	return o, nil
}

func decodeJSON(body []byte, want func(schema.GroupVersionKind) runtime.Object) (runtime.Object, error) {
	var meta runtime.TypeMeta
	if err := json.Unmarshal(body, &meta); err != nil {
		return nil, fmt.Errorf("decoding JSON: %w", err)
	}
	gvk := schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind)
	o, err := newObject(gvk, want)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, o); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", gvk, err)
	}
	return o, nil
}

func newObject(gvk schema.GroupVersionKind, want func(schema.GroupVersionKind) runtime.Object) (runtime.Object, error) {
	if o := want(gvk); o != nil {
		return o, nil
	}
	if gvk.Kind == "Status" {
		return &metav1.Status{}, nil
	}
	o, err := api.Scheme().New(gvk)
	if err != nil {
		return nil, fmt.Errorf("decoding answer: %w", err)
	}
	return o, nil
}

// object and list are the values for want: an object, or a list, of the kind.
func object(f *api.Facts) func(schema.GroupVersionKind) runtime.Object {
	return func(gvk schema.GroupVersionKind) runtime.Object {
		if gvk == f.GVK() && f.New != nil {
			return f.New()
		}
		return nil
	}
}

func list(f *api.Facts) func(schema.GroupVersionKind) runtime.Object {
	return func(gvk schema.GroupVersionKind) runtime.Object {
		if gvk.GroupVersion() == f.GroupVersion() && gvk.Kind == f.Kind+"List" && f.NewList != nil {
			return f.NewList()
		}
		return nil
	}
}
