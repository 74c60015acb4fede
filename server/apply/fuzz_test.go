package apply

import (
	"encoding/json"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
)

const podDocument = `{"metadata":{"name":"p","labels":{"a":"b"},"finalizers":["x/y"]},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP"}],"env":[{"name":"A","value":"1"}]}],"volumes":[{"name":"v","emptyDir":{}}],"tolerations":[{"key":"k"}]}}`

var patchTypes = []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType}

// FuzzPatch: a patch is refused, or makes a JSON document.
func FuzzPatch(f *testing.F) {
	for _, p := range []string{
		`[{"op":"add","path":"/metadata/labels/x~1y","value":"z"},{"op":"test","path":"/spec/containers/0/name","value":"c"}]`,
		`[{"op":"copy","from":"/spec/containers/-","path":"/spec/containers/0"},{"op":"move","from":"/spec","path":"/spec/x"},{"op":"remove","path":""}]`,
		`{"metadata":{"labels":null},"spec":{"containers":[]}}`,
		`{"spec":{"containers":[{"name":"c","image":"j"},{"name":"d","$patch":"delete"}],"$setElementOrder/containers":[{"name":"d"}],"$retainKeys":["containers"]}}`,
		`{"spec":{"volumes":[{"name":"v","$retainKeys":["hostPath","name"],"hostPath":{"path":"/"}}]},"metadata":{"$deleteFromPrimitiveList/finalizers":["x/y"]}}`,
		`{"$patch":"replace"}`,
	} {
		for i := range patchTypes {
			f.Add(uint8(i), podDocument, p)
		}
	}
	a := New(time.Now)
	f.Fuzz(func(t *testing.T, kind uint8, doc, patch string) {
		if !json.Valid([]byte(doc)) {
			return // documents are what the server encoded
		}
		out, err := a.Patch(patchTypes[int(kind)%len(patchTypes)], []byte(doc), []byte(patch), api.Pods.Facts)
		if err == nil && !json.Valid(out) {
			t.Errorf("%q on %q made %q", patch, doc, out)
		}
	})
}

// FuzzApply: what a manager wants is refused, or applied a second time without any change.
func FuzzApply(f *testing.F) {
	for _, s := range []string{
		"apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: b}}\nspec: {containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}",
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"volumes":[{"name":"v"}],"tolerations":[{},{}]}}`,
		"spec: &a\n  containers: [{name: c, env: [{name: A}, {name: A}]}]", "[]", "kind: Pod\nmetadata: {managedFields: [{}]}",
	} {
		f.Add([]byte(s))
	}
	a := New(func() time.Time { return time.Unix(1, 0) })
	by := Manager{api.Pods.Facts, "m", ""}
	f.Fuzz(func(t *testing.T, body []byte) {
		u, _, err := a.ParseIntent(body)
		if err != nil || u.GetAPIVersion() != "v1" || u.GetKind() != "Pod" {
			return // refused before it gets here
		}
		one, err := a.Apply(&core.Pod{}, u, by, false)
		if err != nil {
			return
		}
		two, err := a.Apply(one, u, by, false)
		if err != nil {
			t.Fatalf("the second time: %v", err)
		}
		x, _ := json.Marshal(one)
		y, _ := json.Marshal(two)
		if string(x) != string(y) {
			t.Errorf("once\n%s\ntwice\n%s", x, y)
		}
	})
}

// FuzzManagedFields: field sets that clients send are refused, or kept as they are.
func FuzzManagedFields(f *testing.F) {
	f.Add([]byte(`{"f:data":{".":{},"f:a":{}}}`))
	f.Add([]byte(`{"f:x":{"k:{\"name\":\"a\"}":{},"v:\"b\"":{},"i:3":{}}}`))
	a := New(func() time.Time { return time.Unix(1, 0) })
	f.Fuzz(func(t *testing.T, set []byte) {
		o := &core.ConfigMap{}
		if json.Unmarshal([]byte(`{"metadata":{"managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":`+string(set)+`}]},"data":{"a":"b"}}`), o) != nil {
			return
		}
		by := Manager{api.ConfigMaps.Facts, "n", ""}
		a.Create(o, by)
		next := o.DeepCopy()
		next.Data = map[string]string{"c": "d"}
		if err := a.Update(o, next, by); err != nil {
			t.Error(err)
		}
		if _, err := a.decodeAll(next.ManagedFields); err != nil {
			t.Errorf("what was written cannot be read: %v", err)
		}
	})
}
