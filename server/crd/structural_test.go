package crd_test

import (
	"bytes"
	"strings"
	"testing"

	"orch/datastore"
	"orch/datastore/memory"
)

// TestNonStructuralSchema: a definition that was stored before schemas had to be structural
// says so, is served all the same, and is sound again once its schema is.
func TestNonStructuralSchema(t *testing.T) {
	store := memory.New()
	w := startOn(t, store)
	w.define(gadgets("{type: object, properties: {size: {type: integer}}}"))
	if s, _, _ := condition(w.must(200, "GET", crdPath+"/gadgets.example.com", ""), "NonStructuralSchema"); s != "" {
		t.Errorf("a schema that is structural: %s", s)
	}
	w.stop()
	page, err := store.List(t.Context(), datastore.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range page.KVs {
		if typed := []byte(`"size":{"type":"integer"}`); bytes.Contains(kv.Value, typed) {
			op := datastore.Op{Key: kv.Key, Value: bytes.ReplaceAll(kv.Value, typed, []byte(`"size":{}`)), Expect: kv.ModRevision}
			if _, err := store.Commit(t.Context(), datastore.Txn{Ops: []datastore.Op{op}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	w = startOn(t, store)
	d := w.until("gadgets.example.com", "the condition", func(a answer) bool { s, _, _ := condition(a, "NonStructuralSchema"); return s != "" })
	s, reason, message := condition(d, "NonStructuralSchema")
	if s != "True" || reason != "Violations" || !strings.Contains(message, "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[size].type: Required value: must not be empty for specified object fields") {
		t.Errorf("%s %s %s", s, reason, message)
	}
	w.must(201, "POST", "/apis/example.com/v1/namespaces/default/gadgets", "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: g}\nspec: {size: 1}\n")
	w.must(200, "PATCH", crdPath+"/gadgets.example.com", `[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size/type","value":"integer"}]`, "Content-Type", "application/json-patch+json")
	w.until("gadgets.example.com", "the end of the condition", func(a answer) bool { s, _, _ := condition(a, "NonStructuralSchema"); return s == "" })
}
