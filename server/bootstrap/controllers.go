package bootstrap

import (
	"slices"

	rbac "k8s.io/api/rbac/v1"
)

// controllerPrefix starts the names of the controllers' roles and bindings; the
// rest is the name of the service account in kube-system.
const controllerPrefix = "system:controller:"

// controllerRules has the rules of each controller beyond writing events, which
// all but a few may do.
var controllerRules = []struct {
	name     string
	noEvents bool
	rules    []rbac.PolicyRule
}{
	{name: "attachdetach-controller", rules: []rbac.PolicyRule{
		can("list watch", "core", "persistentvolumeclaims persistentvolumes"), can(read, "core", "nodes"), can("patch update", "core", "nodes/status"),
		can("list watch", "core", "pods"), can("create delete get list watch", "storage.k8s.io", "volumeattachments"), can(read, "storage.k8s.io", "csidrivers"), can(read, "storage.k8s.io", "csinodes")}},
	{name: "certificate-controller", rules: []rbac.PolicyRule{
		can("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
		can("update", "certificates.k8s.io", "certificatesigningrequests/approval certificatesigningrequests/status"),
		named(can("approve", "certificates.k8s.io", "signers"), "kubernetes.io/kube-apiserver-client-kubelet"),
		named(can("sign", "certificates.k8s.io", "signers"), "kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving", "kubernetes.io/legacy-unknown"),
		can("create", "authorization.k8s.io", "subjectaccessreviews")}},
	{name: "clusterrole-aggregation-controller", noEvents: true, rules: []rbac.PolicyRule{
		can("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")}},
	{name: "cronjob-controller", rules: []rbac.PolicyRule{
		can("get list update watch", "batch", "cronjobs"), can("create delete get list patch update watch", "batch", "jobs"), can("update", "batch", "cronjobs/status"),
		can("update", "batch", "cronjobs/finalizers"), can("delete list watch", "core", "pods")}},
	{name: "daemon-set-controller", rules: []rbac.PolicyRule{
		can(read, "apps extensions", "daemonsets"), can("update", "apps extensions", "daemonsets/status"), can("update", "apps extensions", "daemonsets/finalizers"),
		can("list watch", "core", "nodes"), can("create delete list patch watch", "core", "pods"), can("create", "core", "pods/binding"),
		can("create delete get list patch update watch", "apps", "controllerrevisions")}},
	{name: "deployment-controller", rules: []rbac.PolicyRule{
		can("get list update watch", "apps extensions", "deployments"), can("update", "apps extensions", "deployments/status"), can("update", "apps extensions", "deployments/finalizers"),
		can("create delete get list patch update watch", "apps extensions", "replicasets"), can("get list update watch", "core", "pods")}},
	{name: "device-taint-eviction-controller", rules: []rbac.PolicyRule{
		can("delete get list watch", "core", "pods"), can("patch update", "core", "pods/status"),
		can(read, "resource.k8s.io", "resourceclaims"), can(read, "resource.k8s.io", "resourceslices"), can(read, "resource.k8s.io", "deviceclasses"), can(read, "resource.k8s.io", "devicetaintrules"),
		can("patch update", "resource.k8s.io", "devicetaintrules/status")}},
	{name: "disruption-controller", rules: []rbac.PolicyRule{
		can(read, "apps extensions", "deployments"), can(read, "apps extensions", "replicasets"), can(read, "core", "replicationcontrollers"), can(read, "policy", "poddisruptionbudgets"),
		can(read, "apps", "statefulsets"), can("update", "policy", "poddisruptionbudgets/status"), can("patch update", "core", "pods/status"), can("get", "*", "*/scale")}},
	{name: "endpoint-controller", rules: []rbac.PolicyRule{
		can(read, "core", "pods services"), can("create delete get list update watch", "core", "endpoints"), can("create", "core", "endpoints/restricted")}},
	{name: "endpointslice-controller", rules: []rbac.PolicyRule{
		can(read, "core", "nodes pods services"), can("update", "core", "services/finalizers"), can("create delete get list update watch", "discovery.k8s.io", "endpointslices")}},
	{name: "endpointslicemirroring-controller", rules: []rbac.PolicyRule{
		can(read, "core", "endpoints services"), can("update", "core", "services/finalizers"), can("update", "core", "endpoints/finalizers"),
		can("create delete get list update watch", "discovery.k8s.io", "endpointslices")}},
	{name: "ephemeral-volume-controller", rules: []rbac.PolicyRule{
		can(read, "core", "pods"), can("update", "core", "pods/finalizers"), can("create get list watch", "core", "persistentvolumeclaims")}},
	{name: "expand-controller", rules: []rbac.PolicyRule{
		can("get list patch update watch", "core", "persistentvolumes"), can("patch update", "core", "persistentvolumeclaims/status"), can(read, "core", "persistentvolumeclaims")}},
	{name: "generic-garbage-collector", rules: []rbac.PolicyRule{can("delete get list patch update watch", "*", "*")}},
	{name: "horizontal-pod-autoscaler", rules: []rbac.PolicyRule{
		can(read, "autoscaling", "horizontalpodautoscalers"), can("update", "autoscaling", "horizontalpodautoscalers/status"), can("get update", "*", "*/scale"), can("list watch", "core", "pods"),
		can("list watch", "metrics.k8s.io", "pods"), can(read, "custom.metrics.k8s.io", "*"), can(read, "external.metrics.k8s.io", "*")}},
	{name: "job-controller", rules: []rbac.PolicyRule{
		can("get list patch update watch", "batch", "jobs"), can("update", "batch", "jobs/status"), can("update", "batch", "jobs/finalizers"), can("create delete list patch watch", "core", "pods")}},
	{name: "kube-apiserver-serving-clustertrustbundle-publisher", rules: []rbac.PolicyRule{
		named(can("attest", "certificates.k8s.io", "signers"), "kubernetes.io/kube-apiserver-serving"),
		can("create delete list update watch", "certificates.k8s.io", "clustertrustbundles")}},
	{name: "legacy-service-account-token-cleaner", noEvents: true, rules: []rbac.PolicyRule{
		named(can("get", "core", "configmaps"), "kube-apiserver-legacy-service-account-token-tracking"), can("delete patch", "core", "secrets")}},
	{name: "namespace-controller", noEvents: true, rules: []rbac.PolicyRule{
		can("delete get list watch", "core", "namespaces"), can("update", "core", "namespaces/finalize namespaces/status"), can("delete deletecollection get list watch", "*", "*")}},
	{name: "node-controller", rules: []rbac.PolicyRule{
		can("delete get list patch update watch", "core", "nodes"), can("patch update", "core", "nodes/status"), can("patch update", "core", "pods/status"), can("delete get list watch", "core", "pods"),
		can(read, "coordination.k8s.io", "leases")}},
	{name: "persistent-volume-binder", rules: []rbac.PolicyRule{
		can("create delete get list update watch", "core", "persistentvolumes"), can("update", "core", "persistentvolumes/status"), can("get list update watch", "core", "persistentvolumeclaims"),
		can("update", "core", "persistentvolumeclaims/status"), can("create delete get list watch", "core", "pods"), can(read, "storage.k8s.io", "storageclasses"), can("list watch", "core", "nodes"),
		can("watch", "core", "events")}},
	{name: "pod-garbage-collector", noEvents: true, rules: []rbac.PolicyRule{
		can("delete list watch", "core", "pods"), can(read, "core", "nodes"), can("patch", "core", "pods/status")}},
	{name: "podcertificaterequestcleaner", noEvents: true, rules: []rbac.PolicyRule{can("delete get list watch", "certificates.k8s.io", "podcertificaterequests")}},
	{name: "pv-protection-controller", rules: []rbac.PolicyRule{can("get list update watch", "core", "persistentvolumes")}},
	{name: "pvc-protection-controller", rules: []rbac.PolicyRule{
		can("get list update watch", "core", "persistentvolumeclaims"), can("update", "core", "persistentvolumeclaims/status"), can(read, "core", "pods")}},
	{name: "replicaset-controller", rules: []rbac.PolicyRule{
		can("get list update watch", "apps extensions", "replicasets"), can("update", "apps extensions", "replicasets/status"), can("update", "apps extensions", "replicasets/finalizers"),
		can("create delete list patch watch", "core", "pods")}},
	{name: "replication-controller", rules: []rbac.PolicyRule{
		can("get list update watch", "core", "replicationcontrollers"), can("update", "core", "replicationcontrollers/status"), can("update", "core", "replicationcontrollers/finalizers"),
		can("create delete list patch watch", "core", "pods")}},
	{name: "resource-claim-controller", rules: []rbac.PolicyRule{
		can(read, "core", "pods"), can("update", "core", "pods/finalizers"), can("create delete get list watch", "resource.k8s.io", "resourceclaims"),
		can("patch update", "resource.k8s.io", "resourceclaims resourceclaims/binding resourceclaims/status"), can("patch update", "core", "pods/status")}},
	{name: "resourcequota-controller", rules: []rbac.PolicyRule{can("list watch", "*", "*"), can("update", "core", "resourcequotas/status")}},
	{name: "root-ca-cert-publisher", rules: []rbac.PolicyRule{can("create update", "core", "configmaps")}},
	{name: "route-controller", rules: []rbac.PolicyRule{can("list watch", "core", "nodes"), can("patch", "core", "nodes/status")}},
	{name: "selinux-warning-controller", rules: []rbac.PolicyRule{
		can(read, "core", "persistentvolumes"), can(read, "core", "persistentvolumeclaims"), can(read, "core", "pods"), can(read, "storage.k8s.io", "csidrivers")}},
	{name: "service-account-controller", rules: []rbac.PolicyRule{can("create", "core", "serviceaccounts")}},
	{name: "service-cidrs-controller", rules: []rbac.PolicyRule{
		can("get list patch update watch", "networking.k8s.io", "servicecidrs"), can("patch update", "networking.k8s.io", "servicecidrs/finalizers"),
		can("patch update", "networking.k8s.io", "servicecidrs/status"), can(read, "networking.k8s.io", "ipaddresses")}},
	{name: "service-controller", rules: []rbac.PolicyRule{can(read, "core", "services"), can("patch update", "core", "services/status"), can("list watch", "core", "nodes")}},
	{name: "statefulset-controller", rules: []rbac.PolicyRule{
		can("list watch", "core", "pods"), can(read, "apps", "statefulsets"), can("update", "apps", "statefulsets/status"), can("update", "apps", "statefulsets/finalizers"),
		can("create delete get patch update", "core", "pods"), can("create delete get list patch update watch", "apps", "controllerrevisions"),
		can("create get list watch", "core", "persistentvolumeclaims"), can("delete update", "core", "persistentvolumeclaims"), can("update", "core", "pods/finalizers")}},
	{name: "storage-version-migrator-controller", noEvents: true, rules: []rbac.PolicyRule{
		can("list patch", "*", "*"), can("update", "storagemigration.k8s.io", "storageversionmigrations/status"),
		can("get", "apiextensions.k8s.io", "customresourcedefinitions"), can("patch", "apiextensions.k8s.io", "customresourcedefinitions/status")}},
	{name: "ttl-after-finished-controller", rules: []rbac.PolicyRule{can("delete get list watch", "batch", "jobs")}},
	{name: "ttl-controller", rules: []rbac.PolicyRule{can("list patch update watch", "core", "nodes")}},
	{name: "validatingadmissionpolicy-status-controller", rules: []rbac.PolicyRule{
		can(read, "admissionregistration.k8s.io", "validatingadmissionpolicies"), can("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status")}},
	{name: "volumeattributesclass-protection-controller", rules: []rbac.PolicyRule{
		can(read, "core", "persistentvolumeclaims"), can(read, "core", "persistentvolumes"), can("get list update watch", "storage.k8s.io", "volumeattributesclasses")}},
}

func controllerRoles() []*rbac.ClusterRole {
	var out []*rbac.ClusterRole
	for _, c := range controllerRules {
		rules := slices.Clone(c.rules)
		if !c.noEvents {
			rules = append(rules, events)
		}
		out = append(out, clusterRole(controllerPrefix+c.name, rules...))
	}
	return out
}
