package bootstrap

import (
	"slices"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
)

// Each mend function is pure: it returns nil for an object that is good, a changed
// copy for one to update, and an object without UID for one to replace.
//
// RBAC follows upstream's reconciliation: rules and subjects that are missing are
// added, what an administrator added stays, and the annotation
// rbac.authorization.kubernetes.io/autoupdate=false keeps an object as it is.

const autoupdate = "rbac.authorization.kubernetes.io/autoupdate"

// addMeta puts missing labels and annotations on have and tells whether it changed it.
func addMeta(have, want *metav1.ObjectMeta) bool {
	stays := func(string, string) bool { return true } // an administrator's value stays
	labels := addStrings(&have.Labels, want.Labels, stays)
	return addStrings(&have.Annotations, want.Annotations, stays) || labels
}

// addStrings puts into have what it lacks of want, or has in a form that is not
// good, and tells whether it changed it.
func addStrings(have *map[string]string, want map[string]string, good func(has, should string) bool) bool {
	changed := false
	for k, should := range want {
		if has, there := (*have)[k]; there && good(has, should) {
			continue
		}
		if *have == nil {
			*have = map[string]string{}
		}
		(*have)[k] = should
		changed = true
	}
	return changed
}

// addMissing appends to have what of want is not within any of its elements, and
// tells whether it changed it.
func addMissing[E any](have *[]E, want []E, within func(w, h E) bool) bool {
	changed := false
	for _, w := range want {
		if !slices.ContainsFunc(*have, func(h E) bool { return within(w, h) }) {
			*have, changed = append(*have, w), true
		}
	}
	return changed
}

func sameSubject(a, b rbac.Subject) bool { return a == b }

// ruleWithin tells whether everything in w is named by h. It is stricter than
// RBAC's own covering, which is good enough to find what a release added.
func ruleWithin(w, h rbac.PolicyRule) bool {
	in := func(w, h []string) bool {
		return !slices.ContainsFunc(w, func(s string) bool { return !slices.Contains(h, s) && !slices.Contains(h, "*") })
	}
	return in(w.Verbs, h.Verbs) && in(w.APIGroups, h.APIGroups) && in(w.Resources, h.Resources) && in(w.NonResourceURLs, h.NonResourceURLs) &&
		(len(h.ResourceNames) == 0 || (len(w.ResourceNames) > 0 && in(w.ResourceNames, h.ResourceNames)))
}

// mending is the frame of all: what replace says is put in place of the object,
// else fix is given a copy and tells whether it changed it. replace may be nil.
func mending[P interface {
	api.Object
	DeepCopy() P
}](want P, replace, fix func(have P) bool) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		have := o.(P)
		if replace != nil && replace(have) {
			return want.DeepCopy()
		}
		have = have.DeepCopy()
		if !fix(have) {
			return nil
		}
		return have
	}
}

// unlessFrozen leaves an object of RBAC alone that says so.
func unlessFrozen(mend func(api.Object) api.Object) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		if o.GetAnnotations()[autoupdate] == "false" {
			return nil
		}
		return mend(o)
	}
}

func mendClusterRole(want *rbac.ClusterRole) func(api.Object) api.Object {
	return unlessFrozen(mending(want, nil, func(have *rbac.ClusterRole) bool {
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		if want.AggregationRule == nil {
			return addMissing(&have.Rules, want.Rules, ruleWithin) || changed
		}
		if !equality.Semantic.DeepEqual(have.AggregationRule, want.AggregationRule) {
			have.AggregationRule, changed = want.AggregationRule.DeepCopy(), true
		}
		return changed
	}))
}

func mendRole(want *rbac.Role) func(api.Object) api.Object {
	return unlessFrozen(mending(want, nil, func(have *rbac.Role) bool {
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		return addMissing(&have.Rules, want.Rules, ruleWithin) || changed
	}))
}

func mendClusterRoleBinding(want *rbac.ClusterRoleBinding) func(api.Object) api.Object {
	otherRole := func(have *rbac.ClusterRoleBinding) bool { return have.RoleRef != want.RoleRef }
	return unlessFrozen(mending(want, otherRole, func(have *rbac.ClusterRoleBinding) bool {
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		return addMissing(&have.Subjects, want.Subjects, sameSubject) || changed
	}))
}

func mendRoleBinding(want *rbac.RoleBinding) func(api.Object) api.Object {
	otherRole := func(have *rbac.RoleBinding) bool { return have.RoleRef != want.RoleRef }
	return unlessFrozen(mending(want, otherRole, func(have *rbac.RoleBinding) bool {
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		return addMissing(&have.Subjects, want.Subjects, sameSubject) || changed
	}))
}

func mendConfigMap(want *core.ConfigMap) func(api.Object) api.Object {
	return mending(want, nil, func(have *core.ConfigMap) bool {
		return addStrings(&have.Data, want.Data, func(has, should string) bool { return has == should })
	})
}

// mendService leaves to users what they may add (labels, annotations, further
// ports) and restores address and ports. A changed address, after a change of
// --service-cidr, replaces the Service.
func mendService(want *core.Service) func(api.Object) api.Object {
	elsewhere := func(have *core.Service) bool { return have.Spec.ClusterIP != want.Spec.ClusterIP }
	return mending(want, elsewhere, func(have *core.Service) bool {
		missing := slices.ContainsFunc(want.Spec.Ports, func(w core.ServicePort) bool {
			return !slices.ContainsFunc(have.Spec.Ports, func(h core.ServicePort) bool {
				return h.Name == w.Name && h.Port == w.Port && h.Protocol == w.Protocol && h.TargetPort == w.TargetPort
			})
		})
		if missing {
			have.Spec.Ports = slices.Clone(want.Spec.Ports)
		}
		return missing
	})
}

func mendEndpoints(want *core.Endpoints) func(api.Object) api.Object {
	return mending(want, nil, func(have *core.Endpoints) bool {
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		if !equality.Semantic.DeepEqual(have.Subsets, want.Subsets) {
			have.Subsets, changed = want.Subsets, true
		}
		return changed
	})
}

func mendEndpointSlice(want *discovery.EndpointSlice) func(api.Object) api.Object {
	otherFamily := func(have *discovery.EndpointSlice) bool { return have.AddressType != want.AddressType }
	return mending(want, otherFamily, func(have *discovery.EndpointSlice) bool {
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		if !equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) || !equality.Semantic.DeepEqual(have.Ports, want.Ports) {
			have.Endpoints, have.Ports, changed = want.Endpoints, want.Ports, true
		}
		return changed
	})
}
