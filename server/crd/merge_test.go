package crd_test

import (
	"fmt"
	"strings"
	"testing"
)

const gadgetSpec = `{type: object, properties: {
  ports: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer}}}},
  tags: {type: array, x-kubernetes-list-type: set, items: {type: string}},
  size: {type: integer, x-kubernetes-validations: [{rule: "self >= oldSelf", messageExpression: "self < 10 ? 'cannot shrink below ten' : 'cannot shrink'"}]},
  free: {type: object, x-kubernetes-preserve-unknown-fields: true},
  code: {type: string, maxLength: 3},
  inner: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}`

const gadgetsPath = "/apis/example.com/v1/namespaces/default/gadgets"

func gadget(name, spec string) string {
	return fmt.Sprintf("apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: %s}\nspec: %s", name, spec)
}

// TestMerge: lists with keys and sets are merged by server-side apply, and conflicts found.
func TestMerge(t *testing.T) {
	w := start(t)
	w.define(gadgets(gadgetSpec))
	apply := func(code int, manager, spec string) answer {
		t.Helper()
		return w.must(code, "PATCH", gadgetsPath+"/g?fieldManager="+manager, gadget("g", spec), "Content-Type", "application/apply-patch+yaml")
	}
	apply(201, "one", "{ports: [{name: http, port: 80}], tags: [a]}")
	o := apply(200, "two", "{ports: [{name: dns, port: 53}], tags: [b]}")
	if fmt.Sprint(o.get("spec.ports")) != "[map[name:http port:80] map[name:dns port:53]]" || fmt.Sprint(o.get("spec.tags")) != "[a b]" {
		t.Errorf("merged %s", o.raw)
	}
	a := apply(409, "two", "{ports: [{name: http, port: 81}]}")
	if !strings.Contains(a.message(), `conflict with "one": .spec.ports[name="http"].port`) {
		t.Errorf("conflict %s", a.raw)
	}
	o = apply(200, "one", "{tags: [a]}")
	if fmt.Sprint(o.get("spec.ports")) != "[map[name:dns port:53]]" {
		t.Errorf("given up %s", o.raw)
	}
}

// TestRules: transition rules, list types, embedded objects, ratcheting.
func TestRules(t *testing.T) {
	w := start(t)
	w.define(gadgets(gadgetSpec))
	w.must(201, "POST", gadgetsPath, gadget("g", "{size: 3, code: abc, free: {x: {deep: 1}}, inner: {apiVersion: v1, kind: Secret, metadata: {name: s, bad: 1}, data: {}}}"))
	merge := []string{"Content-Type", "application/merge-patch+json"}
	for _, c := range []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"shrinking", "PATCH", gadgetsPath + "/g", `{"spec":{"size":2}}`, 422, "spec.size: Invalid value: 2: cannot shrink below ten"},
		{"growing", "PATCH", gadgetsPath + "/g", `{"spec":{"size":4}}`, 200, ""},
		{"twice in a set", "PATCH", gadgetsPath + "/g", `{"spec":{"tags":["a","a"]}}`, 422, `spec.tags[1]: Duplicate value: "a"`},
		{"twice in a map", "PATCH", gadgetsPath + "/g", `{"spec":{"ports":[{"name":"a"},{"name":"a"}]}}`, 422, `spec.ports[1]: Duplicate value: {"name":"a"}`},
		{"an embedded object without a kind", "PATCH", gadgetsPath + "/g", `{"spec":{"inner":{"kind":null}}}`, 422, "spec.inner.kind: Required value"},
		{"too long", "PATCH", gadgetsPath + "/g", `{"spec":{"code":"abcd"}}`, 422, "spec.code: Too long: may not be more than 3 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a := w.do(c.method, c.path, c.body, merge...); a.code != c.code || !strings.Contains(a.message(), c.want) {
				t.Errorf("%d %s\nwant %s", a.code, a.raw, c.want)
			}
		})
	}
	o := w.must(200, "GET", gadgetsPath+"/g", "")
	if o.get("spec.free.x.deep") != 1.0 || o.get("spec.inner.metadata.bad") != nil || o.get("spec.inner.metadata.name") != "s" {
		t.Errorf("kept %s", o.raw)
	}
	d := w.must(200, "PATCH", crdPath+"/gadgets.example.com", `[{"op":"replace","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/code/maxLength","value":2}]`,
		"Content-Type", "application/json-patch+json")
	w.until("gadgets.example.com", "the new schema", func(answer) bool {
		return w.do("POST", gadgetsPath+"?dryRun=All", gadget("new", "{code: abc}")).code == 422
	})
	if d.get("metadata.generation") != 2.0 {
		t.Errorf("generation %v", d.get("metadata.generation"))
	}
	w.must(200, "PATCH", gadgetsPath+"/g", `{"spec":{"size":5}}`, merge...) // code stays too long: it was before
}
