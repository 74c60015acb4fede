package bootstrap

import (
	"maps"
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

func frozen(o api.Object) bool { return o.GetAnnotations()[autoupdate] == "false" }

// addMeta puts missing labels and annotations on have and tells whether it changed it.
func addMeta(have, want *metav1.ObjectMeta) bool {
	changed := false
	add := func(to *map[string]string, from map[string]string) {
		for k, v := range from {
			if _, there := (*to)[k]; !there {
				if *to == nil {
					*to = map[string]string{}
				}
				(*to)[k] = v
				changed = true
			}
		}
	}
	add(&have.Labels, want.Labels)
	add(&have.Annotations, want.Annotations)
	return changed
}

// addRules returns have with the rules of want that it lacks.
func addRules(have, want []rbac.PolicyRule) ([]rbac.PolicyRule, bool) {
	changed := false
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h rbac.PolicyRule) bool { return ruleWithin(w, h) }) {
			have, changed = append(have, w), true
		}
	}
	return have, changed
}

// ruleWithin tells whether everything in w is named by h. It is stricter than
// RBAC's own covering, which is good enough to find what a release added.
func ruleWithin(w, h rbac.PolicyRule) bool {
	in := func(w, h []string) bool {
		return !slices.ContainsFunc(w, func(s string) bool { return !slices.Contains(h, s) && !slices.Contains(h, "*") })
	}
	return in(w.Verbs, h.Verbs) && in(w.APIGroups, h.APIGroups) && in(w.Resources, h.Resources) && in(w.NonResourceURLs, h.NonResourceURLs) &&
		(len(h.ResourceNames) == 0 || (len(w.ResourceNames) > 0 && in(w.ResourceNames, h.ResourceNames)))
}

func addSubjects(have, want []rbac.Subject) ([]rbac.Subject, bool) {
	changed := false
	for _, w := range want {
		if !slices.Contains(have, w) {
			have, changed = append(have, w), true
		}
	}
	return have, changed
}

func mendClusterRole(want *rbac.ClusterRole) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		if frozen(o) {
			return nil
		}
		have := o.(*rbac.ClusterRole).DeepCopy()
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		if want.AggregationRule != nil {
			if !equality.Semantic.DeepEqual(have.AggregationRule, want.AggregationRule) {
				have.AggregationRule, changed = want.AggregationRule.DeepCopy(), true
			}
		} else if rules, more := addRules(have.Rules, want.Rules); more {
			have.Rules, changed = rules, true
		}
		if !changed {
			return nil
		}
		return have
	}
}

func mendRole(want *rbac.Role) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		if frozen(o) {
			return nil
		}
		have := o.(*rbac.Role).DeepCopy()
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		if rules, more := addRules(have.Rules, want.Rules); more {
			have.Rules, changed = rules, true
		}
		if !changed {
			return nil
		}
		return have
	}
}

func mendClusterRoleBinding(want *rbac.ClusterRoleBinding) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		have := o.(*rbac.ClusterRoleBinding)
		if frozen(o) {
			return nil
		}
		if have.RoleRef != want.RoleRef {
			return want.DeepCopy()
		}
		have = have.DeepCopy()
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		if subjects, more := addSubjects(have.Subjects, want.Subjects); more {
			have.Subjects, changed = subjects, true
		}
		if !changed {
			return nil
		}
		return have
	}
}

func mendRoleBinding(want *rbac.RoleBinding) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		have := o.(*rbac.RoleBinding)
		if frozen(o) {
			return nil
		}
		if have.RoleRef != want.RoleRef {
			return want.DeepCopy()
		}
		have = have.DeepCopy()
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		if subjects, more := addSubjects(have.Subjects, want.Subjects); more {
			have.Subjects, changed = subjects, true
		}
		if !changed {
			return nil
		}
		return have
	}
}

func mendConfigMap(want *core.ConfigMap) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		have := o.(*core.ConfigMap)
		good := true
		for k, v := range want.Data {
			good = good && have.Data[k] == v
		}
		if good {
			return nil
		}
		have = have.DeepCopy()
		if have.Data == nil {
			have.Data = map[string]string{}
		}
		maps.Copy(have.Data, want.Data)
		return have
	}
}

// mendService leaves to users what they may add (labels, annotations, further
// ports) and restores address and ports. A changed address, after a change of
// --service-cidr, replaces the Service.
func mendService(want *core.Service) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		have := o.(*core.Service)
		if have.Spec.ClusterIP != want.Spec.ClusterIP {
			return want.DeepCopy()
		}
		good := true
		for _, w := range want.Spec.Ports {
			good = good && slices.ContainsFunc(have.Spec.Ports, func(h core.ServicePort) bool {
				return h.Name == w.Name && h.Port == w.Port && h.Protocol == w.Protocol && h.TargetPort == w.TargetPort
			})
		}
		if good {
			return nil
		}
		have = have.DeepCopy()
		have.Spec.Ports = slices.Clone(want.Spec.Ports)
		return have
	}
}

func mendEndpoints(want *core.Endpoints) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		have := o.(*core.Endpoints).DeepCopy()
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		if !equality.Semantic.DeepEqual(have.Subsets, want.Subsets) {
			have.Subsets, changed = want.Subsets, true
		}
		if !changed {
			return nil
		}
		return have
	}
}

func mendEndpointSlice(want *discovery.EndpointSlice) func(api.Object) api.Object {
	return func(o api.Object) api.Object {
		have := o.(*discovery.EndpointSlice)
		if have.AddressType != want.AddressType {
			return want.DeepCopy()
		}
		have = have.DeepCopy()
		changed := addMeta(&have.ObjectMeta, &want.ObjectMeta)
		if !equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) || !equality.Semantic.DeepEqual(have.Ports, want.Ports) {
			have.Endpoints, have.Ports, changed = want.Endpoints, want.Ports, true
		}
		if !changed {
			return nil
		}
		return have
	}
}
