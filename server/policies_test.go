package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/datastore/memory"
	"orch/server/registry"
)

const (
	vapPath  = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
	vapbPath = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
	mapPath  = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies"
	mapbPath = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings"
	crdPath  = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
)

const forConfigMaps = `"matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"],"operations":["*"]}]}`

// policyBody is a policy for ConfigMaps, unless spec has constraints of its own; bindingBody binds it.
func policyBody(name, spec string) string {
	if !strings.Contains(spec, "matchConstraints") {
		spec += "," + forConfigMaps
	}
	return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{%s}}`, name, spec)
}

func bindingBody(policy, spec string) string {
	return fmt.Sprintf(`{"metadata":{"name":"%s-b"},"spec":{"policyName":%q%s}}`, policy, policy, spec)
}

func governed(t *testing.T) *caller {
	t.Helper()
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", api.GroupMasters)
	setUp(t, admin, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"a","labels":{"env":"prod"}}}`}, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"b"}}`})
	return admin
}

const cms = "/api/v1/namespaces/a/configmaps"

// TestValidatingPolicy: one policy at a time against the same few requests.
func TestValidatingPolicy(t *testing.T) {
	admin := governed(t)
	setUp(t, admin,
		[2]string{crdPath, `{"metadata":{"name":"limits.x.io"},"spec":{"group":"x.io","scope":"Namespaced","names":{"plural":"limits","singular":"limit","kind":"Limit"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"most":{"type":"integer"}}}}}]}}`})
	waitFor(t, "the custom resource is served", func() bool {
		code, _ := admin.do("POST", "/apis/x.io/v1/namespaces/a/limits", `{"apiVersion":"x.io/v1","kind":"Limit","metadata":{"name":"l","labels":{"k":"v"}},"most":2}`)
		return code == 201 || code == 409
	})
	const deny = `,"validationActions":["Deny"]`
	for _, tc := range []struct {
		name, spec, binding string
		code                int // of a create of a ConfigMap with data x=1, y=2, z=3
		says                string
	}{
		{"holds", `"validations":[{"expression":"object.data.size() == 3"}]`, deny, 201, ""},
		{"expression", `"validations":[{"expression":"object.data.size() < 3"}]`, deny, 422, `configmaps "c" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-b' denied request: failed expression: object.data.size() < 3`},
		{"message", `"validations":[{"expression":"false","message":" too much ","reason":"Forbidden"}]`, deny, 403, `configmaps "c" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-b' denied request: too much`},
		{"message expression", `"validations":[{"expression":"false","message":"m","messageExpression":"'has ' + string(object.data.size())"}]`, deny, 422, `denied request: has 3`},
		{"message expression fails", `"validations":[{"expression":"false","message":"m","messageExpression":"string(object.nothing)"}]`, deny, 422, `denied request: m`},
		{"message of two lines", `"validations":[{"expression":"false","messageExpression":"'a\\nb'"}]`, deny, 422, `denied request: failed expression: false`},
		{"kind and request", `"validations":[{"expression":"object.kind == 'ConfigMap' && request.kind.kind == 'ConfigMap' && request.operation == 'CREATE' && request.namespace == 'a' && request.userInfo.username == 'admin' && oldObject == null"}]`, deny, 201, ""},
		{"namespace", `"validations":[{"expression":"namespaceObject.metadata.labels.env == 'prod' && namespaceObject.metadata.name == 'a'"}]`, deny, 201, ""},
		{"variables", `"variables":[{"name":"n","expression":"object.data.size()"},{"name":"big","expression":"variables.n > 2"}],"validations":[{"expression":"!variables.big"}]`, deny, 422, "failed expression: !variables.big"},
		{"authorizer", `"validations":[{"expression":"authorizer.requestResource.check('create').allowed() && !authorizer.serviceAccount('a','nobody').group('').resource('pods').namespace('a').check('get').allowed()"}]`, deny, 201, ""},
		{"error fails", `"validations":[{"expression":"object.nothing == 1"}]`, deny, 422, `denied request: expression 'object.nothing == 1' resulted in error: no such key: nothing`},
		{"error ignored", `"failurePolicy":"Ignore","validations":[{"expression":"object.nothing == 1"}]`, deny, 201, ""},
		{"condition", `"matchConditions":[{"name":"c","expression":"request.name == 'other'"}],"validations":[{"expression":"false"}]`, deny, 201, ""},
		{"condition fails", `"matchConditions":[{"name":"c","expression":"object.nothing == 1"}],"validations":[{"expression":"true"}]`, deny, 422, `denied request: expression 'object.nothing == 1' resulted in error`},
		{"out of budget", `"validations":[{"expression":"[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, [0,1,2,3,4,5,6,7,8,9].all(d, [0,1,2,3,4,5,6,7,8,9].all(e, [0,1,2,3,4,5,6,7,8,9].all(f, a+b+c+d+e+f >= 0))))))"}]`, deny, 422, "actual cost limit exceeded"},
		{"another namespace", `"validations":[{"expression":"false"}]`, deny + `,"matchResources":{"namespaceSelector":{"matchLabels":{"env":"test"}}}`, 201, ""},
		{"this namespace", `"validations":[{"expression":"false"}]`, deny + `,"matchResources":{"namespaceSelector":{"matchLabels":{"env":"prod"}}}`, 422, "failed expression: false"},
		{"other labels", `"validations":[{"expression":"false"}]`, deny + `,"matchResources":{"objectSelector":{"matchLabels":{"k":"v"}}}`, 201, ""},
		{"other names", `"validations":[{"expression":"false"}],"matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"],"operations":["*"],"resourceNames":["other"]}]}`, deny, 201, ""},
		{"excluded", `"validations":[{"expression":"false"}],"matchConstraints":{"resourceRules":[{"apiGroups":["*"],"apiVersions":["*"],"resources":["*"],"operations":["CREATE"]}],"excludeResourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"],"operations":["*"]}]}`, deny, 201, ""},
		{"params by name", `"paramKind":{"apiVersion":"x.io/v1","kind":"Limit"},"validations":[{"expression":"object.data.size() <= params.most","messageExpression":"'at most ' + string(params.most) + ' of ' + params.kind"}]`,
			deny + `,"paramRef":{"name":"l","parameterNotFoundAction":"Deny"}`, 422, "denied request: at most 2 of Limit"},
		{"params by selector", `"paramKind":{"apiVersion":"x.io/v1","kind":"Limit"},"validations":[{"expression":"object.data.size() <= params.most"}]`,
			deny + `,"paramRef":{"selector":{"matchLabels":{"k":"v"}},"parameterNotFoundAction":"Deny"}`, 422, "failed expression"},
		{"params of another namespace", `"paramKind":{"apiVersion":"x.io/v1","kind":"Limit"},"validations":[{"expression":"object.data.size() <= params.most"}]`,
			deny + `,"paramRef":{"name":"l","namespace":"b","parameterNotFoundAction":"Allow"}`, 201, ""},
		{"params missing", `"paramKind":{"apiVersion":"x.io/v1","kind":"Limit"},"validations":[{"expression":"true"}]`,
			deny + `,"paramRef":{"name":"m","parameterNotFoundAction":"Deny"}`, 422, "ValidatingAdmissionPolicy 'p' with binding 'p-b' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"params null", `"paramKind":{"apiVersion":"v1","kind":"ConfigMap"},"validations":[{"expression":"params == null"}]`, deny, 201, ""},
		{"typed params", `"paramKind":{"apiVersion":"v1","kind":"Namespace"},"validations":[{"expression":"params.kind == 'Namespace' && params.metadata.name == 'b'"}]`, deny + `,"paramRef":{"name":"b","parameterNotFoundAction":"Deny"}`, 201, ""},
		{"params' kind missing", `"paramKind":{"apiVersion":"y.io/v1","kind":"Nothing"},"validations":[{"expression":"true"}]`, deny + `,"paramRef":{"name":"m","parameterNotFoundAction":"Deny"}`, 422,
			"ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'y.io/v1, Kind=Nothing'"},
		{"audit only", `"validations":[{"expression":"false"}]`, `,"validationActions":["Audit"]`, 201, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			setUp(t, admin, [2]string{vapPath, policyBody("p", tc.spec)}, [2]string{vapbPath, bindingBody("p", tc.binding)})
			code, m := admin.message("POST", cms+"?fieldManager=x", `{"metadata":{"name":"c"},"data":{"x":"1","y":"2","z":"3"}}`)
			if code != tc.code || code != 201 && !strings.Contains(m, tc.says) {
				t.Errorf("%d %s\nwant %d %s", code, m, tc.code, tc.says)
			}
			for _, p := range []string{vapPath + "/p", vapbPath + "/p-b"} {
				if code, m := admin.message("DELETE", p, ""); code != 200 {
					t.Fatal(code, m)
				}
			}
			admin.do("DELETE", cms+"/c", "")
		})
	}
	if _, page := admin.do("GET", "/metrics", ""); !strings.Contains(page, `apiserver_validating_admission_policy_check_total{enforcement_action="deny",error_type="invalid_error",policy="p",policy_binding="p-b"} `) {
		t.Error("the numbers are not on the page")
	}
}

// TestPolicyWarnsAndSpares: warnings instead of refusals; dry runs are judged alike; updates and
// deletions; policies are not judged by policies.
func TestPolicyWarnsAndSpares(t *testing.T) {
	admin := governed(t)
	setUp(t, admin,
		[2]string{vapPath, policyBody("w", `"validations":[{"expression":"object == null || !has(object.data)","message":"no data"}]`)},
		[2]string{vapbPath, bindingBody("w", `,"validationActions":["Warn","Audit"]`)},
		[2]string{vapPath, policyBody("keep", `"validations":[{"expression":"request.operation != 'DELETE' || !has(oldObject.metadata.labels) || !('keep' in oldObject.metadata.labels)","message":"kept"}]`)},
		[2]string{vapbPath, bindingBody("keep", `,"validationActions":["Deny"]`)},
		[2]string{vapPath, policyBody("all", `"matchConstraints":{"resourceRules":[{"apiGroups":["*"],"apiVersions":["*"],"resources":["*"],"operations":["*"]}]},"matchConditions":[{"name":"c","expression":"request.dryRun || request.resource.group == 'admissionregistration.k8s.io'"}],"validations":[{"expression":"false","message":"never"}]`)},
		[2]string{vapbPath, bindingBody("all", `,"validationActions":["Deny"]`)},
	)
	warns := func(method, path, body string) (int, string) {
		r, _ := http.NewRequest(method, admin.s.url()+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		res, err := admin.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode, res.Header.Get("Warning")
	}
	if code, w := warns("POST", cms, `{"metadata":{"name":"k","labels":{"keep":"x"}},"data":{"x":"1"}}`); code != 201 || w != `299 - "Validation failed for ValidatingAdmissionPolicy 'w' with binding 'w-b': no data"` {
		t.Error(code, w)
	}
	if code, m := admin.message("DELETE", cms+"/k", ""); code != 422 || !strings.HasSuffix(m, "denied request: kept") {
		t.Error(code, m)
	}
	if code, m := admin.message("POST", cms+"?dryRun=All", `{"metadata":{"name":"d"}}`); code != 422 || !strings.HasSuffix(m, "denied request: never") {
		t.Error(code, m)
	}
	if code, m := admin.message("PUT", cms+"/k", `{"metadata":{"name":"k"}}`); code != 200 {
		t.Error(code, m)
	}
	if code, m := admin.message("DELETE", cms+"/k", ""); code != 200 {
		t.Error(code, m)
	}
	if code, m := admin.message("DELETE", vapPath+"/all", ""); code != 200 { // or nobody could ever
		t.Error(code, m)
	}
}

// TestPolicySeesTheVersionItNames: matchPolicy Equivalent converts.
func TestPolicySeesTheVersionItNames(t *testing.T) {
	admin := governed(t)
	setUp(t, admin,
		[2]string{vapPath, policyBody("v", `"matchConstraints":{"resourceRules":[{"apiGroups":["autoscaling"],"apiVersions":["v1"],"resources":["horizontalpodautoscalers"],"operations":["*"]}]},"validations":[{"expression":"object.apiVersion == 'autoscaling/v1' && object.spec.targetCPUUtilizationPercentage < 50","messageExpression":"request.kind.version + ' for ' + request.requestKind.version"}]`)},
		[2]string{vapbPath, bindingBody("v", `,"validationActions":["Deny"]`)},
	)
	hpa := func(n int) string {
		return fmt.Sprintf(`{"metadata":{"name":"h"},"spec":{"maxReplicas":3,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"},"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":%d}}}]}}`, n)
	}
	const path = "/apis/autoscaling/v2/namespaces/a/horizontalpodautoscalers"
	if code, m := admin.message("POST", path, hpa(60)); code != 422 || !strings.HasSuffix(m, "denied request: v1 for v2") {
		t.Error(code, m)
	}
	if code, m := admin.message("POST", path, hpa(40)); code != 201 {
		t.Error(code, m)
	}
}

func TestMutatingPolicy(t *testing.T) {
	admin := governed(t)
	const forDeployments = `"matchConstraints":{"resourceRules":[{"apiGroups":["apps"],"apiVersions":["v1"],"resources":["deployments"],"operations":["CREATE","UPDATE"]}]},"reinvocationPolicy":"Never",`
	const deployments = "/apis/apps/v1/namespaces/a/deployments"
	apply := func(x string) string {
		return fmt.Sprintf(`"mutations":[{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":%q}}]`, x)
	}
	patch := func(x string) string {
		return fmt.Sprintf(`"mutations":[{"patchType":"JSONPatch","jsonPatch":{"expression":%q}}]`, x)
	}
	for _, tc := range []struct {
		name, spec string
		code       int
		says       string
		check      func(*apps.Deployment) bool
	}{
		{"apply", apply(`Object{metadata: Object.metadata{labels: {'by': object.metadata.name}}, spec: Object.spec{replicas: object.spec.replicas + 1}}`), 201, "",
			func(d *apps.Deployment) bool { return d.Labels["by"] == "d" && *d.Spec.Replicas == 3 }},
		{"container added", apply(`Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'side', image: 's:1'}]}}}}`), 201, "",
			func(d *apps.Deployment) bool {
				c := d.Spec.Template.Spec.Containers
				return len(c) == 2 && c[1].Name == "side" && c[1].TerminationMessagePath == core.TerminationMessagePathDefault // with defaults
			}},
		{"patch", patch(`[JSONPatch{op: 'test', path: '/spec/replicas', value: 2}, JSONPatch{op: 'add', path: '/metadata/annotations', value: {'a/b': 'c'}}, JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('d/e'), value: 'f'}]`), 201, "",
			func(d *apps.Deployment) bool { return d.Annotations["a/b"] == "c" && d.Annotations["d/e"] == "f" }},
		{"test fails", patch(`[JSONPatch{op: 'test', path: '/spec/replicas', value: 9}, JSONPatch{op: 'replace', path: '/spec/replicas', value: 1}]`), 201, "", func(d *apps.Deployment) bool { return *d.Spec.Replicas == 2 }},
		{"condition", `"matchConditions":[{"name":"c","expression":"false"}],` + apply(`Object{spec: Object.spec{replicas: 9}}`), 201, "", func(d *apps.Deployment) bool { return *d.Spec.Replicas == 2 }},
		{"variables", `"variables":[{"name":"n","expression":"object.spec.replicas * 2"}],` + apply(`Object{spec: Object.spec{replicas: variables.n}}`), 201, "", func(d *apps.Deployment) bool { return *d.Spec.Replicas == 4 }},
		{"atomic", apply(`Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'x': 'y'}}}}`), 403, `policy 'p' with binding 'p-b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector`, nil},
		{"wrong type", apply(`Object{spec: Object.wrong{replicas: 1}}`), 403, `policy 'p' with binding 'p-b' denied request: type mismatch: `, nil},
		{"unknown field", apply(`Object{spec: Object.spec{nothing: 1}}`), 403, `denied request: error applying patch: failed to convert patch object to typed object: .spec.nothing: field not declared in schema`, nil},
		{"error", apply(`Object{spec: Object.spec{replicas: object.nothing}}`), 403, `policy 'p' with binding 'p-b' denied request: expression 'Object{spec: Object.spec{replicas: object.nothing}}' resulted in error: no such key: nothing`, nil},
		{"error ignored", `"failurePolicy":"Ignore",` + apply(`Object{spec: Object.spec{replicas: object.nothing}}`), 201, "", func(d *apps.Deployment) bool { return *d.Spec.Replicas == 2 }},
		{"bad outcome is validated", patch(`[JSONPatch{op: 'replace', path: '/spec/replicas', value: -1}]`), 422, `spec.replicas: Invalid value: -1`, nil},
		{"path missing", patch(`[JSONPatch{op: 'remove', path: '/spec/nothing'}]`), 403, `policy 'p' with binding 'p-b' denied request: JSON Patch: `, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			setUp(t, admin, [2]string{mapPath, policyBody("p", forDeployments+tc.spec)}, [2]string{mapbPath, bindingBody("p", "")})
			code, text := admin.do("POST", deployments, `{"metadata":{"name":"d"},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}}}`)
			var d apps.Deployment
			var s metav1.Status
			_, _ = json.Unmarshal([]byte(text), &d), json.Unmarshal([]byte(text), &s)
			if code != tc.code || code != 201 && !strings.Contains(s.Message, tc.says) || tc.check != nil && !tc.check(&d) {
				t.Errorf("%d %s", code, text)
			}
			admin.do("DELETE", deployments+"/d", "")
			admin.do("DELETE", mapPath+"/p", "")
			admin.do("DELETE", mapbPath+"/p-b", "")
		})
	}
}

// TestApplyConfigurationsOfSubresources: the bodies of subresources have schemas of their own.
func TestApplyConfigurationsOfSubresources(t *testing.T) {
	admin := governed(t)
	setUp(t, admin, [2]string{"/apis/apps/v1/namespaces/a/deployments", `{"metadata":{"name":"d"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}}}`},
		[2]string{"/api/v1/namespaces/a/serviceaccounts", `{"metadata":{"name":"default"}}`},
		[2]string{"/api/v1/namespaces/a/pods", pod("")}, [2]string{"/api/v1/nodes", `{"metadata":{"name":"n"}}`})
	rule := func(group, resource, operation string) string {
		return fmt.Sprintf(`,"matchConstraints":{"resourceRules":[{"apiGroups":[%q],"apiVersions":["v1"],"resources":[%q],"operations":[%q]}]}`, group, resource, operation)
	}
	for _, tc := range []struct {
		name, rule, expression string
		method, path, body     string
		code                   int
		says                   string
	}{
		{"scale", rule("apps", "deployments/scale", "UPDATE"), `Object{spec: Object.spec{replicas: object.spec.replicas + 3}}`,
			"PUT", "/apis/apps/v1/namespaces/a/deployments/d/scale", `{"metadata":{"name":"d","namespace":"a"},"spec":{"replicas":2}}`, 200, `"replicas":5`},
		{"token", rule("", "serviceaccounts/token", "CREATE"), `Object{spec: Object.spec{expirationSeconds: 4321}}`,
			"POST", "/api/v1/namespaces/a/serviceaccounts/default/token", `{"spec":{}}`, 201, `"expirationSeconds":4321`},
		{"unknown field", rule("", "serviceaccounts/token", "CREATE"), `Object{spec: Object.spec{nothing: 1}}`,
			"POST", "/api/v1/namespaces/a/serviceaccounts/default/token", `{"spec":{}}`, 403, `.spec.nothing: field not declared in schema`},
		{"binding", rule("", "pods/binding", "CREATE"), `Object{target: Object.target{name: 'n2'}}`,
			"POST", "/api/v1/namespaces/a/pods/p/binding", `{"metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}`, 403, `may not mutate atomic arrays, maps or structs: .target`},
		{"eviction", rule("", "pods/eviction", "CREATE"), `Object{metadata: Object.metadata{labels: {'a': 'b'}}}`,
			"POST", "/api/v1/namespaces/a/pods/p/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}`, 201, `"Success"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			setUp(t, admin, [2]string{mapPath, policyBody("p", fmt.Sprintf(`"reinvocationPolicy":"Never","mutations":[{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":%q}}]`, tc.expression)+tc.rule)}, [2]string{mapbPath, bindingBody("p", "")})
			if code, text := admin.do(tc.method, tc.path, tc.body); code != tc.code || !strings.Contains(text, tc.says) {
				t.Errorf("%d %s", code, text)
			}
			admin.do("DELETE", mapPath+"/p", "")
			admin.do("DELETE", mapbPath+"/p-b", "")
		})
	}
}

// TestMutatingPoliciesAgain: a policy that came too early for a later one's change runs again.
func TestMutatingPoliciesAgain(t *testing.T) {
	admin := governed(t)
	policy := func(name, again, condition, x string) [2]string {
		return [2]string{mapPath, policyBody(name, fmt.Sprintf(`"reinvocationPolicy":%q,"matchConditions":[{"name":"c","expression":%q}],"mutations":[{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":%q}}],"matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"],"operations":["CREATE"]}]}`, again, condition, x))}
	}
	setUp(t, admin,
		policy("a", "IfNeeded", "true", "Object{metadata: Object.metadata{annotations: {'size': string(object.data.size())}}}"), [2]string{mapbPath, bindingBody("a", "")},
		policy("n", "Never", "true", "Object{metadata: Object.metadata{annotations: {'never': string(object.data.size())}}}"), [2]string{mapbPath, bindingBody("n", "")},
		policy("z", "Never", "!('more' in object.data)", "Object{data: {'more': 'x'}}"), [2]string{mapbPath, bindingBody("z", "")},
	)
	code, text := admin.do("POST", cms, `{"metadata":{"name":"c"},"data":{"x":"1"}}`)
	var c core.ConfigMap
	if err := json.Unmarshal([]byte(text), &c); err != nil || code != 201 || c.Annotations["size"] != "2" || c.Annotations["never"] != "1" || c.Data["more"] != "x" {
		t.Errorf("%d %v %s", code, err, text)
	}
}

// BenchmarkPolicy is what validating policies add to one create: none at all, one for another
// kind, one with a condition, a variable and two validations.
func BenchmarkPolicy(b *testing.B) {
	for _, tc := range []struct{ name, spec string }{
		{"none", ""},
		{"other", `"validations":[{"expression":"true"}]`},
		{"one", `"matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["pods"],"operations":["CREATE"]}]},
			"matchConditions":[{"name":"c","expression":"request.userInfo.username != 'system:admin'"}],"variables":[{"name":"images","expression":"object.spec.containers.map(c, c.image)"}],
			"validations":[{"expression":"variables.images.all(i, i.startsWith('registry.example.com/'))"},{"expression":"!has(object.spec.hostNetwork) || !object.spec.hostNetwork"}]`},
	} {
		b.Run(tc.name, func(b *testing.B) {
			s := start(b, memory.New(), nil)
			admin := user(b, s, "admin", api.GroupMasters)
			posts := [][2]string{{"/api/v1/namespaces", `{"metadata":{"name":"a"}}`}}
			if tc.spec != "" {
				posts = append(posts, [2]string{vapPath, policyBody("p", tc.spec)}, [2]string{vapbPath, bindingBody("p", `,"validationActions":["Deny"]`)})
			}
			for _, p := range posts {
				if code, m := admin.message("POST", p[0], p[1]); code != 201 {
					b.Fatal(code, m)
				}
			}
			pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "a"}, Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Image: "registry.example.com/c:1"}, {Name: "d", Image: "registry.example.com/d:1"}}}}
			b.ReportAllocs()
			for b.Loop() {
				err := s.admit.Validate(context.Background(), &registry.Attributes{
					Operation: registry.Create, Resource: s.registry.For(api.Pods.Facts), Namespace: "a", Name: "p", Object: pod, Options: &metav1.CreateOptions{},
					User: registry.User{Name: "ada", Groups: []string{"system:authenticated"}}, Warn: func(string) {}, Annotate: func(string, string) {},
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
