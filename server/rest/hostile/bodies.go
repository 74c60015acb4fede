package hostile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"strings"
)

// body draws a body for the method, nil for none.
func (m maker) body(method string) (body []byte, contentType string) {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "get":
		if !m.in(10) {
			return nil, ""
		}
	case "PATCH":
		contentType = pick(m, patchTypes)
		if m.in(10) {
			contentType = pick(m, contentTypes)
		}
		if m.in(40) {
			return m.monster(), contentType
		}
		if m.in(4) {
			return m.damage([]byte(pick(m, objects))), contentType
		}
		return m.damage([]byte(pick(m, patches))), contentType
	}
	contentType = pick(m, contentTypes)
	if m.in(40) {
		return m.monster(), contentType
	}
	b := []byte(pick(m, objects))
	if strings.HasPrefix(contentType, "application/vnd.kubernetes.protobuf") {
		b = m.protobuf()
	}
	if strings.Contains(contentType, "cbor") && m.in(2) {
		b = append([]byte{0xd9, 0xd9, 0xf7}, b...)
	}
	return m.damage(b), contentType
}

// damage changes some bytes, or leaves the body alone.
func (m maker) damage(b []byte) []byte {
	if len(b) == 0 {
		return b
	}
	switch m.IntN(8) {
	case 0:
		b[m.IntN(len(b))] = byte(m.IntN(256))
	case 1:
		return b[:m.IntN(len(b))]
	case 2:
		i := m.IntN(len(b))
		return append(b[:i:i], append([]byte(pick(m, splinters)), b[i:]...)...)
	case 3:
		return []byte(strings.Replace(string(b), pick(m, []string{`"name"`, `"spec"`, `"v"`, `1`, `"c"`, `{}`, `metadata`}), pick(m, splinters), 1))
	case 4:
		return append(b, b...)
	}
	return b
}

var splinters = []string{
	`null`, `[]`, `{}`, `{"a":{}}`, `1e999999`, `-0`, `18446744073709551616`, `0.1`, `"\ud800"`, "\"\xff\xfe\"", `"\u0000"`, `true`, `"a":1,"a":2,`, ` `, "\x00", `/*`, "\n---\n", "&a [*a]", "!!binary x", "<<: *x", `"` + strings.Repeat("n", 300) + `"`,
	`"99999999999999999999Ei"`, `"-1m"`, `"0001-01-01T00:00:00Z"`, `"999999-01-01T00:00:00Z"`,
}

// protobuf is an envelope with something in it.
func (m maker) protobuf() []byte {
	field := func(n byte, b []byte) []byte {
		return append(binary.AppendUvarint([]byte{n<<3 | 2}, uint64(len(b))), b...)
	}
	kind := append(field(1, []byte("v1")), field(2, []byte(pick(m, []string{"ConfigMap", "Pod", "Secret", "DeleteOptions", "X"})))...)
	meta := field(1, []byte("pb"))
	object := field(1, meta)
	if m.in(2) {
		object = make([]byte, m.IntN(200))
		for i := range object {
			object[i] = byte(m.IntN(256))
		}
	}
	return append([]byte("k8s\x00"), append(field(1, kind), field(2, object)...)...)
}

// monster is a body that is meant to cost much.
func (m maker) monster() []byte {
	const deep = 100_000
	switch m.IntN(16) {
	case 0:
		return []byte(strings.Repeat(`{"a":`, deep))
	case 1:
		return []byte(`{"metadata":{"name":"a"},"data":` + strings.Repeat(`[`, deep) + strings.Repeat(`]`, deep) + `}`)
	case 2:
		return []byte(strings.Repeat(`{"spec":`, deep) + "1" + strings.Repeat(`}`, deep))
	case 3:
		return aliasBomb()
	case 4:
		return []byte("a: " + strings.Repeat("[", deep))
	case 5:
		return []byte(manyOperations(10_000, `{"op":"add","path":"/metadata/annotations/k%d","value":"v"}`))
	case 6:
		return []byte(manyOperations(10_000, `{"op":"add","path":"/data/k%d","value":"v"}`))
	case 7: // each copies everything that is there
		return []byte(manyOperations(60, `{"op":"copy","from":"/metadata","path":"/metadata/x%d"}`))
	case 8:
		return zipped(bytes.Repeat([]byte(`{"data":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`), 1<<18))
	case 9:
		return []byte(`{"metadata":{"name":"a"},"data":{"k":"` + strings.Repeat("x", 4<<20) + `"}}`)
	case 10:
		return []byte(`{"metadata":{"name":"a","labels":{` + strings.Repeat(`"a":"b",`, 100_000) + `"c":"d"}}}`)
	case 11:
		return []byte(strings.Repeat("- ", deep))
	case 12:
		return []byte(strings.Repeat("a:\n ", 20_000))
	case 13:
		return []byte(`{"metadata":{"name":"` + strings.Repeat("n", 1<<20) + `"}}`)
	case 14:
		return []byte(`{"spec":{"replicas":` + strings.Repeat("9", 1<<20) + `}}`)
	}
	return append([]byte{0xd9, 0xd9, 0xf7}, bytes.Repeat([]byte{0x81}, deep)...) // lists in lists
}

// aliasBomb grows ninefold with each line.
func aliasBomb() []byte {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := range 12 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 9))
	}
	return []byte(b.String())
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b) // into memory: cannot fail
	_ = w.Close()
	return out.Bytes()
}
