package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

const (
	definitionRef = "#/definitions/"
	kindsOf       = "x-kubernetes-group-version-kind"
)

// joined is the document of version 2 with those of other servers. Definitions that
// are the same in both are left out, others of the same name get another one.
func (d *Documents) joined(doc Document, more []Document) Document {
	for _, m := range more {
		base := doc
		part := Document{Hash: m.Hash}
		work := sync.OnceValues(func() ([]byte, error) { return d.fitted(base, m) })
		part.Open = func(protobuf bool) (io.ReadCloser, error) {
			data, err := work()
			if err == nil && protobuf {
				data, err = messageV2(data)
			}
			if err != nil {
				return nil, err
			}
			return io.NopCloser(bytes.NewReader(data)), nil
		}
		doc = extended(base, part)
	}
	return doc
}

// fittings keeps what was worked out for the documents that are there now.
type fittings struct {
	mu   sync.Mutex
	made map[string][]byte // by the hashes of both documents; guarded by mu
}

// maxFittings bounds what is kept; beyond, all is worked out anew.
const maxFittings = 64

// fitted works an addition out, once for each pair of documents.
func (d *Documents) fitted(base, more Document) ([]byte, error) {
	key := base.Hash + more.Hash
	d.fittings.mu.Lock()
	defer d.fittings.mu.Unlock()
	if data, ok := d.fittings.made[key]; ok {
		return data, nil
	}
	data, err := fit(base, more)
	if err != nil {
		return nil, fmt.Errorf("adding the OpenAPI document of another server: %w", err)
	}
	if d.fittings.made == nil || len(d.fittings.made) >= maxFittings {
		d.fittings.made = map[string][]byte{}
	}
	d.fittings.made[key] = data
	return data, nil
}

func fit(base, more Document) ([]byte, error) {
	var have struct{ Definitions map[string]json.RawMessage }
	var add struct {
		Swagger, Info, Paths json.RawMessage
		Definitions          map[string]json.RawMessage
	}
	for _, part := range []struct {
		doc  Document
		into any
	}{{base, &have}, {more, &add}} {
		r, err := part.doc.Open(false)
		if err != nil {
			return nil, err
		}
		err = json.NewDecoder(r).Decode(part.into)
		r.Close()
		if err != nil {
			return nil, err
		}
	}
	names := map[string]string{}
	for name, theirs := range add.Definitions {
		ours, there := have.Definitions[name]
		if !there {
			continue
		}
		same, err := equalDefinitions(ours, theirs)
		if err != nil {
			return nil, err
		}
		if same {
			delete(add.Definitions, name)
			continue
		}
		for n := 2; ; n++ {
			other := fmt.Sprintf("%s_v%d", name, n)
			if have.Definitions[other] == nil && add.Definitions[other] == nil {
				names[name] = other
				break
			}
		}
	}
	definitions := map[string]json.RawMessage{}
	for name, def := range add.Definitions {
		if other := names[name]; other != "" {
			name = other
		}
		definitions[name] = def
	}
	data, err := json.Marshal(map[string]any{"swagger": "2.0", "info": add.Info, "paths": add.Paths, "definitions": definitions})
	for name, other := range names {
		data = bytes.ReplaceAll(data, []byte(`"`+definitionRef+name+`"`), []byte(`"`+definitionRef+other+`"`))
	}
	return data, err
}

// equalDefinitions compares what two servers say of a type; which kinds it is used as
// differs from server to server.
func equalDefinitions(a, b json.RawMessage) (bool, error) {
	if bytes.Equal(a, b) {
		return true, nil
	}
	var x, y map[string]any
	if err := json.Unmarshal(a, &x); err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, &y); err != nil {
		return false, err
	}
	for _, m := range []map[string]any{x, y} {
		delete(m, kindsOf)
		withoutWords(m)
	}
	return reflect.DeepEqual(x, y), nil
}

// withoutWords drops descriptions: those of another release are no other type.
func withoutWords(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, text := v["description"].(string); text {
			delete(v, "description")
		}
		for key, inner := range v {
			if strings.HasPrefix(key, "x-") {
				continue
			}
			withoutWords(inner)
		}
	case []any:
		for _, inner := range v {
			withoutWords(inner)
		}
	}
}

// messageV2 is the part as a message that may follow another.
func messageV2(data []byte) ([]byte, error) {
	d, err := openapiv2.ParseDocument(data)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&openapiv2.Document{Definitions: d.Definitions, Paths: d.Paths})
}
