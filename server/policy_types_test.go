package server

import (
	"encoding/json"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"

	"orch/datastore/memory"
)

// TestPolicyTypesAreChecked: the status says where an expression does not fit the kinds that the
// rules name, custom resources included.
func TestPolicyTypesAreChecked(t *testing.T) {
	admin := governed(t)
	setUp(t, admin,
		[2]string{crdPath, `{"metadata":{"name":"cogs.x.io"},"spec":{"group":"x.io","scope":"Namespaced","names":{"plural":"cogs","singular":"cog","kind":"Cog"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"teeth":{"type":"integer"}}}}}]}}`})
	waitFor(t, "the custom resource is served", func() bool {
		code, _ := admin.do("GET", "/apis/x.io/v1/namespaces/a/cogs", "")
		return code == 200
	})
	rules := func(group, plural string) string {
		return `"matchConstraints":{"resourceRules":[{"apiGroups":["` + group + `"],"apiVersions":["v1"],"resources":["` + plural + `"],"operations":["*"]}]},`
	}
	for _, tc := range []struct{ name, spec, field, says string }{
		{"fits", rules("apps", "deployments") + `"variables":[{"name":"r","expression":"object.spec.replicas"}],"validations":[{"expression":"variables.r > 1 && object.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z') && object.spec.template.spec.containers.all(c, c.image != '') && object.kind != ''"}]`, "", ""},
		{"absent field", rules("apps", "deployments") + `"validations":[{"expression":"true"},{"expression":"object.spec.nothing == 1"}]`, "spec.validations[1].expression", "apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:12: undefined field 'nothing'"},
		{"wrong type", rules("apps", "deployments") + `"validations":[{"expression":"object.spec.replicas > '1'"}]`, "spec.validations[0].expression", "found no matching overload for '_>_' applied to '(int, string)'"},
		{"message", rules("", "pods") + `"validations":[{"expression":"true","messageExpression":"object.spec.nodeNames"}]`, "spec.validations[0].messageExpression", "/v1, Kind=Pod: compilation failed: ERROR: <input>:1:12: undefined field 'nodeNames'"},
		{"custom resource", rules("x.io", "cogs") + `"validations":[{"expression":"object.tooth > 1"}]`, "spec.validations[0].expression", "x.io/v1, Kind=Cog: compilation failed: ERROR: <input>:1:7: undefined field 'tooth'"},
		{"wildcard", rules("apps", "*") + `"validations":[{"expression":"object.nothing > 1"}]`, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := tc.spec
			if tc.name == "message" { // only strings may be messages
				spec = strings.Replace(spec, `"object.spec.nodeNames"`, `"string(object.spec.nodeNames)"`, 1)
				tc.says = strings.Replace(tc.says, ":12:", ":19:", 1)
			}
			setUp(t, admin, [2]string{vapPath, policyBody("p", spec)})
			var p admission.ValidatingAdmissionPolicy
			waitFor(t, "the status", func() bool {
				_, text := admin.do("GET", vapPath+"/p", "")
				return json.Unmarshal([]byte(text), &p) == nil && p.Status.ObservedGeneration == 1
			})
			w := p.Status.TypeChecking.ExpressionWarnings
			if tc.says == "" && len(w) > 0 || tc.says != "" && (len(w) != 1 || w[0].FieldRef != tc.field || !strings.Contains(w[0].Warning, tc.says)) {
				t.Errorf("%+v", w)
			}
			admin.do("DELETE", vapPath+"/p", "")
		})
	}
}

// TestAdmissionPluginsAreChosen: steps that are off by default, and one that is switched off.
func TestAdmissionPluginsAreChosen(t *testing.T) {
	s := start(t, memory.New(), func(c *Config) {
		c.EnableAdmissionPlugins = []string{"AlwaysPullImages", "DenyServiceExternalIPs", "ExtendedResourceToleration", "OwnerReferencesPermissionEnforcement"}
		c.DisableAdmissionPlugins = []string{"ServiceAccount"}
	})
	admin, ada := user(t, s, "admin", "system:masters"), user(t, s, "ada")
	setUp(t, admin,
		[2]string{"/api/v1/namespaces", `{"metadata":{"name":"a"}}`},
		[2]string{"/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles", `{"metadata":{"name":"r"},"rules":[{"apiGroups":[""],"resources":["configmaps"],"verbs":["create","update","get"]}]}`},
		[2]string{"/apis/rbac.authorization.k8s.io/v1/namespaces/a/rolebindings", `{"metadata":{"name":"r"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"ada"}]}`},
		[2]string{cms, `{"metadata":{"name":"owner"}}`}, [2]string{cms, `{"metadata":{"name":"owned"}}`},
	)
	code, text := admin.do("POST", pods, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x:1","imagePullPolicy":"Never","resources":{"limits":{"example.com/gpu":"1"}}}]}}`)
	if code != 201 || !strings.Contains(text, `"imagePullPolicy":"Always"`) || !strings.Contains(text, `{"key":"example.com/gpu","operator":"Exists","effect":"NoSchedule"}`) {
		t.Errorf("%d %s", code, text)
	}
	if code, m := admin.message("POST", "/api/v1/namespaces/a/services", `{"metadata":{"name":"s"},"spec":{"externalIPs":["1.2.3.4"],"ports":[{"port":80}]}}`); code != 403 || !strings.HasSuffix(m, "Use of external IPs is denied by admission control.") {
		t.Errorf("%d %s", code, m)
	}
	owned := func(block string) string {
		return `{"metadata":{"name":"owned","ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"owner","uid":"1"` + block + `}]}}`
	}
	if code, m := ada.message("PUT", cms+"/owned", owned("")); code != 403 || !strings.Contains(m, "cannot set an ownerRef on a resource you can't delete: ") {
		t.Errorf("%d %s", code, m)
	}
	if code, m := ada.message("POST", cms, strings.Replace(owned(`,"blockOwnerDeletion":true`), `"owned"`, `"new"`, 1)); code != 403 || !strings.Contains(m, "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: ") {
		t.Errorf("%d %s", code, m)
	}
	if code, m := admin.message("PUT", cms+"/owned", owned(`,"blockOwnerDeletion":true`)); code != 200 {
		t.Errorf("%d %s", code, m)
	}
}
