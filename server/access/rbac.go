package access

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	rbac "k8s.io/api/rbac/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// roleIndex answers "which bindings name this subject" without a scan. It holds
// the cache's own objects, so a changed role needs no work beyond the swap of a
// pointer.
//
//	clusterRoles[name] -> rules          roles[namespace/name] -> rules
//	bindings[namespace][user alice][binding name] -> grant   (namespace "" = cluster bindings)
type roleIndex struct {
	mu           sync.RWMutex
	clusterRoles map[string][]rbac.PolicyRule
	roles        map[string][]rbac.PolicyRule
	bindings     map[string]map[subject]map[string]grant
}

// subject is a user or a group; a service account is the user that it acts as.
type subject struct {
	group bool
	name  string
}

// grant is one binding as one subject sees it.
type grant struct {
	binding   string
	namespace string // of the binding, empty for a cluster binding
	ref       rbac.RoleRef
	subject   rbac.Subject
}

func newRoleIndex() *roleIndex {
	return &roleIndex{
		clusterRoles: map[string][]rbac.PolicyRule{}, roles: map[string][]rbac.PolicyRule{},
		bindings: map[string]map[subject]map[string]grant{},
	}
}

func (x *roleIndex) clusterRole(c client.Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.New != nil {
		x.clusterRoles[c.New.GetName()] = c.New.(*rbac.ClusterRole).Rules
	} else if c.Old != nil {
		delete(x.clusterRoles, c.Old.GetName())
	}
}

func (x *roleIndex) role(c client.Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.New != nil {
		x.roles[c.New.GetNamespace()+"/"+c.New.GetName()] = c.New.(*rbac.Role).Rules
	} else if c.Old != nil {
		delete(x.roles, c.Old.GetNamespace()+"/"+c.Old.GetName())
	}
}

func (x *roleIndex) clusterBinding(c client.Change) {
	of := func(o api.Object) (rbac.RoleRef, []rbac.Subject) {
		b := o.(*rbac.ClusterRoleBinding)
		return b.RoleRef, b.Subjects
	}
	x.rebind(c, of)
}

func (x *roleIndex) roleBinding(c client.Change) {
	of := func(o api.Object) (rbac.RoleRef, []rbac.Subject) {
		b := o.(*rbac.RoleBinding)
		return b.RoleRef, b.Subjects
	}
	x.rebind(c, of)
}

func (x *roleIndex) rebind(c client.Change, of func(api.Object) (rbac.RoleRef, []rbac.Subject)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.Old != nil {
		ns := c.Old.GetNamespace()
		_, subjects := of(c.Old)
		for _, s := range subjects {
			key := subjectKey(s, ns)
			delete(x.bindings[ns][key], c.Old.GetName())
			if len(x.bindings[ns][key]) == 0 {
				delete(x.bindings[ns], key)
			}
		}
		if len(x.bindings[ns]) == 0 {
			delete(x.bindings, ns)
		}
	}
	if c.New == nil {
		return
	}
	ns := c.New.GetNamespace()
	ref, subjects := of(c.New)
	for _, s := range subjects {
		key := subjectKey(s, ns)
		if key.name == "" {
			continue
		}
		if x.bindings[ns] == nil {
			x.bindings[ns] = map[subject]map[string]grant{}
		}
		if x.bindings[ns][key] == nil {
			x.bindings[ns][key] = map[string]grant{}
		}
		x.bindings[ns][key][c.New.GetName()] = grant{binding: c.New.GetName(), namespace: ns, ref: ref, subject: s}
	}
}

// subjectKey names a subject in the index; empty for one that nobody can be.
func subjectKey(s rbac.Subject, bindingNamespace string) subject {
	switch s.Kind {
	case rbac.UserKind:
		return subject{name: s.Name}
	case rbac.GroupKind:
		return subject{group: true, name: s.Name}
	case rbac.ServiceAccountKind:
		ns := s.Namespace
		if ns == "" {
			ns = bindingNamespace
		}
		if ns == "" {
			return subject{}
		}
		return subject{name: serviceAccountUser(ns, s.Name)}
	}
	return subject{}
}

func (x *roleIndex) rulesLocked(ref rbac.RoleRef, namespace string) ([]rbac.PolicyRule, bool) {
	if ref.Kind == "ClusterRole" {
		r, ok := x.clusterRoles[ref.Name]
		return r, ok
	}
	r, ok := x.roles[namespace+"/"+ref.Name]
	return r, ok
}

func (x *roleIndex) rules(ref rbac.RoleRef, namespace string) ([]rbac.PolicyRule, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.rulesLocked(ref, namespace)
}

// each visits what is granted to the user in a namespace, cluster-wide grants
// first, until visit returns false. It returns complaints about roles that do not exist.
func (x *roleIndex) each(u registry.User, namespace string, visit func(grant, []rbac.PolicyRule) bool) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var missing []string
	for _, ns := range [2]string{"", namespace} {
		of := x.bindings[ns]
		if len(of) == 0 {
			continue
		}
		for i := -1; i < len(u.Groups); i++ {
			key := subject{name: u.Name}
			if i >= 0 {
				key = subject{group: true, name: u.Groups[i]}
			}
			for _, g := range of[key] {
				rules, ok := x.rulesLocked(g.ref, g.namespace)
				if !ok {
					missing = append(missing, fmt.Sprintf("%s.rbac.authorization.k8s.io %q not found", strings.ToLower(g.ref.Kind), g.ref.Name))
					continue
				}
				if !visit(g, rules) {
					return nil
				}
			}
		}
		if namespace == "" {
			break
		}
	}
	return missing
}

// allows finds the grant that permits the request. Without one it returns the
// reason that upstream gives, which is empty unless a role is missing.
func (x *roleIndex) allows(at *Attributes) (by grant, ok bool, reason string) {
	missing := x.each(at.User, at.Namespace, func(g grant, rules []rbac.PolicyRule) bool {
		for i := range rules {
			if ruleAllows(&rules[i], at) {
				by, ok = g, true
				return false
			}
		}
		return true
	})
	if ok || len(missing) == 0 {
		return by, ok, ""
	}
	return grant{}, false, "RBAC: " + aggregate(missing)
}

// aggregate joins messages as apimachinery's error aggregate does: each once,
// brackets only around several.
func aggregate(messages []string) string {
	set := map[string]bool{}
	for _, m := range messages {
		set[m] = true
	}
	list := slices.Sorted(maps.Keys(set))
	if len(list) == 1 {
		return list[0]
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// describe is the reason of a positive review.
func (g grant) describe() string {
	subject := g.subject.Name
	if g.subject.Kind == rbac.ServiceAccountKind {
		ns := g.subject.Namespace
		if ns == "" {
			ns = g.namespace
		}
		subject += "/" + ns
	}
	kind, name := "ClusterRoleBinding", g.binding
	if g.namespace != "" {
		kind, name = "RoleBinding", g.binding+"/"+g.namespace
	}
	return fmt.Sprintf("RBAC: allowed by %s %q of %s %q to %s %q", kind, name, g.ref.Kind, g.ref.Name, g.subject.Kind, subject)
}
