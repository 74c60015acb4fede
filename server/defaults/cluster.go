package defaults

import (
	"slices"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	rbac "k8s.io/api/rbac/v1"
	scheduling "k8s.io/api/scheduling/v1"
	storage "k8s.io/api/storage/v1"
)

// NetworkPolicy derives the policy types from the rules.
func NetworkPolicy(o *networking.NetworkPolicy) {
	s := &o.Spec
	if len(s.PolicyTypes) == 0 {
		s.PolicyTypes = []networking.PolicyType{networking.PolicyTypeIngress}
		if len(s.Egress) > 0 {
			s.PolicyTypes = append(s.PolicyTypes, networking.PolicyTypeEgress)
		}
	}
	for i := range s.Ingress {
		policyPorts(s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		policyPorts(s.Egress[i].Ports)
	}
}

func policyPorts(ports []networking.NetworkPolicyPort) {
	for i := range ports {
		point(&ports[i].Protocol, core.ProtocolTCP)
	}
}

// IngressClass scopes its parameters to the cluster.
func IngressClass(o *networking.IngressClass) {
	if o.Spec.Parameters != nil {
		point(&o.Spec.Parameters.Scope, networking.IngressClassParametersReferenceScopeCluster)
	}
}

// EndpointSlice fills port names and protocols.
func EndpointSlice(o *discovery.EndpointSlice) {
	for i := range o.Ports {
		point(&o.Ports[i].Name, "")
		point(&o.Ports[i].Protocol, core.ProtocolTCP)
	}
}

// StorageClass deletes and binds at once, unless told otherwise.
func StorageClass(o *storage.StorageClass) {
	point(&o.ReclaimPolicy, core.PersistentVolumeReclaimDelete)
	point(&o.VolumeBindingMode, storage.VolumeBindingImmediate)
}

// CSIDriver fills what a driver is taken to be able to do.
func CSIDriver(o *storage.CSIDriver) {
	s := &o.Spec
	point(&s.AttachRequired, true)
	point(&s.PodInfoOnMount, false)
	point(&s.StorageCapacity, false)
	point(&s.FSGroupPolicy, storage.ReadWriteOnceWithFSTypeFSGroupPolicy)
	point(&s.RequiresRepublish, false)
	point(&s.SELinuxMount, false)
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storage.VolumeLifecycleMode{storage.VolumeLifecyclePersistent}
	}
}

// PriorityClass lets its pods preempt.
func PriorityClass(o *scheduling.PriorityClass) {
	point(&o.PreemptionPolicy, core.PreemptLowerPriority)
}

// RoleBinding fills the API groups of role and subjects.
func RoleBinding(o *rbac.RoleBinding) {
	fill(&o.RoleRef.APIGroup, rbac.GroupName)
	subjects(o.Subjects)
}

// ClusterRoleBinding fills the API groups of role and subjects.
func ClusterRoleBinding(o *rbac.ClusterRoleBinding) {
	fill(&o.RoleRef.APIGroup, rbac.GroupName)
	subjects(o.Subjects)
}

func subjects(list []rbac.Subject) {
	for i := range list {
		if slices.Contains([]string{rbac.UserKind, rbac.GroupKind}, list[i].Kind) {
			fill(&list[i].APIGroup, rbac.GroupName)
		}
	}
}
