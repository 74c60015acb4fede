package cache

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
)

// treeWriter writes the tree of maps and lists that a custom resource is, byte for byte
// as encoding/json does, which asks reflection about every value and boxes every key.
type treeWriter struct {
	out []byte
	// keys of the maps that are being written, the innermost last.
	keys []string
}

var treeWriters = sync.Pool{New: func() any { return &treeWriter{} }}

// mostKept bounds what a pooled writer holds on to.
const mostKept = 1 << 20

// appendTree appends the JSON of a map to dst.
func appendTree(dst []byte, m map[string]any) ([]byte, error) {
	w := treeWriters.Get().(*treeWriter)
	own := w.out
	w.out = dst
	err := w.object(m)
	dst, w.out = w.out, own
	w.release()
	return dst, err
}

// encodeTree gives the JSON of a map in a slice of its size.
func encodeTree(m map[string]any) ([]byte, error) {
	w := treeWriters.Get().(*treeWriter)
	w.out = w.out[:0]
	err := w.object(m)
	b := slices.Clone(w.out)
	w.release()
	return b, err
}

func (w *treeWriter) release() {
	clear(w.keys[:cap(w.keys)])
	w.keys = w.keys[:0]
	if cap(w.out) <= mostKept {
		treeWriters.Put(w)
	}
}

func (w *treeWriter) value(v any) error {
	switch v := v.(type) {
	case nil:
		w.out = append(w.out, "null"...)
	case bool:
		w.out = strconv.AppendBool(w.out, v)
	case int64:
		w.out = strconv.AppendInt(w.out, v, 10)
	case string:
		w.string(v)
	case map[string]any:
		return w.object(v)
	case []any:
		return w.list(v)
	default: // floats, and what code in this process puts in
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encoding a %T: %w", v, err)
		}
		w.out = append(w.out, b...)
	}
	return nil
}

func (w *treeWriter) object(m map[string]any) error {
	if m == nil {
		w.out = append(w.out, "null"...)
		return nil
	}
	from := len(w.keys)
	for k := range m {
		w.keys = append(w.keys, k)
	}
	keys := w.keys[from:]
	slices.Sort(keys)
	w.out = append(w.out, '{')
	for i, k := range keys {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		w.string(k)
		w.out = append(w.out, ':')
		if err := w.value(m[k]); err != nil {
			return err
		}
	}
	w.out = append(w.out, '}')
	w.keys = w.keys[:from]
	return nil
}

func (w *treeWriter) list(l []any) error {
	if l == nil {
		w.out = append(w.out, "null"...)
		return nil
	}
	w.out = append(w.out, '[')
	for i, v := range l {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		if err := w.value(v); err != nil {
			return err
		}
	}
	w.out = append(w.out, ']')
	return nil
}

func (w *treeWriter) string(s string) {
	for i := range len(s) {
		if !plain[s[i]] {
			b, _ := json.Marshal(s) // a string always has a form
			w.out = append(w.out, b...)
			return
		}
	}
	w.out = append(append(append(w.out, '"'), s...), '"')
}

// plain are the bytes that stand for themselves in a string.
var plain = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = true
	}
	for _, c := range `"\<>&` {
		t[c] = false
	}
	return t
}()
