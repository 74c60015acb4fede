package expression

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// FuzzExpression: an expression of a policy is refused, or ends within its budget, soon.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{
		"object.metadata.labels.app == 'web' && object.spec.containers.all(c, c.image.startsWith('i'))",
		"variables.images.map(i, [i, i]).size() > params.most", "authorizer.group('').resource('pods').check('create').allowed()",
		"quantity(object.metadata.name).isGreaterThan(quantity('1'))", "'a'.matches('(a+)+$') || ip('::1').family() == 6 || semver('1.2.3').major() == 1",
		"Object{metadata: Object.metadata{labels: {'a': 'b'}}}", "[JSONPatch{op: 'add', path: '/a', value: {}}]", "optional.of(1).orValue(2) == 1",
		"format.dns1123Label().validate('a').value().size() > 0 || url('https://a/b?c').getQuery().size() > 0", "cel.bind(x, object, x.kind)",
		"[1, 2, 3].sortBy(x, -x) == duration('1h').getSeconds()", "'%d %s'.format([1, object])", "timestamp('2026-01-01T00:00:00Z').getFullYear() / 0", "",
	} {
		f.Add(s)
	}
	params := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "x.io/v1", "kind": "Limit", "most": int64(2)}}
	sc := Scope{Params: true, Authorizer: true, Variables: true, Patches: true}
	set := NewSet(New)
	set.Variable("images", "object.spec.containers.map(c, c.image)", sc)
	f.Fuzz(func(t *testing.T, text string) {
		begun := time.Now()
		x := set.Compile(text, sc)
		if x.Err == nil {
			run := set.Begin(podRequest(), Bindings{Params: params, Authorizer: oracle{"ada", "create", "pods//ns/p"}}, Budget)
			_, _ = run.Eval(t.Context(), x) // what it says of the object is its own affair
			if x.Type == nil {
				t.Error("neither an error nor a type")
			}
		}
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
