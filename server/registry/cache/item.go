package cache

import (
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
)

// Item is one version of one object, immutable and shared by everybody who reads
// it. Its encodings are made when first asked for and kept while the budget
// allows.
type Item struct {
	kind *Kind
	key  string // below the kind's prefix: namespace/name, or name
	obj  api.Object
	rev  int64
	size int // of the stored value, 0 if unknown

	budget *budget // nil: encodings are not kept
	json   atomic.Pointer[encoded]
	proto  atomic.Pointer[encoded]
	// protoSize of the raw message, 0 while unknown. A list must say its length before its first item.
	protoSize atomic.Int32
	// views are the same version as objects of other kinds (Facts.SameAs); stored is what a
	// view was made of.
	views  atomic.Pointer[[]*Item]
	stored *Item
	fields atomic.Pointer[fields.Set]
}

// NewItem wraps an object that is in no cache, such as the outcome of a dry run.
// The object must not be changed afterwards.
func NewItem(k *Kind, o api.Object, revision int64) *Item {
	return &Item{kind: k, key: k.key(o.GetNamespace(), o.GetName()), obj: o, rev: revision}
}

// Object is the decoded object. Do not change it. Typed objects carry no kind and
// apiVersion, as in a list.
func (i *Item) Object() api.Object { return i.obj }

// Facts says of which kind the object is.
func (i *Item) Facts() *api.Facts { return i.kind.Facts }

// Revision is the resourceVersion as a number; 0 for an object never stored.
func (i *Item) Revision() int64 { return i.rev }

// JSON is the object as it stands in a list: typed kinds without kind and
// apiVersion. Do not change it. Put JSONPrefix and JSON()[1:] together for the
// object alone.
func (i *Item) JSON() ([]byte, error) {
	return i.encoding(&i.json, i.kind.encodeJSON)
}

// JSONPrefix opens the object when it stands alone; nil for dynamic kinds, whose
// JSON is whole already.
func (i *Item) JSONPrefix() []byte { return i.kind.jsonPrefix }

// AppendJSON appends the object as it stands alone.
func (i *Item) AppendJSON(dst []byte) ([]byte, error) {
	b, err := i.JSON()
	if err != nil {
		return dst, err
	}
	if p := i.kind.jsonPrefix; p != nil {
		dst, b = append(dst, p...), b[1:]
	}
	return append(dst, b...), nil
}

// HasProto tells whether the kind has a protobuf form; custom resources have none.
func (i *Item) HasProto() bool { return i.kind.envelope != nil }

// Proto is the raw protobuf message, as it stands in a list. Do not change it.
func (i *Item) Proto() ([]byte, error) {
	return i.encoding(&i.proto, func(api.Object) ([]byte, error) {
		return i.marshal(make([]byte, 0, i.ProtoSize()))
	})
}

// ProtoSize is the length of the raw protobuf message.
func (i *Item) ProtoSize() int {
	if n := i.protoSize.Load(); n > 0 {
		return int(n)
	}
	n := i.obj.(protoObject).Size()
	i.protoSize.Store(int32(n)) // stored values are limited to a few MiB
	return n
}

// AppendListed appends the object as it stands in a list: raw protobuf, or JSON.
// With keep, an encoding that is made now stays for those who ask next; without, one
// that is there already is used all the same.
func (i *Item) AppendListed(dst []byte, proto, keep bool) ([]byte, error) {
	slot, encode := &i.json, i.JSON
	if proto {
		slot, encode = &i.proto, i.Proto
	}
	if b, ok := slot.Load().kept(); ok {
		return append(dst, b...), nil
	}
	if keep {
		b, err := encode()
		return append(dst, b...), err
	}
	if proto {
		return i.marshal(dst)
	}
	return i.kind.appendJSON(dst, i.obj)
}

func (i *Item) marshal(dst []byte) ([]byte, error) {
	n := i.ProtoSize()
	dst = slices.Grow(dst, n)
	end := len(dst) + n
	_, err := i.obj.(protoObject).MarshalToSizedBuffer(dst[len(dst):end])
	return dst[:end], err
}

// AppendProto appends the object as it stands alone: "k8s\0" and the envelope.
func (i *Item) AppendProto(dst []byte) ([]byte, error) {
	raw, err := i.Proto()
	if err != nil {
		return dst, err
	}
	return i.kind.AppendProto(dst, raw), nil
}

func (i *Item) encoding(p *atomic.Pointer[encoded], encode func(api.Object) ([]byte, error)) ([]byte, error) {
	if b, ok := p.Load().kept(); ok {
		return b, nil
	}
	b, err := encode(i.obj)
	if err != nil || i.budget == nil {
		return b, err
	}
	e := &encoded{size: len(b)}
	e.data.Store(&b)
	p.Store(e)
	i.budget.add(e)
	return b, nil
}

// fieldSet computes the selectable fields once.
func (i *Item) fieldSet() fields.Set {
	if s := i.fields.Load(); s != nil {
		return *s
	}
	s := i.kind.Fields(i.obj)
	i.fields.Store(&s)
	return s
}

// at is the same content under a later revision: what watchers see of an object
// that was deleted or left their selector.
func (i *Item) at(revision int64) *Item {
	o := shallow(i.obj)
	o.SetResourceVersion(FormatRevision(revision))
	return &Item{kind: i.kind, key: i.key, obj: o, rev: revision, size: i.size, budget: i.budget}
}

// shallow copies the outermost struct, so that its resourceVersion can be set;
// everything below is shared.
func shallow(o api.Object) api.Object {
	if u, ok := o.(*unstructured.Unstructured); ok {
		m := make(map[string]any, len(u.Object))
		for k, v := range u.Object {
			m[k] = v
		}
		if meta, ok := m["metadata"].(map[string]any); ok {
			c := make(map[string]any, len(meta)+1)
			for k, v := range meta {
				c[k] = v
			}
			m["metadata"] = c
		}
		return &unstructured.Unstructured{Object: m}
	}
	v := reflect.ValueOf(o).Elem()
	n := reflect.New(v.Type())
	n.Elem().Set(v)
	return n.Interface().(api.Object)
}

// encoded is one kept encoding. data becomes nil when the budget takes it back.
type encoded struct {
	data atomic.Pointer[[]byte]
	used atomic.Bool // asked for again since the budget last looked
	size int
}

// kept is the encoding, if it is still there, which counts as asking for it. A nil e has none.
func (e *encoded) kept() ([]byte, bool) {
	if e == nil {
		return nil, false
	}
	b := e.data.Load()
	if b == nil {
		return nil, false
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return *b, true
}

// budget bounds the bytes of kept encodings: first in, first out, with a second
// chance for what was asked for again.
type budget struct {
	limit     int
	converted converted

	mu    sync.Mutex
	total int
	queue []*encoded
	head  int
}

func (b *budget) add(e *encoded) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, e)
	b.total += e.size
	for b.total > b.limit && b.head < len(b.queue) {
		o := b.queue[b.head]
		b.queue[b.head] = nil
		b.head++
		if o.used.Swap(false) {
			b.queue = append(b.queue, o)
			continue
		}
		o.data.Store(nil)
		b.total -= o.size
	}
	if b.head > 1024 && b.head > len(b.queue)/2 {
		b.queue = append(b.queue[:0], b.queue[b.head:]...)
		b.head = 0
	}
}
