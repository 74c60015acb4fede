package server

import (
	"strings"
	"testing"

	"orch/api"
)

// TestPoliciesAskWithSelectors: a node may list the pods of its own, and a policy that asks
// about those of another hears no.
func TestPoliciesAskWithSelectors(t *testing.T) {
	s := nodes(t)
	admin := user(t, s, "admin", api.GroupMasters)
	const path = "/apis/admissionregistration.k8s.io/v1/"
	setUp(t, admin,
		[2]string{path + "validatingadmissionpolicies", `{"metadata":{"name":"p"},"spec":{"matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"operations":["CREATE"],"resources":["events"]}]},"validations":[{"expression":"authorizer.group('').resource('pods').fieldSelector('spec.nodeName=' + object.reason).check('list').allowed()","message":"not its pods"}]}}`},
		[2]string{path + "validatingadmissionpolicybindings", `{"metadata":{"name":"p"},"spec":{"policyName":"p","validationActions":["Deny"]}}`})
	n1 := user(t, s, "system:node:n1", api.GroupNodes)
	event := func(name, reason string) (int, string) {
		return n1.message("POST", ns+"events", `{"metadata":{"name":"`+name+`"},"reason":"`+reason+`","involvedObject":{"namespace":"default","name":"pod1"}}`)
	}
	if code, m := event("other", "n2"); code != 422 || !strings.Contains(m, "not its pods") {
		t.Errorf("%d %s", code, m)
	}
	if code, m := event("own", "n1"); code != 201 {
		t.Errorf("%d %s", code, m)
	}
}
