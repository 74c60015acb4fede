package crd_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// redefine gives the gadgets another schema of their spec, and waits until it counts.
func (w *world) redefine(spec string) {
	w.Helper()
	now := w.must(200, "GET", crdPath+"/gadgets.example.com", "")
	var want map[string]any
	if err := yaml.Unmarshal([]byte(gadgets(spec)), &want); err != nil {
		w.Fatal(err)
	}
	want["metadata"].(map[string]any)["resourceVersion"] = now.get("metadata.resourceVersion")
	b, err := yaml.Marshal(want)
	if err != nil {
		w.Fatal(err)
	}
	w.must(200, "PUT", crdPath+"/gadgets.example.com", string(b))
}

const mergePatch = "application/merge-patch+json"

// TestRulesRatchet: what was there before a rule came stays accepted as long as it is not
// touched; what changes has to keep to the rules.
func TestRulesRatchet(t *testing.T) {
	w := start(t)
	const loose = `{type: object, properties: {a: {type: integer}, b: {type: integer}, c: {type: string},
 list: {type: array, maxItems: 10, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [key], items: {type: object, required: [key], properties: {key: {type: string}, v: {type: integer}}}}}}`
	w.define(gadgets(loose))
	w.must(201, "POST", gadgetsPath, gadget("g", "{a: 5, b: 1, c: abcdef, list: [{key: one, v: 9}, {key: two, v: 1}]}"))
	strict := strings.NewReplacer("a: {type: integer}", "a: {type: integer, x-kubernetes-validations: [{rule: 'self < 3', message: 'a is too much'}]}",
		"c: {type: string}", "c: {type: string, maxLength: 3}",
		"v: {type: integer}", "v: {type: integer, x-kubernetes-validations: [{rule: 'self < 5', message: v is too much}]}").Replace(loose)
	w.redefine(strict)
	w.eventually("the rules", func() bool { return w.do("POST", gadgetsPath, gadget("h", "{a: 5}")).code == 422 })
	for _, tc := range []struct {
		patch string
		code  int
		says  string
	}{
		{`{"spec":{"b":2}}`, 200, ""},
		{`{"metadata":{"labels":{"l":"x"}}}`, 200, ""},
		{`{"spec":{"a":6}}`, 422, "spec.a: Invalid value: 6: a is too much"},
		{`{"spec":{"c":"abcdefg"}}`, 422, "spec.c: Too long: may not be more than 3 bytes"},
		{`{"spec":{"list":[{"key":"one","v":9},{"key":"two","v":2}]}}`, 200, ""},
		{`{"spec":{"list":[{"key":"one","v":8},{"key":"two","v":2}]}}`, 422, "spec.list[0].v: Invalid value: 8: v is too much"},
		{`{"spec":{"a":2,"c":"abc"}}`, 200, ""},
		{`{"spec":{"a":5}}`, 422, "a is too much"},
	} {
		if a := w.do("PATCH", gadgetsPath+"/g", tc.patch, "Content-Type", mergePatch); a.code != tc.code || !strings.Contains(a.message(), tc.says) {
			t.Errorf("%s: %d %s, want %d %s", tc.patch, a.code, a.raw, tc.code, tc.says)
		}
	}
}

// TestRulesSayWhereAndWhy: reason, fieldPath, and old values that may be missing.
func TestRulesSayWhereAndWhy(t *testing.T) {
	w := start(t)
	w.define(gadgets(`{type: object, properties: {a: {type: integer}, b: {type: string}}, x-kubernetes-validations: [
 {rule: 'self.a < 10', reason: FieldValueForbidden, fieldPath: .a, message: not that},
 {rule: '!oldSelf.hasValue() || self.b == oldSelf.value().b', optionalOldSelf: true, message: b is fixed}]}`))
	a := w.must(422, "POST", gadgetsPath, gadget("g", "{a: 10, b: x}"))
	if !strings.Contains(a.message(), "spec.a: Forbidden: not that") {
		t.Error(a.raw)
	}
	w.must(201, "POST", gadgetsPath, gadget("g", "{a: 1, b: x}"))
	if a = w.must(422, "PATCH", gadgetsPath+"/g", `{"spec":{"b":"y"}}`, "Content-Type", mergePatch); !strings.Contains(a.message(), "b is fixed") {
		t.Error(a.raw)
	}
}

// TestRulesAreBounded: dear ones are refused with the definition, and what turns out dear when
// it runs is cut off.
func TestRulesAreBounded(t *testing.T) {
	w := start(t)
	list := func(bound string) string {
		return gadgets(`{type: object, properties: {nums: {type: array, ` + bound + `items: {type: integer}, x-kubernetes-validations: [{rule: 'self.all(x, self.all(y, x + y >= 0))'}]}}}`)
	}
	if a := w.must(422, "POST", crdPath, list("")); !strings.Contains(a.message(), "estimated rule cost exceeds budget by factor of") {
		t.Error(a.raw)
	}
	w.define(list("maxItems: 700, "))
	numbers := strings.TrimSuffix(strings.Repeat("1, ", 700), ", ")
	a := w.must(422, "POST", gadgetsPath, gadget("g", fmt.Sprintf("{nums: [%s]}", numbers)))
	if !strings.Contains(a.message(), "cost") {
		t.Error(a.raw)
	}
	w.must(201, "POST", gadgetsPath, gadget("g", "{nums: [1, 2, 3]}"))
}
