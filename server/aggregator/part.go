package aggregator

import (
	"encoding/json"
	"fmt"
	"strings"
)

const definitions = "#/definitions/"

// partOf cuts a document of version 2 down to the paths below root and the definitions
// that they need. Definitions that are the same in every server are left to the
// document that the part is added to.
func partOf(doc []byte, root string) ([]byte, error) {
	var all struct {
		Swagger     string                     `json:"swagger"`
		Info        json.RawMessage            `json:"info"`
		Paths       map[string]json.RawMessage `json:"paths"`
		Definitions map[string]json.RawMessage `json:"definitions"`
	}
	if err := json.Unmarshal(doc, &all); err != nil {
		return nil, fmt.Errorf("reading an OpenAPI document: %w", err)
	}
	paths, defs := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	var need func(part json.RawMessage) error
	need = func(part json.RawMessage) error {
		names, err := references(part)
		if err != nil {
			return err
		}
		for _, name := range names {
			if d, there := all.Definitions[name]; there && defs[name] == nil {
				defs[name] = d
				if err := need(d); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for path, item := range all.Paths {
		if path != root && !strings.HasPrefix(path, root+"/") {
			continue
		}
		paths[path] = item
		if err := need(item); err != nil {
			return nil, err
		}
	}
	return json.Marshal(map[string]any{"swagger": "2.0", "info": all.Info, "paths": paths, "definitions": defs})
}

// references lists the definitions that a part of a document refers to.
func references(part json.RawMessage) ([]string, error) {
	var v any
	if err := json.Unmarshal(part, &v); err != nil {
		return nil, fmt.Errorf("reading an OpenAPI document: %w", err)
	}
	var out []string
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, inner := range v {
				if name, ok := inner.(string); ok && key == "$ref" {
					if name, ok = strings.CutPrefix(name, definitions); ok {
						out = append(out, name)
					}
					continue
				}
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(v)
	return out, nil
}
