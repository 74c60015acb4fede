package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"orch/server/registry"
)

// magic starts every protobuf body that stands alone.
const magic = "k8s\x00"

// message is what generated protobuf types offer.
type message interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

// AppendObject appends an object that is not in a cache: a Status, Scale, review,
// table, option or discovery document. Its kind is set on a shallow basis: the
// caller owns the object.
func AppendObject(dst []byte, m Media, o runtime.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	if m.Format == Protobuf {
		p, ok := o.(message)
		if !ok {
			return dst, NotAcceptable(Offer{}.String())
		}
		n := p.Size()
		dst = appendEnvelope(dst, gvk, n)
		dst, err := appendMessage(dst, p, n)
		return append(dst, envelopeEnd...), err
	}
	o.GetObjectKind().SetGroupVersionKind(gvk)
	data, err := json.Marshal(o)
	if err != nil {
		return dst, fmt.Errorf("encoding a %s: %w", gvk.Kind, err)
	}
	return appendText(dst, m, data)
}

// AppendItem appends an object of a cache, alone, in the form that m asks for.
// Tables are another package's matter.
func AppendItem(dst []byte, m Media, i *registry.Item) ([]byte, error) {
	if m.Shape == Metadata {
		return AppendObject(dst, m, metadataOf(i, m.Version), metadataGVK("PartialObjectMetadata", m.Version))
	}
	if m.Format == Protobuf {
		return i.AppendProto(dst)
	}
	if m.Format == JSON && !m.Pretty {
		dst, err := i.AppendJSON(dst)
		return append(dst, '\n'), err
	}
	data, err := i.AppendJSON(nil)
	if err != nil {
		return dst, err
	}
	return appendText(dst, m, data)
}

// appendText turns compact JSON into what m asks for.
func appendText(dst []byte, m Media, data []byte) ([]byte, error) {
	switch {
	case m.Format == YAML:
		text, err := yaml.JSONToYAML(data)
		return append(dst, text...), err
	case m.Pretty:
		b := bytes.NewBuffer(dst)
		err := json.Indent(b, data, "", "  ")
		return b.Bytes(), err
	}
	dst = append(dst, data...)
	return append(dst, '\n'), nil
}

func metadataOf(i *registry.Item, version string) *metav1.PartialObjectMetadata {
	o := meta.AsPartialObjectMetadata(i.Object())
	o.SetGroupVersionKind(metadataGVK("PartialObjectMetadata", version))
	return o
}

func metadataGVK(kind, version string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: metav1.GroupName, Version: version, Kind: kind}
}

// envelopeEnd is the empty contentEncoding and contentType that upstream writes.
var envelopeEnd = []byte{0x1a, 0, 0x22, 0}

// appendEnvelope opens the protobuf envelope around a message of n bytes, which
// must follow, and after it envelopeEnd.
func appendEnvelope(dst []byte, gvk schema.GroupVersionKind, n int) []byte {
	apiVersion := gvk.GroupVersion().String()
	dst = append(dst, magic...)
	inner := fieldSize(len(apiVersion)) + fieldSize(len(gvk.Kind))
	dst = appendField(dst, 1, inner)
	dst = append(appendField(dst, 1, len(apiVersion)), apiVersion...)
	dst = append(appendField(dst, 2, len(gvk.Kind)), gvk.Kind...)
	return appendField(dst, 2, n)
}

// appendField opens a length-delimited field of n bytes.
func appendField(dst []byte, number byte, n int) []byte {
	return binary.AppendUvarint(append(dst, number<<3|2), uint64(n))
}

// fieldSize is what appendField and its content of n bytes take up.
func fieldSize(n int) int {
	size := 2
	for v := n; v >= 0x80; v >>= 7 {
		size++
	}
	return size + n
}

func appendMessage(dst []byte, p message, n int) ([]byte, error) {
	start := len(dst)
	dst = append(dst, make([]byte, n)...)
	if _, err := p.MarshalToSizedBuffer(dst[start:]); err != nil {
		return dst, fmt.Errorf("encoding protobuf: %w", err)
	}
	return dst, nil
}
