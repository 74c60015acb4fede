package crd

import (
	_ "embed"
	"encoding/json"
	"strings"
	"sync"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// metaText has the schemas of the types of meta/v1 that custom resources are made of and
// answered with. TestMetaModels makes it from upstream's generated code, which itself is 1.2 MB of program.
//
//go:embed meta.json
var metaText []byte

// metaModel is one type of meta/v1 as documents show it.
type metaModel struct {
	// V2 is what version 2 of the documents says where it differs from version 3.
	V3 json.RawMessage `json:"v3"`
	V2 json.RawMessage `json:"v2,omitempty"`
	// Needs are the names of the types that it is made of.
	Needs []string `json:"needs,omitempty"`
}

var readMeta = sync.OnceValues(func() (map[string]metaModel, error) {
	var all map[string]metaModel
	err := json.Unmarshal(metaText, &all)
	return all, err
})

// metaModels are the schemas of the types of meta/v1 named, and of what they are made of.
// References in them point to ref.
func metaModels(ref string, names ...string) map[string]*spec.Schema {
	all, err := readMeta()
	if err != nil {
		panic("crd: meta.json is no JSON: " + err.Error()) // embedded and tested
	}
	out := map[string]*spec.Schema{}
	var add func(name string)
	add = func(name string) {
		m, ok := all[name]
		if !ok || out[name] != nil {
			return
		}
		text := m.V3
		if ref == refV2 && m.V2 != nil {
			text = m.V2
		}
		s := new(spec.Schema)
		if err := json.Unmarshal([]byte(strings.ReplaceAll(string(text), refV3, ref)), s); err != nil {
			panic("crd: " + name + " in meta.json is no schema: " + err.Error())
		}
		out[name] = s
		for _, n := range m.Needs {
			add(n)
		}
	}
	for _, n := range names {
		add(metaPackage + n)
	}
	return out
}
