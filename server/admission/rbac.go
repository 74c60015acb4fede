package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/server/access"
	"orch/server/registry"
)

// rbacEscalation: nobody gives away rights that they do not have, unless they may
// escalate (roles) or bind (bindings).
func (l *List) rbacEscalation(_ context.Context, a *registry.Attributes) error {
	if a.Operation != registry.Create && a.Operation != registry.Update {
		return nil
	}
	switch o := a.Object.(type) {
	case *rbac.Role:
		if before := old[rbac.Role](a); before != nil && equality.Semantic.DeepEqual(before.Rules, o.Rules) {
			return nil
		}
		return l.mayWriteRules(a, o.Rules)
	case *rbac.ClusterRole:
		before := old[rbac.ClusterRole](a)
		if before != nil && equality.Semantic.DeepEqual(before.Rules, o.Rules) && equality.Semantic.DeepEqual(before.AggregationRule, o.AggregationRule) {
			return nil
		}
		if l.may(a, "escalate", o.Name) {
			return nil
		}
		if (o.AggregationRule != nil || (before != nil && before.AggregationRule != nil)) && !l.cfg.Access.HoldsAll(a.User) {
			return forbid(a, "must have cluster-admin privileges to use the aggregationRule")
		}
		return l.mayWriteRules(a, o.Rules)
	case *rbac.RoleBinding:
		if before := old[rbac.RoleBinding](a); before != nil && before.RoleRef == o.RoleRef && slices.Equal(before.Subjects, o.Subjects) {
			return nil
		}
		return l.mayBind(a, o.RoleRef)
	case *rbac.ClusterRoleBinding:
		if before := old[rbac.ClusterRoleBinding](a); before != nil && before.RoleRef == o.RoleRef && slices.Equal(before.Subjects, o.Subjects) {
			return nil
		}
		return l.mayBind(a, o.RoleRef)
	}
	return nil
}

func (l *List) may(a *registry.Attributes, verb, name string) bool {
	return l.cfg.Access.May(access.Attributes{
		User: a.User, Verb: verb, Namespace: a.Namespace, Group: rbac.GroupName, Version: a.Resource.Version, Resource: a.Resource.Plural, Name: name,
	})
}

func (l *List) mayWriteRules(a *registry.Attributes, rules []rbac.PolicyRule) error {
	if l.may(a, "escalate", nameOf(a)) {
		return nil
	}
	if err := l.cfg.Access.Grant(a.User, a.Namespace, rules); err != nil {
		return forbidden(a, err)
	}
	return nil
}

func (l *List) mayBind(a *registry.Attributes, ref rbac.RoleRef) error {
	at := access.Attributes{User: a.User, Verb: "bind", Namespace: a.Namespace, Group: rbac.GroupName, Version: a.Resource.Version, Name: ref.Name}
	switch ref.Kind {
	case "ClusterRole":
		at.Resource = "clusterroles"
	case "Role":
		at.Resource = "roles"
	default:
		return forbid(a, "unsupported role reference kind: %q", ref.Kind)
	}
	if l.cfg.Access.May(at) {
		return nil
	}
	rules, ok := l.cfg.Access.RoleRules(ref, a.Namespace)
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Group: rbac.GroupName, Resource: strings.ToLower(ref.Kind)}, ref.Name)
	}
	if err := l.cfg.Access.Grant(a.User, a.Namespace, rules); err != nil {
		return forbidden(a, fmt.Errorf("%w", err))
	}
	return nil
}
