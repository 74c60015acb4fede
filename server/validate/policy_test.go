package validate

import (
	"slices"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"orch/server/defaults"
)

const policyYAML = `
metadata: {name: p.example.com}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
`

// TestPolicyExpressions: what is wrong with an expression is said when the policy is written.
func TestPolicyExpressions(t *testing.T) {
	for _, tc := range []struct {
		name, spec string
		want       []string // how the errors begin
	}{
		{"fine", `{paramKind: {apiVersion: v1, kind: ConfigMap}, variables: [{name: a, expression: "object.spec"}, {name: b, expression: "variables.a.x"}],
			validations: [{expression: "variables.b == params.data.x", messageExpression: "'no ' + params.data.x", reason: Forbidden}], auditAnnotations: [{key: k, valueExpression: "'v'"}]}`, nil},
		{"syntax", `{validations: [{expression: "1 +"}]}`, []string{`spec.validations[0].expression: Invalid value: "1 +": compilation failed: ERROR: <input>:1:4: Syntax error`}},
		{"type", `{validations: [{expression: "1"}]}`, []string{`spec.validations[0].expression: Invalid value: "1": must evaluate to bool`}},
		{"message's type", `{validations: [{expression: "true", messageExpression: "1"}]}`, []string{`spec.validations[0].messageExpression: Invalid value: "1": must evaluate to string`}},
		{"message without authorizer", `{validations: [{expression: "true", messageExpression: "authorizer.requestResource.check('x').reason()"}]}`,
			[]string{`spec.validations[0].messageExpression: Invalid value: "authorizer.requestResource.check('x').reason()": compilation failed: ERROR: <input>:1:1: undeclared reference to 'authorizer`}},
		{"no params", `{validations: [{expression: "params.x"}]}`, []string{`spec.validations[0].expression: Invalid value: "params.x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'`}},
		{"condition", `{matchConditions: [{name: c, expression: "variables.x"}], validations: [{expression: "true"}]}`,
			[]string{`spec.matchConditions[0].expression: Invalid value: "variables.x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'variables'`}},
		{"variable", `{variables: [{name: if, expression: "1 + 'a'"}], validations: [{expression: "true"}]}`,
			[]string{`spec.variables[0].name: Invalid value: "if": name is not a valid CEL identifier`, `spec.variables[0].expression: Invalid value: "1 + 'a'": compilation failed: ERROR: <input>:1:3: found no matching overload`}},
		{"later variable", `{variables: [{name: a, expression: "variables.b"}, {name: b, expression: "1"}], validations: [{expression: "true"}]}`,
			[]string{`spec.variables[0].expression: Invalid value: "variables.b": compilation failed: ERROR: <input>:1:10: undefined field 'b'`}},
		{"audit", `{auditAnnotations: [{key: "a/b", valueExpression: "1"}]}`,
			[]string{`spec.auditAnnotations[0].key: Invalid value: "p.example.com/a/b": a valid label key must`, `spec.auditAnnotations[0].valueExpression: Invalid value: "1": must evaluate to one of [string null_type] but got int`}},
		{"reason", `{validations: [{expression: "true", reason: Gone}]}`, []string{`spec.validations[0].reason: Unsupported value: "Gone": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge"`}},
		{"param kind", `{paramKind: {apiVersion: a/b/c, kind: "x y"}, validations: [{expression: "true"}]}`,
			[]string{`spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c`, `spec.paramKind.kind: Invalid value: "x y": may have mixed case, but should otherwise match: a DNS-1035 label`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var o admission.ValidatingAdmissionPolicy
			for _, s := range []string{policyYAML, "spec: " + tc.spec} {
				if err := yaml.Unmarshal([]byte(s), &o); err != nil {
					t.Fatal(err)
				}
			}
			defaults.ValidatingAdmissionPolicy(&o)
			expect(t, ValidatingAdmissionPolicy(&o), tc.want)
			if len(tc.want) == 0 {
				expect(t, ValidatingAdmissionPolicyUpdate(&o, o.DeepCopy()), nil)
			}
		})
	}
}

func TestMutations(t *testing.T) {
	for _, tc := range []struct {
		name, spec string
		want       []string
	}{
		{"apply", `{mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{spec: Object.spec{replicas: 1}}"}}]}`, nil},
		{"patch", `{mutations: [{patchType: JSONPatch, jsonPatch: {expression: "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]"}}]}`, nil},
		{"apply's type", `{mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "1"}}]}`,
			[]string{`spec.mutations[0].applyConfiguration.expression: Invalid value: "1": must evaluate to Object but got int`}},
		{"patch's type", `{mutations: [{patchType: JSONPatch, jsonPatch: {expression: "'x'"}}]}`,
			[]string{`spec.mutations[0].jsonPatch.expression: Invalid value: "'x'": must evaluate to list(JSONPatch) but got string`}},
		{"both", `{mutations: [{patchType: JSONPatch, jsonPatch: {expression: "[]"}, applyConfiguration: {expression: "Object{}"}}]}`,
			[]string{`spec.mutations[0].jsonPatch.expression: Invalid value: "[]": must evaluate to list(JSONPatch) but got list(dyn)`, `spec.mutations[0].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch`}},
		{"neither", `{mutations: [{patchType: ApplyConfiguration}]}`, []string{`spec.mutations[0].applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration`}},
		{"delete", `{matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [DELETE], resources: [pods]}]}, mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{}"}}]}`,
			[]string{`spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var o admission.MutatingAdmissionPolicy
			for _, s := range []string{policyYAML, "spec: " + tc.spec, "spec: {reinvocationPolicy: Never}"} {
				if err := yaml.Unmarshal([]byte(s), &o); err != nil {
					t.Fatal(err)
				}
			}
			defaults.MutatingAdmissionPolicy(&o)
			expect(t, MutatingAdmissionPolicy(&o), tc.want)
		})
	}
}

// TestWebhookConditionsCompile: and they are left alone while nobody changes them.
func TestWebhookConditionsCompile(t *testing.T) {
	o := &admission.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Webhooks: []admission.ValidatingWebhook{{
		Name: "a.b.c", ClientConfig: admission.WebhookClientConfig{URL: new("https://x.example")}, AdmissionReviewVersions: []string{"v1"}, SideEffects: new(admission.SideEffectClassNone),
		MatchConditions: []admission.MatchCondition{{Name: "x", Expression: "params.x"}},
	}}}
	defaults.ValidatingWebhookConfiguration(o)
	expect(t, ValidatingWebhookConfiguration(o), []string{`webhooks[0].matchConditions[0].expression: Invalid value: "params.x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'`})
	expect(t, ValidatingWebhookConfigurationUpdate(o, o.DeepCopy()), nil)
}

func expect(t *testing.T, got Errors, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d errors, want %d: %v", len(got), len(want), got)
	}
	for _, w := range want {
		if !slices.ContainsFunc([]error{got.ToAggregate()}, func(err error) bool { return err != nil && strings.Contains(err.Error(), w) }) {
			t.Errorf("%v\nlacks %s", got, w)
		}
	}
}
