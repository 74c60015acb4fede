package apply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// mergePatch applies an RFC 7396 merge patch. doc is JSON that this process made, so
// what the patch does not name is copied, not parsed.
func mergePatch(doc, patch []byte) ([]byte, error) {
	if p := bytes.TrimSpace(patch); len(p) == 0 || p[0] != '{' {
		return nil, errors.New("error decoding patch: a merge patch must be a JSON object")
	}
	if !json.Valid(patch) {
		var v any
		return nil, fmt.Errorf("error decoding patch: %w", json.Unmarshal(patch, &v))
	}
	m := merger{out: make([]byte, 0, len(doc)+len(patch))}
	m.merge(doc, patch)
	return m.out, nil
}

type merger struct{ out []byte }

// merge appends doc (nil: nothing) changed by the object patch.
func (m *merger) merge(doc, patch []byte) {
	changes, order := membersOf(patch)
	m.out = append(m.out, '{')
	start := len(m.out)
	each(doc, func(rawKey, key, val []byte) {
		c, named := changes[string(key)]
		switch {
		case !named:
			m.member(start, rawKey)
			m.out = append(m.out, val...)
			return
		case isNull(c):
		case c[0] == '{':
			m.member(start, rawKey)
			m.merge(objectOrNil(val), c)
		default:
			m.member(start, rawKey)
			m.out = append(m.out, c...)
		}
		delete(changes, string(key))
	})
	for _, raw := range order {
		key := unquote(raw)
		c, left := changes[string(key)]
		if !left || isNull(c) {
			continue
		}
		delete(changes, string(key))
		m.member(start, raw)
		if c[0] == '{' {
			m.merge(nil, c)
		} else {
			m.out = append(m.out, c...)
		}
	}
	m.out = append(m.out, '}')
}

func (m *merger) member(start int, rawKey []byte) {
	if len(m.out) > start {
		m.out = append(m.out, ',')
	}
	m.out = append(m.out, rawKey...)
	m.out = append(m.out, ':')
}

func isNull(v []byte) bool { return v[0] == 'n' }

func objectOrNil(v []byte) []byte {
	if v[0] == '{' {
		return v
	}
	return nil
}

// membersOf maps the keys of an object to their values, and lists the keys as written.
func membersOf(obj []byte) (map[string][]byte, [][]byte) {
	out := map[string][]byte{}
	var order [][]byte
	each(obj, func(rawKey, key, val []byte) {
		out[string(key)] = val
		order = append(order, rawKey)
	})
	return out, order
}

// each walks the members of a valid JSON object.
func each(obj []byte, visit func(rawKey, key, val []byte)) {
	i := skipSpace(obj, 0)
	if i >= len(obj) {
		return
	}
	for i = skipSpace(obj, i+1); i < len(obj) && obj[i] != '}'; i = skipSpace(obj, i) {
		k := skipString(obj, i)
		raw := obj[i:k]
		v := skipSpace(obj, skipSpace(obj, k)+1) // behind the colon
		end := skipValue(obj, v)
		visit(raw, unquote(raw), obj[v:end])
		if i = skipSpace(obj, end); i < len(obj) && obj[i] == ',' {
			i++
		}
	}
}

func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	_ = json.Unmarshal(raw, &s) // valid JSON was checked
	return []byte(s)
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

func skipString(b []byte, i int) int {
	for i++; ; i++ {
		n := bytes.IndexAny(b[i:], "\"\\")
		if n < 0 {
			return len(b)
		}
		if i += n; b[i] == '"' {
			return i + 1
		}
		i++ // the escaped character
	}
}

// skipValue finds the end of the value that starts at i.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return i
	}
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] > ' ' {
		i++
	}
	return i
}
