package crd_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// gadgets is a definition around a schema of the spec.
func gadgets(spec string) string {
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: gadgets, kind: Gadget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: %s}}}
`, spec)
}

// TestDefinitionsRefused: what is wrong with a schema, in upstream's words and at its place.
func TestDefinitionsRefused(t *testing.T) {
	w := start(t)
	const at = "spec.versions[0].schema.openAPIV3Schema.properties[spec]"
	for _, c := range []struct{ name, spec, want string }{
		{"no type", `{properties: {a: {}}}`, at + ".properties[a].type: Required value: must not be empty for specified object fields"},
		{"a type that is none", `{type: thing}`, at + `.type: Unsupported value: "thing"`},
		{"unique items", `{type: array, uniqueItems: true, items: {type: string}}`, at + ".uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"},
		{"both kinds of properties", `{type: object, properties: {a: {type: string}}, additionalProperties: {type: string}}`, at + ".additionalProperties: Forbidden: "},
		{"a reference", `{type: object, $ref: "#/x"}`, at + ".$ref: Forbidden: $ref is not supported"},
		{"a default of another type", `{type: object, properties: {a: {type: string, default: 1}}}`, at + ".properties[a].default: Invalid value"},
		{"an unknown default", `{type: object, default: {b: 1}, properties: {a: {type: string}}}`, at + ".default: Invalid value"},
		{"a map without keys", `{type: array, x-kubernetes-list-type: map, items: {type: object}}`, at + ".x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"},
		{"keys that may miss", `{type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k], items: {type: object, properties: {k: {type: string}}}}`,
			at + ".items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"},
		{"a rule that does not compile", `{type: object, properties: {a: {type: string}}, x-kubernetes-validations: [{rule: "self.b == 1"}]}`,
			at + `.x-kubernetes-validations[0].rule: Invalid value: {"rule":"self.b == 1"}: compilation failed`},
		{"a rule that is no condition", `{type: object, properties: {a: {type: string}}, x-kubernetes-validations: [{rule: "self.a"}]}`, "cel expression must evaluate to a bool"},
		{"a rule that costs too much", `{type: array, items: {type: array, items: {type: array, items: {type: string, x-kubernetes-validations: [{rule: "self.contains('x')"}]}}}}`,
			"estimated rule cost exceeds budget by factor of"},
		{"the past of what cannot be found again", `{type: array, maxItems: 3, items: {type: string, x-kubernetes-validations: [{rule: "self == oldSelf"}]}}`,
			"oldSelf cannot be used on the uncorrelatable portion of the schema within " + at},
		{"an empty rule", `{type: string, x-kubernetes-validations: [{rule: " "}]}`, at + ".x-kubernetes-validations[0].rule: Required value: rule is not specified"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := w.do("POST", crdPath+"?dryRun=All", gadgets(c.spec))
			if a.code != 422 || !strings.Contains(a.message(), c.want) {
				t.Errorf("%d %s\nwant %s", a.code, a.raw, c.want)
			}
		})
	}
	a := w.do("POST", crdPath, strings.ReplaceAll(gadgets("{type: object}"), "example.com", "things.k8s.io"))
	if a.code != 422 || !strings.Contains(a.message(), "protected groups must have approval annotation") {
		t.Errorf("a group of the community: %d %s", a.code, a.raw)
	}
}

// TestNamesInConflict: a name can be had once in a group, and is free again afterwards.
func TestNamesInConflict(t *testing.T) {
	w := start(t)
	w.define(gadgets("{type: object}"))
	w.must(201, "POST", crdPath, strings.NewReplacer("gadgets.example.com", "others.example.com", "plural: gadgets", "plural: others").Replace(gadgets("{type: object}")))
	d := w.until("others.example.com", "conditions", func(a answer) bool { s, _, _ := condition(a, "NamesAccepted"); return s != "" })
	if s, reason, m := condition(d, "NamesAccepted"); s != "False" || reason != "ListKindConflict" || m != `"GadgetList" is already in use` {
		t.Errorf("NamesAccepted %s %s %s", s, reason, m)
	}
	if s, reason, _ := condition(d, "Established"); s != "False" || reason != "NotAccepted" {
		t.Errorf("Established %s %s", s, reason)
	}
	w.must(200, "DELETE", crdPath+"/gadgets.example.com", "")
	w.until("others.example.com", "establishment", established)
}

// TestUpgrade: a second version comes, becomes the stored one, and the first one goes.
func TestUpgrade(t *testing.T) {
	w := start(t)
	def := gadgets(`{type: object, properties: {a: {type: string}}}`)
	w.define(def)
	v1, v2 := "/apis/example.com/v1/namespaces/default/gadgets", "/apis/example.com/v2/namespaces/default/gadgets"
	w.must(201, "POST", v1, "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: old}\nspec: {a: x}")
	change := func(f func(spec map[string]any)) {
		t.Helper()
		now := w.must(200, "GET", crdPath+"/gadgets.example.com", "")
		delete(now.body["metadata"].(map[string]any), "managedFields")
		f(now.body["spec"].(map[string]any))
		b, err := yaml.Marshal(now.body)
		if err != nil {
			t.Fatal(err)
		}
		w.must(200, "PUT", crdPath+"/gadgets.example.com", string(b))
	}
	change(func(spec map[string]any) {
		old := spec["versions"].([]any)[0].(map[string]any)
		old["storage"], old["deprecated"] = false, true
		var second map[string]any
		if err := yaml.Unmarshal([]byte(`{name: v2, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {a: {type: string}, b: {type: string, default: new}}}}}}}`), &second); err != nil {
			t.Fatal(err)
		}
		spec["versions"] = []any{old, second}
	})
	w.eventually("the second version", func() bool { return w.do("GET", v2+"/old", "").code == 200 })
	o := w.must(200, "GET", v2+"/old", "")
	if o.get("apiVersion") != "example.com/v2" || o.get("spec.a") != "x" || o.get("spec.b") != "new" {
		t.Errorf("the old object in the new version: %s", o.raw)
	}
	o = w.must(200, "GET", v1+"/old", "")
	if o.get("apiVersion") != "example.com/v1" || o.get("spec.b") != nil || len(o.warnings) != 1 || !strings.Contains(o.warnings[0], "example.com/v1 Gadget is deprecated; use example.com/v2 Gadget") {
		t.Errorf("the old object in the old version: %s, %v", o.raw, o.warnings)
	}
	w.must(201, "POST", v1, "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: young}\nspec: {a: why}")
	if o = w.must(200, "GET", v2+"/young", ""); o.get("spec.b") != "new" || o.get("metadata.managedFields.0.apiVersion") != "example.com/v1" {
		t.Errorf("made in the old version, seen in the new one: %s", o.raw)
	}
	w.must(200, "PATCH", v2+"/young?fieldManager=m", "apiVersion: example.com/v2\nkind: Gadget\nspec: {b: z}", "Content-Type", "application/apply-patch+yaml")
	if d := w.must(200, "GET", crdPath+"/gadgets.example.com", ""); fmt.Sprint(d.get("status.storedVersions")) != "[v1 v2]" {
		t.Errorf("stored versions %v", d.get("status.storedVersions"))
	}
	if g := w.must(200, "GET", "/apis/example.com", ""); g.get("preferredVersion.version") != "v2" {
		t.Errorf("preferred %s", g.raw)
	}
	change(func(spec map[string]any) { spec["versions"].([]any)[0].(map[string]any)["served"] = false })
	w.eventually("the end of the first version", func() bool { return w.do("GET", v1, "").code == 404 })
	if l := w.must(200, "GET", v2, ""); len(l.body["items"].([]any)) != 2 {
		t.Errorf("the list %s", l.raw)
	}
}
