package wire

import (
	"encoding/json"
	"io"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/server/registry"
)

// chunk is how many bytes of a long list are put together for one write.
const chunk = 256 << 10

// WriteList writes a list of a kind's items: a head and the items' kept bytes one
// after another; nothing is encoded anew but what a bulky list keeps no bytes of. scratch is a buffer to work in, of any size; it
// is handed back grown, for the next list.
func WriteList(w io.Writer, scratch []byte, m Media, f *api.Facts, l *registry.List) ([]byte, error) {
	gvk, part := f.ListGVK(), listedJSON(!l.Bulky)
	if m.Shape == Metadata {
		gvk, part = metadataGVK("PartialObjectMetadataList", m.Version), metadataItem(m)
	}
	switch {
	case m.Format == Protobuf:
		return writeProtobuf(w, scratch, m, gvk, l)
	case m.Format == JSON && !m.Pretty:
		return writeJSON(w, scratch, gvk, l, part)
	}
	var whole collector
	if _, err := writeJSON(&whole, nil, gvk, l, part); err != nil {
		return scratch, err
	}
	out, err := appendText(scratch[:0], m, whole)
	if err != nil {
		return scratch, err
	}
	_, err = w.Write(out)
	return out, err
}

// collector is a writer into memory.
type collector []byte

func (c *collector) Write(b []byte) (int, error) {
	*c = append(*c, b...)
	return len(b), nil
}

func listedJSON(keep bool) func([]byte, *registry.Item) ([]byte, error) {
	return func(dst []byte, i *registry.Item) ([]byte, error) { return i.AppendListed(dst, false, keep) }
}

func metadataItem(m Media) func([]byte, *registry.Item) ([]byte, error) {
	return func(dst []byte, i *registry.Item) ([]byte, error) {
		data, err := json.Marshal(metadataOf(i, m.Version))
		return append(dst, data...), err
	}
}

func writeJSON(w io.Writer, buf []byte, gvk schema.GroupVersionKind, l *registry.List, part func([]byte, *registry.Item) ([]byte, error)) ([]byte, error) {
	buf = appendListHead(buf[:0], gvk, l)
	var err error
	for n, item := range l.Items {
		if n > 0 {
			buf = append(buf, ',')
		}
		if buf, err = part(buf, item); err != nil {
			return buf, err
		}
		if len(buf) >= chunk {
			if _, err = w.Write(buf); err != nil {
				return buf, err
			}
			buf = buf[:0]
		}
	}
	buf = append(buf, "]}\n"...)
	_, err = w.Write(buf)
	return buf, err
}

func appendListHead(b []byte, gvk schema.GroupVersionKind, l *registry.List) []byte {
	b = append(append(b, `{"kind":"`...), gvk.Kind...)
	b = append(append(b, `","apiVersion":"`...), gvk.GroupVersion().String()...)
	b = append(append(b, `","metadata":{"resourceVersion":"`...), l.ResourceVersion...)
	b = append(b, '"')
	if l.Continue != "" {
		b = append(append(append(b, `,"continue":"`...), l.Continue...), '"') // base64: nothing to escape
	}
	if l.Remaining != nil {
		b = strconv.AppendInt(append(b, `,"remainingItemCount":`...), *l.Remaining, 10)
	}
	return append(b, `},"items":[`...)
}

// writeProtobuf frames by hand what every generated list is: metadata as field 1,
// items as field 2.
func writeProtobuf(w io.Writer, buf []byte, m Media, gvk schema.GroupVersionKind, l *registry.List) ([]byte, error) {
	size := (*registry.Item).ProtoSize
	part := func(dst []byte, i *registry.Item) ([]byte, error) {
		return i.AppendListed(appendField(dst, 2, i.ProtoSize()), true, !l.Bulky)
	}
	if m.Shape == Metadata {
		size = func(i *registry.Item) int { return metadataOf(i, m.Version).Size() }
		part = func(dst []byte, i *registry.Item) ([]byte, error) {
			o := metadataOf(i, m.Version)
			n := o.Size()
			return appendMessage(appendField(dst, 2, n), o, n)
		}
	}
	head := metav1.ListMeta{ResourceVersion: l.ResourceVersion, Continue: l.Continue, RemainingItemCount: l.Remaining}
	headSize := head.Size()
	total := fieldSize(headSize)
	for _, item := range l.Items {
		total += fieldSize(size(item))
	}
	buf = appendField(appendEnvelope(buf[:0], gvk, total), 1, headSize)
	buf, err := appendMessage(buf, &head, headSize)
	if err != nil {
		return buf, err
	}
	for _, item := range l.Items {
		if buf, err = part(buf, item); err != nil {
			return buf, err
		}
		if len(buf) >= chunk {
			if _, err := w.Write(buf); err != nil {
				return buf, err
			}
			buf = buf[:0]
		}
	}
	_, err = w.Write(append(buf, envelopeEnd...))
	return buf, err
}
