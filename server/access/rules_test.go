package access

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	rbac "k8s.io/api/rbac/v1"
)

func rule(verbs, groups, resources []string, names ...string) rbac.PolicyRule {
	return rbac.PolicyRule{Verbs: verbs, APIGroups: groups, Resources: resources, ResourceNames: names}
}

func l(s ...string) []string { return s }

func TestRuleAllows(t *testing.T) {
	for _, tc := range []struct {
		name string
		rule rbac.PolicyRule
		at   Attributes
		want bool
	}{
		{"plain", rule(l("get"), l(""), l("pods")), Attributes{Verb: "get", Resource: "pods"}, true},
		{"another verb", rule(l("get"), l(""), l("pods")), Attributes{Verb: "list", Resource: "pods"}, false},
		{"another group", rule(l("get"), l(""), l("pods")), Attributes{Verb: "get", Group: "apps", Resource: "pods"}, false},
		{"every verb", rule(l("*"), l(""), l("pods")), Attributes{Verb: "escalate", Resource: "pods"}, true},
		{"every group", rule(l("get"), l("*"), l("pods")), Attributes{Verb: "get", Group: "x.io", Resource: "pods"}, true},
		{"every resource", rule(l("get"), l(""), l("*")), Attributes{Verb: "get", Resource: "pods", Subresource: "log"}, true},
		{"resource is not its subresource", rule(l("get"), l(""), l("pods")), Attributes{Verb: "get", Resource: "pods", Subresource: "log"}, false},
		{"subresource", rule(l("get"), l(""), l("pods/log")), Attributes{Verb: "get", Resource: "pods", Subresource: "log"}, true},
		{"subresource is not its resource", rule(l("get"), l(""), l("pods/log")), Attributes{Verb: "get", Resource: "pods"}, false},
		{"subresource of every resource", rule(l("get"), l("*"), l("*/scale")), Attributes{Verb: "get", Group: "apps", Resource: "deployments", Subresource: "scale"}, true},
		{"pods/* is no pattern", rule(l("get"), l(""), l("pods/*")), Attributes{Verb: "get", Resource: "pods", Subresource: "log"}, false},
		{"name", rule(l("get"), l(""), l("secrets"), "a"), Attributes{Verb: "get", Resource: "secrets", Name: "a"}, true},
		{"another name", rule(l("get"), l(""), l("secrets"), "a"), Attributes{Verb: "get", Resource: "secrets", Name: "b"}, false},
		{"a name does not allow a list", rule(l("list"), l(""), l("secrets"), "a"), Attributes{Verb: "list", Resource: "secrets"}, false},
		{"path", rbac.PolicyRule{Verbs: l("get"), NonResourceURLs: l("/healthz")}, Attributes{Verb: "get", Path: "/healthz"}, true},
		{"path below", rbac.PolicyRule{Verbs: l("get"), NonResourceURLs: l("/healthz")}, Attributes{Verb: "get", Path: "/healthz/x"}, false},
		{"paths below", rbac.PolicyRule{Verbs: l("get"), NonResourceURLs: l("/api/*")}, Attributes{Verb: "get", Path: "/api/v1"}, true},
		{"every path", rbac.PolicyRule{Verbs: l("get"), NonResourceURLs: l("*")}, Attributes{Verb: "get", Path: "/x"}, true},
		{"resources are no paths", rule(l("*"), l("*"), l("*")), Attributes{Verb: "get", Path: "/x"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := ruleAllows(&tc.rule, &tc.at); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestUncovered(t *testing.T) {
	for _, tc := range []struct {
		name       string
		have, want []rbac.PolicyRule
		missing    []string
	}{
		{"the same", []rbac.PolicyRule{rule(l("get", "list"), l(""), l("pods"))}, []rbac.PolicyRule{rule(l("get"), l(""), l("pods"))}, nil},
		{"put together from two", []rbac.PolicyRule{rule(l("get"), l(""), l("pods")), rule(l("list"), l(""), l("pods"))}, []rbac.PolicyRule{rule(l("get", "list"), l(""), l("pods"))}, nil},
		{"a verb more", []rbac.PolicyRule{rule(l("get"), l(""), l("pods"))}, []rbac.PolicyRule{rule(l("get", "delete", "update"), l(""), l("pods"))},
			[]string{`{APIGroups:[""], Resources:["pods"], Verbs:["delete" "update"]}`}},
		{"everything", []rbac.PolicyRule{rule(l("*"), l("*"), l("*"))}, []rbac.PolicyRule{rule(l("x"), l("y"), l("z/w"), "n")}, nil},
		{"a star is more than any list", []rbac.PolicyRule{rule(l("get"), l(""), l("pods"))}, []rbac.PolicyRule{rule(l("*"), l(""), l("pods"))},
			[]string{`{APIGroups:[""], Resources:["pods"], Verbs:["*"]}`}},
		{"a name only", []rbac.PolicyRule{rule(l("get"), l(""), l("pods"), "a")}, []rbac.PolicyRule{rule(l("get"), l(""), l("pods"))},
			[]string{`{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`}},
		{"names of all", []rbac.PolicyRule{rule(l("get"), l(""), l("pods"))}, []rbac.PolicyRule{rule(l("get"), l(""), l("pods"), "a", "b")}, nil},
		{"every scale", []rbac.PolicyRule{rule(l("get"), l("*"), l("*/scale"))}, []rbac.PolicyRule{rule(l("get"), l("apps"), l("deployments/scale"))}, nil},
		{"paths", []rbac.PolicyRule{{Verbs: l("get"), NonResourceURLs: l("/api/*")}}, []rbac.PolicyRule{{Verbs: l("get"), NonResourceURLs: l("/api/v1", "/x")}},
			[]string{`{NonResourceURLs:["/x"], Verbs:["get"]}`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, r := range mergePieces(uncovered(tc.have, tc.want)) {
				got = append(got, compactText(r))
			}
			if d := cmp.Diff(tc.missing, got); d != "" {
				t.Error(d)
			}
		})
	}
}
