package wire

import (
	"encoding/hex"
	"fmt"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"orch/api"
)

// Validation says what happens to fields that the kind does not have, and to
// fields that come twice.
type Validation string

const (
	Ignore Validation = "Ignore"
	Warn   Validation = "Warn"
	Strict Validation = "Strict"
)

// decoderSet holds a decoder for each Format.
type decoderSet struct{ strict, lenient [3]runtime.Decoder }

// decoders are made once, at first use: they build nothing per request.
var decoders = sync.OnceValue(func() *decoderSet {
	s, d := api.Scheme(), &decoderSet{}
	for f, o := range map[Format]json.SerializerOptions{JSON: {}, YAML: {Yaml: true}} {
		d.lenient[f] = json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, o)
		o.Strict = true
		d.strict[f] = json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, o)
	}
	d.lenient[Protobuf] = protobuf.NewSerializer(s, s)
	d.strict[Protobuf] = d.lenient[Protobuf]
	return d
})

// Body is a request body and how to read it.
type Body struct {
	Data       []byte
	Format     Format
	Validation Validation
	// Warn hears of each unknown or doubled field under Warn.
	Warn func(string)
	// Coerce drops, and lists if asked to, the fields that a kind made at run time does not
	// know. Its error is the answer. Nil for other kinds.
	Coerce func(o runtime.Object, list bool) (unknown []string, err error)
}

// Decode reads a body as an object of the kind. Kind and version may be left out of the
// body. Errors are 400 Statuses with upstream's words.
func Decode(b Body, f *api.Facts) (runtime.Object, error) {
	into := f.New()
	obj, err := decode(b, f.GVK(), into)
	if err != nil {
		return nil, err
	}
	if !f.Dynamic {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return obj, nil
}

func decode(b Body, want schema.GroupVersionKind, into runtime.Object) (runtime.Object, error) {
	set := &decoders().lenient
	if b.Validation != Ignore {
		set = &decoders().strict
	}
	obj, got, err := set[b.Format].Decode(b.Data, &want, into)
	var complaints []error
	if err != nil {
		strict, is := runtime.AsStrictDecodingError(err)
		if !is || obj == nil || b.Validation == Strict && b.Coerce == nil {
			return nil, unreadable(err, want, got, b.Data)
		}
		complaints = strict.Errors()
	}
	if b.Coerce != nil && obj == into && got.GroupVersion() == want.GroupVersion() {
		unknown, err := b.Coerce(obj, b.Validation != Ignore)
		switch err.(type) {
		case nil:
		case errors.APIStatus:
			return nil, err
		default:
			return nil, unreadable(err, want, got, b.Data)
		}
		for _, path := range unknown {
			complaints = append(complaints, fmt.Errorf("unknown field %q", path))
		}
		if len(complaints) > 0 && b.Validation == Strict {
			return nil, unreadable(runtime.NewStrictDecodingError(complaints), want, got, b.Data)
		}
	}
	for _, e := range complaints {
		for _, text := range yamlComplaints(e.Error()) {
			b.Warn(text)
		}
	}
	if got != nil && got.GroupVersion() != want.GroupVersion() {
		return nil, errors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), want.GroupVersion()))
	}
	if obj != into {
		err := fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", got.Version, got.Kind, internalPackage(want.Group), want.Kind)
		return nil, unreadable(err, want, got, b.Data)
	}
	return obj, nil
}

// internalPackage is what upstream's errors call the home of a group's types.
func internalPackage(group string) string {
	if group == "" {
		return "core"
	}
	first, _, _ := strings.Cut(group, ".")
	return first
}

// unreadable words a decoding error as upstream's transformDecodeError does.
func unreadable(err error, want schema.GroupVersionKind, got *schema.GroupVersionKind, data []byte) error {
	if got != nil && got.Kind != "" {
		return errors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, got.Version, want.Kind, err))
	}
	return errors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, summary(data)))
}

// summary shows the head of a body that could not be read.
func summary(data []byte) string {
	const most = 30
	if len(data) == 0 {
		return "<empty>"
	}
	head, tail := data, ""
	if len(data) > most {
		head, tail = data[:most], " ..."
	}
	if data[0] == '{' {
		return string(head) + tail
	}
	return hex.EncodeToString(head) + tail
}

// yamlComplaints splits the YAML reader's many-line error into sentences.
func yamlComplaints(text string) []string {
	rest, ok := strings.CutPrefix(text, "error converting YAML to JSON: yaml: unmarshal errors:\n")
	if !ok {
		if rest, ok = strings.CutPrefix(text, "yaml: unmarshal errors:\n"); !ok {
			rest = strings.TrimPrefix(text, "yaml: ")
		}
	}
	lines := strings.Split(rest, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return lines
}

// DecodeDeleteOptions reads the body of a delete.
func DecodeDeleteOptions(b Body) (metav1.DeleteOptions, error) {
	var o metav1.DeleteOptions
	want := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
	want.Group = "" // v1 alone is what bodies say; group versions of resources are accepted too
	obj, got, err := decoders().lenient[b.Format].Decode(b.Data, &want, nil)
	if err != nil {
		return o, unreadable(err, want, got, b.Data)
	}
	d, ok := obj.(*metav1.DeleteOptions)
	if !ok {
		return o, errors.NewBadRequest("decoded object cannot be converted to DeleteOptions")
	}
	return *d, nil
}
