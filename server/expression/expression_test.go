package expression

import (
	"context"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admission/v1"
	admission "k8s.io/api/admissionregistration/v1"
	authn "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// oracle allows one verb on one resource, to one user.
type oracle struct{ user, verb, resource string }

func (o oracle) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetUser().GetName() == o.user && a.GetVerb() == o.verb && a.GetResource()+"/"+a.GetSubresource()+"/"+a.GetNamespace()+"/"+a.GetName() == o.resource {
		return authorizer.DecisionAllow, "because", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func podRequest() *Request {
	pod := &core.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Labels: map[string]string{"app": "web"}},
		Spec:       core.PodSpec{NodeName: "n1", Containers: []core.Container{{Name: "c", Image: "i:1"}, {Name: "d", Image: "j:2"}}},
	}
	dry := true
	return &Request{
		Object: WithKind(pod, schema.GroupVersionKind{Version: "v1", Kind: "Pod"}),
		Admission: &admissionv1.AdmissionRequest{
			Name: "p", Namespace: "ns", Operation: admissionv1.Create, DryRun: &dry,
			Resource:        metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			RequestResource: &metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			UserInfo:        authn.UserInfo{Username: "ada", Groups: []string{"devs"}, Extra: map[string]authn.ExtraValue{"k": {"v"}}},
		},
	}
}

func TestEval(t *testing.T) {
	ns := &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"env": "prod"}}}
	params := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "x.io/v1", "kind": "Limit", "most": int64(2)}}
	sc := Scope{Params: true, Authorizer: true, Variables: true}
	for _, tc := range []struct{ name, text, fails string }{
		{"fields", `object.metadata.labels.app == 'web' && object.spec.containers.size() == 2`, ""},
		{"kind", `object.kind == 'Pod' && object.apiVersion == 'v1'`, ""},
		{"no old object", `oldObject == null`, ""},
		{"absent field", `!has(object.spec.hostNetwork)`, ""},
		{"request", `request.operation == 'CREATE' && request.userInfo.username == 'ada' && 'devs' in request.userInfo.groups && request.dryRun && request.resource.resource == 'pods'`, ""},
		{"extra", `request.userInfo.extra['k'][0] == 'v'`, ""},
		{"params", `object.spec.containers.size() <= params.most`, ""},
		{"namespace", `namespaceObject.metadata.labels['env'] == 'prod'`, ""},
		{"variables", `variables.images.all(i, i.matches('^[a-z]:[0-9]$')) && variables.count == 2`, ""},
		{"authorizer", `authorizer.group('').resource('pods').namespace('ns').name('p').check('create').allowed()`, ""},
		{"authorizer allows", `authorizer.requestResource.check('create').allowed() && authorizer.requestResource.check('create').reason() == 'because'`, ""},
		{"authorizer denies", `!authorizer.group('').resource('pods').subresource('status').namespace('ns').check('update').allowed()`, ""},
		{"service account", `!authorizer.serviceAccount('ns', 'x').requestResource.check('create').allowed()`, "compilation"},
		{"quantity", `quantity('2Gi').isGreaterThan(quantity('1Gi'))`, ""},
		{"ip and cidr", `cidr('10.0.0.0/8').containsIP(ip('10.1.2.3'))`, ""},
		{"url", `url('https://a.b:80/c').getHostname() == 'a.b'`, ""},
		{"regex", `'abc123'.find('[0-9]+') == '123'`, ""},
		{"format", `!format.dns1123Label().validate('web').hasValue()`, ""},
		{"semver", `semver('1.2.3').isLessThan(semver('1.3.0'))`, ""},
		{"sets", `sets.contains(['a', 'b'], ['a'])`, ""},
		{"lists", `[3, 1, 2].max() == 3 && [1, 2].sum() == 3`, ""},
		{"strings", `'A-B'.lowerAscii().split('-')[1] == 'b'`, ""},
		{"absent key", `object.spec.hostNetwork`, "resulted in error: no such key: hostNetwork"},
		{"expensive", `[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, [0,1,2,3,4,5,6,7,8,9].all(d, [0,1,2,3,4,5,6,7,8,9].all(e, [0,1,2,3,4,5,6,7,8,9].all(f, [0,1,2,3,4,5,6,7,8,9].all(g, a+b+c+d+e+f+g >= 0)))))))`, "operation cancelled: actual cost limit exceeded"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewSet(New)
			s.Variable("images", "object.spec.containers.map(c, c.image)", sc)
			s.Variable("count", "size(variables.images)", sc)
			x := s.Compile(tc.text, sc)
			run := s.Begin(podRequest(), Bindings{Params: params, Authorizer: oracle{"ada", "create", "pods//ns/p"}, Namespace: ns}, Budget)
			r, err := run.Eval(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case tc.fails != "":
				if r.Err == nil || !strings.Contains(r.Err.Error(), tc.fails) {
					t.Errorf("got %v, %v", r.Value, r.Err)
				}
			case r.Err != nil:
				t.Error(r.Err)
			case r.Value.Value() != true:
				t.Errorf("got %v", r.Value)
			}
		})
	}
}

func TestCompileErrors(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		sc         Scope
		says       string
	}{
		{"syntax", "1 +", Scope{}, "compilation failed: ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>'"},
		{"type", "'a'", Scope{}, "must evaluate to bool but got string"},
		{"no params", "params.x", Scope{}, "undeclared reference to 'params'"},
		{"no authorizer", "authorizer.requestResource.check('x').allowed()", Scope{}, "undeclared reference to 'authorizer'"},
		{"no such variable", "variables.x", Scope{Variables: true}, "undefined field 'x'"},
		{"variable's type", "variables.n", Scope{Variables: true}, "must evaluate to bool but got int"},
		{"no patches", "JSONPatch{op: 'add'}.op == 'add'", Scope{}, "undeclared reference to 'JSONPatch'"},
		{"request field", "request.nothing", Scope{}, "undefined field 'nothing'"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewSet(New)
			if tc.sc.Variables {
				s.Variable("n", "1", tc.sc)
			}
			x := s.Compile(tc.text, tc.sc, cel.BoolType)
			if x.Err == nil || !strings.Contains(x.Err.Error(), tc.says) {
				t.Errorf("got %v", x.Err)
			}
		})
	}
}

// TestBudgetCoversVariables: what variables cost is paid by the expression that names them.
func TestBudgetCoversVariables(t *testing.T) {
	sc := Scope{Variables: true}
	s := NewSet(New)
	s.Variable("list", "[1,2,3,4,5,6,7,8,9,10].map(x, x * 2)", sc)
	x := s.Compile("variables.list.size() > 0", sc, cel.BoolType)
	run := s.Begin(podRequest(), Bindings{}, 20)
	if _, err := run.Eval(t.Context(), x); err == nil || err.Error() != "validation failed due to running out of cost budget, no further validation rules will be run" {
		t.Fatalf("got %v", err)
	}
	run = s.Begin(podRequest(), Bindings{}, Budget)
	for range 2 { // the second time the variable is there
		if r, err := run.Eval(t.Context(), x); err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
	}
}

func TestConditions(t *testing.T) {
	m := func(texts ...string) []admission.MatchCondition {
		var out []admission.MatchCondition
		for i, s := range texts {
			out = append(out, admission.MatchCondition{Name: string(rune('a' + i)), Expression: s})
		}
		return out
	}
	for _, tc := range []struct {
		name    string
		list    []admission.MatchCondition
		failure admission.FailurePolicyType
		ok      bool
		no      string
		fails   bool
	}{
		{"none", nil, admission.Fail, true, "", false},
		{"all", m("true", "object.spec.nodeName == 'n1'"), admission.Fail, true, "", false},
		{"one says no", m("true", "false"), admission.Fail, false, "b", false},
		{"no beats error", m("object.nothing == 1", "false"), admission.Fail, false, "b", false},
		{"error fails", m("object.nothing == 1"), admission.Fail, false, "", true},
		{"error ignored", m("object.nothing == 1"), admission.Ignore, false, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := NewSet(Stored).Conditions(tc.list, ConditionScope)
			m, err := c.Match(t.Context(), podRequest(), Bindings{Authorizer: oracle{}}, tc.failure)
			ok, no := m.OK, m.No
			if ok != tc.ok || no != tc.no || (err != nil) != tc.fails {
				t.Errorf("got %v %q %v", ok, no, err)
			}
		})
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := NewCache[int, int](3)
	made := 0
	get := func(k int) int { return c.Get(k, func() int { made++; return k * 10 }) }
	for _, k := range []int{1, 2, 3, 1, 4, 1} { // 4 pushes 2 out, which was asked for longest ago
		if got := get(k); got != k*10 {
			t.Fatal(got)
		}
	}
	if made != 4 {
		t.Errorf("made %d", made)
	}
	get(2)
	if made != 5 || c.Len() != 3 {
		t.Errorf("made %d, holds %d", made, c.Len())
	}
}

func BenchmarkEval(b *testing.B) {
	sc := Scope{Authorizer: true, Variables: true}
	s := NewSet(Stored)
	x := s.Compile("object.spec.containers.all(c, c.image.contains(':'))", sc, cel.BoolType)
	q := podRequest()
	b.ReportAllocs()
	for b.Loop() {
		one := *q
		if r, err := s.Begin(&one, Bindings{}, Budget).Eval(b.Context(), x); err != nil || r.Err != nil {
			b.Fatal(err, r.Err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	sc := Scope{Authorizer: true, Variables: true}
	b.ReportAllocs()
	for b.Loop() {
		s := NewSet(Stored)
		s.Variable("images", "object.spec.containers.map(c, c.image)", sc)
		if x := s.Compile("variables.images.all(i, i.contains(':'))", sc, cel.BoolType); x.Err != nil {
			b.Fatal(x.Err)
		}
	}
}
