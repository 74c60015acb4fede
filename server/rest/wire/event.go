package wire

import (
	"encoding/binary"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"orch/server/registry"
)

// StreamType is the Content-Type of a watch.
func (m Media) StreamType() string {
	if m.Format == JSON {
		return jsonType
	}
	return m.Format.ContentType() + ";stream=watch"
}

// AppendEvent appends one frame of a watch: a line of JSON, or four bytes of
// length and a WatchEvent message.
func AppendEvent(dst []byte, m Media, e registry.Event) ([]byte, error) {
	if m.Format == Protobuf {
		return appendFrame(dst, e.Type, func(b []byte) ([]byte, error) { return AppendItem(b, m, e.Item) })
	}
	return appendLine(dst, e.Type, func(b []byte) ([]byte, error) {
		if m.Shape == Whole {
			return e.Item.AppendJSON(b)
		}
		data, err := json.Marshal(metadataOf(e.Item, m.Version))
		return append(b, data...), err
	})
}

// AppendObjectEvent appends a frame around an object that is in no cache: the
// Status of an ERROR, a table's row.
func AppendObjectEvent(dst []byte, m Media, t watch.EventType, o runtime.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	if m.Format == Protobuf {
		return appendFrame(dst, t, func(b []byte) ([]byte, error) { return AppendObject(b, Media{Format: Protobuf}, o, gvk) })
	}
	return appendLine(dst, t, func(b []byte) ([]byte, error) {
		o.GetObjectKind().SetGroupVersionKind(gvk)
		data, err := json.Marshal(o)
		return append(b, data...), err
	})
}

// StatusGVK is the kind of failures.
func StatusGVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Version: metav1.SchemeGroupVersion.Version, Kind: "Status"}
}

func appendLine(dst []byte, t watch.EventType, object func([]byte) ([]byte, error)) ([]byte, error) {
	dst = append(append(dst, `{"type":"`...), t...)
	dst, err := object(append(dst, `","object":`...))
	return append(dst, "}\n"...), err
}

// appendFrame writes the object first, behind room for the head, whose size it decides.
func appendFrame(dst []byte, t watch.EventType, object func([]byte) ([]byte, error)) ([]byte, error) {
	const lengths = 5 // most bytes of a length below 4 GiB
	start := len(dst)
	room := 4 + fieldSize(len(t)) + 2*(1+lengths)
	dst, err := object(append(dst, make([]byte, room)...))
	if err != nil {
		return dst[:start], err
	}
	n := len(dst) - start - room
	head := append(appendField(make([]byte, 0, 64), 1, len(t)), t...)
	head = appendField(head, 2, fieldSize(n)) // WatchEvent.object
	head = appendField(head, 1, n)            // RawExtension.raw
	binary.BigEndian.PutUint32(dst[start:], uint32(len(head)+n))
	copy(dst[start+4:], head)
	end := start + 4 + len(head)
	copy(dst[end:], dst[start+room:])
	return dst[:end+n], nil
}
