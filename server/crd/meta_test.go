package crd

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	generated "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

var update = flag.Bool("update", false, "rewrite meta.json")

// TestMetaModels compares meta.json with upstream's generated definitions.
func TestMetaModels(t *testing.T) {
	all := generated.GetOpenAPIDefinitions(func(name string) spec.Ref { return spec.MustCreateRef(refV3 + name) })
	want := map[string]metaModel{}
	var add func(name string)
	add = func(name string) {
		d, ok := all[name]
		if _, seen := want[name]; !ok || seen {
			return
		}
		m := metaModel{Needs: d.Dependencies}
		if old, ok := d.Schema.Extensions[common.ExtensionV2Schema].(spec.Schema); ok {
			m.V2 = encoded(t, old)
		}
		delete(d.Schema.Extensions, common.ExtensionV2Schema)
		m.V3 = encoded(t, d.Schema)
		want[name] = m
		for _, n := range d.Dependencies {
			add(n)
		}
	}
	for _, n := range []string{"ObjectMeta", "ListMeta", "DeleteOptions", "Status", "Patch"} {
		add(metaPackage + n)
	}
	text, err := json.MarshalIndent(want, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if text = append(text, '\n'); *update {
		if err := os.WriteFile("meta.json", text, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(text, metaText) {
		t.Error("meta.json is not what upstream's definitions say: run go test ./server/crd -run TestMetaModels -update")
	}
	for _, ref := range []string{refV2, refV3} {
		for name, s := range metaModels(ref, "ObjectMeta", "ListMeta", "DeleteOptions", "Status", "Patch") {
			if s.Description == "" || strings.Contains(string(encoded(t, *s)), map[string]string{refV2: refV3, refV3: refV2}[ref]) {
				t.Errorf("%s with references to %s: %s", name, ref, encoded(t, *s))
			}
		}
	}
	if *update {
		return
	}
	have := metaModels(refV3, "ObjectMeta")[metaPackage+"ObjectMeta"]
	if d := all[metaPackage+"ObjectMeta"].Schema; !reflect.DeepEqual(encoded(t, *have), encoded(t, d)) {
		t.Errorf("ObjectMeta is read as\n%s\nnot\n%s", encoded(t, *have), encoded(t, d))
	}
}

func encoded(t *testing.T, s spec.Schema) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
