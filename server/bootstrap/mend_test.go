package bootstrap

import (
	"maps"
	"testing"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"

	"orch/api"
)

func TestMendClusterRole(t *testing.T) {
	want := clusterRole("r", can("get list", "core", "pods"), can("get", "apps", "deployments"))
	for _, tc := range []struct {
		name   string
		change func(*rbac.ClusterRole)
		rules  int // 0: left alone
	}{
		{"good", func(*rbac.ClusterRole) {}, 0},
		{"a rule is missing", func(r *rbac.ClusterRole) { r.Rules = r.Rules[:1] }, 2},
		{"a verb is missing", func(r *rbac.ClusterRole) { r.Rules[0].Verbs = []string{"get"} }, 3},
		{"an administrator added one", func(r *rbac.ClusterRole) { r.Rules = append(r.Rules, can("*", "*", "*")) }, 0},
		{"a label is missing", func(r *rbac.ClusterRole) { r.Labels = nil }, 2},
		{"frozen", func(r *rbac.ClusterRole) { r.Rules = nil; r.Annotations[autoupdate] = "false" }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			have := want.DeepCopy()
			tc.change(have)
			got := mendClusterRole(want)(have)
			switch {
			case tc.rules == 0 && got != nil:
				t.Errorf("changed to %v", got)
			case tc.rules > 0 && (got == nil || len(got.(*rbac.ClusterRole).Rules) != tc.rules):
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestMendBinding(t *testing.T) {
	want := same("b", group("g"))
	other := want.DeepCopy()
	other.UID = "u"
	other.RoleRef.Name = "else"
	if got := mendClusterRoleBinding(want)(other); got == nil || got.GetUID() != "" {
		t.Error("a binding of another role is to be replaced")
	}
	other = want.DeepCopy()
	other.UID = "u"
	other.Subjects = []rbac.Subject{user("x")}
	got := mendClusterRoleBinding(want)(other)
	if got == nil || got.GetUID() != "u" || len(got.(*rbac.ClusterRoleBinding).Subjects) != 2 {
		t.Errorf("%v", got)
	}
}

func TestMendConfigMap(t *testing.T) {
	want := &core.ConfigMap{Data: map[string]string{"a": "1", "b": "2"}}
	for _, tc := range []struct{ have, after map[string]string }{
		{map[string]string{"a": "1", "b": "2", "users": "own"}, nil},
		{nil, map[string]string{"a": "1", "b": "2"}},
		{map[string]string{"a": "changed", "users": "own"}, map[string]string{"a": "1", "b": "2", "users": "own"}},
	} {
		given := maps.Clone(tc.have)
		got := mendConfigMap(want)(&core.ConfigMap{Data: tc.have})
		if (got == nil) != (tc.after == nil) || (got != nil && !maps.Equal(got.(*core.ConfigMap).Data, tc.after)) {
			t.Errorf("%v became %v", given, got)
		}
		if !maps.Equal(given, tc.have) {
			t.Errorf("what was given was changed to %v", tc.have)
		}
	}
}

// TestNamesAreUnique guards the tables of roles and bindings.
func TestNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	check := func(kind string, o api.Object) {
		key := kind + "/" + o.GetNamespace() + "/" + o.GetName()
		if seen[key] {
			t.Errorf("%s is there twice", key)
		}
		seen[key] = true
	}
	roleNames := map[string]bool{}
	for _, o := range clusterRoles() {
		check("clusterrole", o)
		roleNames[o.Name] = true
	}
	for _, o := range clusterRoleBindings() {
		check("clusterrolebinding", o)
		if !roleNames[o.RoleRef.Name] {
			t.Errorf("binding %s names role %s, which nobody makes", o.Name, o.RoleRef.Name)
		}
	}
	for _, o := range roles() {
		check("role", o)
	}
	for _, o := range roleBindings() {
		check("rolebinding", o)
		if !seen["role/"+o.Namespace+"/"+o.RoleRef.Name] {
			t.Errorf("binding %s names role %s, which nobody makes", o.Name, o.RoleRef.Name)
		}
	}
}
