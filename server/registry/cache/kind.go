package cache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	"orch/api"
)

// Kind is what the cache must know of a kind. Make one with NewKind.
type Kind struct {
	Facts *api.Facts
	// Fields gives the selectable fields beyond metadata.name and
	// metadata.namespace; nil if there are none.
	Fields func(o api.Object) fields.Set
	// FromStored makes an object of this kind out of a stored one; nil for kinds
	// that are stored as they are.
	FromStored func(o api.Object) (api.Object, error)
	// Convert is FromStored, which is nil then, for many at once, where it is slow and may
	// fail: by a webhook. Lists and watches call it aside; nobody else waits for it.
	Convert func(in []api.Object) ([]api.Object, error)
	// Loaded mends an object that was read from the store; nil: nothing to mend.
	Loaded func(o api.Object)
	// Sealer stands between encoded values and the store; nil: values lie as encoded.
	// Set before the cache holds the kind.
	Sealer Sealer

	flights    *flights // of Convert
	prefix     string
	jsonPrefix []byte // `{"kind":"Pod","apiVersion":"v1",`
	envelope   []byte // "k8s\0" and the type of a runtime.Unknown
	asJSON     bool   // stored as JSON
}

// Sealer encrypts what is stored. It may change its keys at any time.
type Sealer interface {
	// Write hands the sealed form of plain to commit. What was sealed with a key counts
	// as in use until commit has returned.
	Write(key string, plain []byte, commit func(sealed []byte) error) error
	// Open gives back what Write got; values from before anything was sealed are their own plain form.
	Open(key string, sealed []byte) ([]byte, error)
	// Stale tells whether Write would not seal so today: with another key, or not at all.
	Stale(sealed []byte) bool
}

// protoObject is what the generated protobuf code gives every built-in type.
type protoObject interface {
	Size() int
	MarshalToSizedBuffer(b []byte) (int, error)
	Unmarshal(b []byte) error
}

var protoMagic = []byte("k8s\x00")

// NewKind completes k.
func NewKind(k Kind) *Kind {
	f := k.Facts
	k.prefix = f.Prefix()
	k.flights = &flights{of: map[*Item]*flight{}}
	av := f.GroupVersion().String()
	if !f.Dynamic {
		k.jsonPrefix = fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, f.Kind, av)
		meta := appendBytesField(nil, 0x0a, []byte(av))
		meta = appendBytesField(meta, 0x12, []byte(f.Kind))
		k.envelope = appendBytesField(bytes.Clone(protoMagic), 0x0a, meta)
	}
	// Upstream serves custom resources and their definitions from a JSON codec.
	k.asJSON = f.Dynamic || f.Group == "apiextensions.k8s.io"
	return &k
}

func appendBytesField(dst []byte, tag byte, b []byte) []byte {
	dst = append(dst, tag)
	dst = appendVarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendVarint(dst []byte, v uint64) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

func varintLen(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}

// Encode lays o out as upstream does in etcd. o must have no resourceVersion and,
// for typed kinds, no kind and apiVersion.
func (k *Kind) Encode(o api.Object) ([]byte, error) {
	if k.asJSON {
		b, err := k.encodeJSON(o)
		if err == nil && !k.Facts.Dynamic {
			b = append(bytes.Clone(k.jsonPrefix), b[1:]...)
		}
		return b, err
	}
	return k.wrapProto(o)
}

// wrapProto encodes o as "k8s\0" and a runtime.Unknown in one allocation.
func (k *Kind) wrapProto(o api.Object) ([]byte, error) {
	m, ok := o.(protoObject)
	if !ok {
		return nil, fmt.Errorf("encoding %s: %T has no protobuf form", k.Facts.Kind, o)
	}
	n := m.Size()
	head := len(k.envelope) + 1 + varintLen(uint64(n))
	b := make([]byte, head+n+4)
	copy(b, k.envelope)
	appendVarint(append(b[:len(k.envelope)], 0x12), uint64(n))
	if _, err := m.MarshalToSizedBuffer(b[head : head+n]); err != nil {
		return nil, fmt.Errorf("encoding %s %s: %w", k.Facts.Kind, o.GetName(), err)
	}
	copy(b[head+n:], "\x1a\x00\x22\x00") // contentEncoding and contentType, empty as upstream writes them
	return b, nil
}

// AppendProto puts the envelope around a raw message, as a client gets a single object.
func (k *Kind) AppendProto(dst, raw []byte) []byte {
	dst = append(dst, k.envelope...)
	dst = appendBytesField(dst, 0x12, raw)
	return append(dst, "\x1a\x00\x22\x00"...)
}

// encodeJSON gives the object as it stands in a list.
func (k *Kind) encodeJSON(o api.Object) ([]byte, error) {
	var b []byte
	var err error
	if u, ok := o.(*unstructured.Unstructured); ok {
		b, err = encodeTree(u.Object)
	} else {
		b, err = json.Marshal(o)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding %s %s: %w", k.Facts.Kind, o.GetName(), err)
	}
	return b, nil
}

// appendJSON is encodeJSON into dst: it leaves no garbage of the object's size.
func (k *Kind) appendJSON(dst []byte, o api.Object) ([]byte, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		out, err := appendTree(dst, u.Object)
		if err != nil {
			return dst, fmt.Errorf("encoding %s %s: %w", k.Facts.Kind, o.GetName(), err)
		}
		return out, nil
	}
	out := appender(dst)
	if err := json.NewEncoder(&out).Encode(o); err != nil {
		return dst, fmt.Errorf("encoding %s %s: %w", k.Facts.Kind, o.GetName(), err)
	}
	return out[:len(out)-1], nil // without the end of the line
}

// appender is a writer at the end of a slice.
type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// Decode reads a stored value. The caller sets the resourceVersion.
func (k *Kind) Decode(b []byte) (api.Object, error) {
	o, err := k.decode(b)
	if err == nil && k.Loaded != nil {
		k.Loaded(o)
	}
	return o, err
}

func (k *Kind) decode(b []byte) (api.Object, error) {
	o := k.Facts.New()
	if u, ok := o.(*unstructured.Unstructured); ok {
		if err := kjson.UnmarshalCaseSensitivePreserveInts(b, &u.Object); err != nil {
			return nil, fmt.Errorf("decoding stored %s: %w", k.Facts.Kind, err)
		}
		return o, nil
	}
	if !bytes.HasPrefix(b, protoMagic) {
		return k.decodeJSON(b, o)
	}
	raw, err := k.unwrap(b)
	if err != nil {
		return nil, err
	}
	if err := o.(protoObject).Unmarshal(raw); err != nil {
		return nil, fmt.Errorf("decoding stored %s: %w", k.Facts.Kind, err)
	}
	return o, nil
}

func (k *Kind) decodeJSON(b []byte, o api.Object) (api.Object, error) {
	if err := kjson.UnmarshalCaseSensitivePreserveInts(b, o); err != nil {
		return nil, fmt.Errorf("decoding stored %s: %w", k.Facts.Kind, err)
	}
	gvk := o.GetObjectKind().GroupVersionKind()
	o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return o, k.checkType(gvk.GroupVersion().String(), gvk.Kind)
}

// unwrap gives the raw message inside the envelope; the common layout is read
// without parsing it field by field.
func (k *Kind) unwrap(b []byte) ([]byte, error) {
	if rest, ok := bytes.CutPrefix(b, k.envelope); ok && len(rest) > 0 && rest[0] == 0x12 {
		var n uint64
		for i := 1; i < len(rest) && i < 10; i++ {
			n |= uint64(rest[i]&0x7f) << (7 * (i - 1))
			if rest[i] < 0x80 {
				if uint64(len(rest)-i-1) < n {
					return nil, fmt.Errorf("decoding stored %s: value is cut off", k.Facts.Kind)
				}
				return rest[i+1 : i+1+int(n)], nil
			}
		}
	}
	var u runtime.Unknown
	if err := u.Unmarshal(b[len(protoMagic):]); err != nil {
		return nil, fmt.Errorf("decoding stored %s: %w", k.Facts.Kind, err)
	}
	return u.Raw, k.checkType(u.APIVersion, u.Kind)
}

func (k *Kind) checkType(apiVersion, kind string) error {
	if apiVersion != k.Facts.GroupVersion().String() || kind != k.Facts.Kind {
		return fmt.Errorf("decoding stored %s: the value is a %s of %s", k.Facts.Kind, kind, apiVersion)
	}
	return nil
}

// key is the part of an object's storage key behind the kind's prefix.
func (k *Kind) key(namespace, name string) string {
	if k.Facts.Cluster {
		return name
	}
	return namespace + "/" + name
}

// FormatRevision is a revision as a resourceVersion.
func FormatRevision(r int64) string { return strconv.FormatInt(r, 10) }
