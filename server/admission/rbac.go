package admission

import (
	"context"
	"slices"
	"strings"

	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/server/access"
	"orch/server/registry"
)

// rbacEscalation: nobody gives away rights that they do not have, unless they may
// escalate (roles) or bind (bindings).
func (l *List) rbacEscalation(_ context.Context, a *registry.Attributes) error {
	if a.Operation != registry.Create && a.Operation != registry.Update {
		return nil
	}
	if a.Resource.Group != rbac.GroupName || slices.Contains(a.User.Groups, api.GroupMasters) || onlyForCollector(a) {
		return nil
	}
	switch o := a.Object.(type) {
	case *rbac.Role:
		if l.mayEscalate(a) {
			return nil
		}
		return l.mayWriteRules(a, o.Rules)
	case *rbac.ClusterRole:
		if l.mayEscalate(a) {
			return nil
		}
		if err := l.mayWriteRules(a, o.Rules); err != nil {
			return err
		}
		if (gathers(o) || gathers(old[rbac.ClusterRole](a))) && !l.cfg.Access.HoldsAll(a.User) {
			return forbid(a, "must have cluster-admin privileges to use the aggregationRule")
		}
	case *rbac.RoleBinding:
		return l.mayBind(a, o.RoleRef)
	case *rbac.ClusterRoleBinding:
		return l.mayBind(a, o.RoleRef)
	}
	return nil
}

// onlyForCollector tells that a write changes no more than what the garbage collector
// must be able to, whatever rights it has: owners and finalizers.
func onlyForCollector(a *registry.Attributes) bool {
	was, ok := a.Old.(api.Object)
	if !ok || a.Object == nil {
		return false
	}
	is, ok := a.Object.DeepCopyObject().(api.Object)
	if !ok {
		return false
	}
	is.SetOwnerReferences(was.GetOwnerReferences())
	is.SetFinalizers(was.GetFinalizers())
	is.SetManagedFields(was.GetManagedFields())
	is.SetResourceVersion(was.GetResourceVersion())
	return equality.Semantic.DeepEqual(is, was)
}

func gathers(r *rbac.ClusterRole) bool {
	return r != nil && r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

// mayEscalate asks by the name in the path, as upstream does: a right to escalate one role
// by name is none to create it by a post.
func (l *List) mayEscalate(a *registry.Attributes) bool {
	return l.cfg.Access.May(access.Attributes{
		User: a.User, Verb: "escalate", Namespace: a.Namespace, Group: rbac.GroupName, Version: "*", Resource: a.Resource.Plural, Name: a.Addressed,
	})
}

func (l *List) mayWriteRules(a *registry.Attributes, rules []rbac.PolicyRule) error {
	if err := l.cfg.Access.Grant(a.User, a.Namespace, rules); err != nil {
		return forbidden(a, err)
	}
	return nil
}

func (l *List) mayBind(a *registry.Attributes, ref rbac.RoleRef) error {
	at := access.Attributes{User: a.User, Verb: "bind", Namespace: a.Namespace, Group: rbac.GroupName, Version: "*", Name: ref.Name}
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
		return forbidden(a, err)
	}
	return nil
}
