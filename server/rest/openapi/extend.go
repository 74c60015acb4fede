package openapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
)

// extended is the base document of version 2 with the definitions and paths of another.
func extended(base, more Document) Document {
	if more.Open == nil {
		return base
	}
	hash := fmt.Sprintf("%X", sha256.Sum256([]byte(base.Hash+more.Hash)))
	return Document{Hash: hash, Open: func(protobuf bool) (io.ReadCloser, error) {
		b, err := base.Open(protobuf)
		if err != nil {
			return nil, err
		}
		m, err := more.Open(protobuf)
		if err != nil {
			b.Close()
			return nil, err
		}
		if protobuf { // two messages one after the other are one message
			return both{io.MultiReader(b, m), b, m}, nil
		}
		defer b.Close()
		defer m.Close()
		return spliced(b, m)
	}}
}

type both struct {
	io.Reader
	a, b io.Closer
}

func (r both) Close() error {
	r.a.Close()
	return r.b.Close()
}

// spliced puts the definitions and paths of more in front of those of base, as text: the
// base is not parsed.
func spliced(base, more io.Reader) (io.ReadCloser, error) {
	doc, err := io.ReadAll(base)
	if err != nil {
		return nil, err
	}
	var add struct{ Definitions, Paths json.RawMessage }
	if err := json.NewDecoder(more).Decode(&add); err != nil {
		return nil, fmt.Errorf("adding to the OpenAPI document: %w", err)
	}
	for key, part := range map[string]json.RawMessage{`"definitions":{`: add.Definitions, `"paths":{`: add.Paths} {
		at := bytes.Index(doc, []byte(key))
		if at < 0 {
			return nil, fmt.Errorf("adding to the OpenAPI document: it has no %s", key)
		}
		if part = bytes.TrimSpace(part); len(part) <= len("{}") {
			continue
		}
		at += len(key)
		doc = append(doc[:at:at], append(append(part[1:len(part)-1:len(part)-1], ','), doc[at:]...)...)
	}
	return io.NopCloser(bytes.NewReader(doc)), nil
}
