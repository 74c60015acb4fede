package bootstrap

import (
	"slices"
	"strings"

	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The roles that every Kubernetes cluster has, by the names and with the rules
// that charts, docs and audits expect. Rules are written as words:
//
//	can("get list watch", "apps", "deployments deployments/scale")
//
// "core" is the group without a name. Roles of controllers are in controllers.go.

const (
	read  = "get list watch"
	write = "create delete deletecollection patch update"
	both  = "create delete deletecollection get list patch update watch"

	aggregateLabel = "rbac.authorization.k8s.io/aggregate-to-"
)

func can(verbs, groups, resources string) rbac.PolicyRule {
	g := strings.Fields(groups)
	for i := range g {
		if g[i] == "core" {
			g[i] = ""
		}
	}
	return rbac.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: g, Resources: strings.Fields(resources)}
}

func named(r rbac.PolicyRule, names ...string) rbac.PolicyRule {
	r.ResourceNames = names
	return r
}

func paths(p string) rbac.PolicyRule {
	return rbac.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: strings.Fields(p)}
}

var events = can("create patch update", "core events.k8s.io", "events")

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{"rbac.authorization.kubernetes.io/autoupdate": "true"},
	}
}

func clusterRole(name string, rules ...rbac.PolicyRule) *rbac.ClusterRole {
	return &rbac.ClusterRole{ObjectMeta: meta("", name), Rules: rules}
}

// partOf labels a role as a piece of an aggregated one.
func partOf(r *rbac.ClusterRole, of string) *rbac.ClusterRole {
	r.Labels[aggregateLabel+of] = "true"
	return r
}

// sumOf is a role whose rules are collected by the aggregation controller.
func sumOf(name string) *rbac.ClusterRole {
	r := clusterRole(name)
	r.AggregationRule = &rbac.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{aggregateLabel + name: "true"}}}}
	return r
}

// clusterRoles are all of them, users' roles first.
func clusterRoles() []*rbac.ClusterRole {
	out := []*rbac.ClusterRole{
		clusterRole("cluster-admin", can("*", "*", "*"), rbac.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		sumOf("admin"), partOf(sumOf("edit"), "admin"), partOf(sumOf("view"), "edit"),
		aggregateToAdmin(), aggregateToEdit(), aggregateToView(),
	}
	return slices.Concat(out, systemRoles(), componentRoles(), signerRoles(), controllerRoles())
}

func aggregateToAdmin() *rbac.ClusterRole {
	return partOf(clusterRole("system:aggregate-to-admin",
		can("create", "authorization.k8s.io", "localsubjectaccessreviews"),
		can(both, "rbac.authorization.k8s.io", "rolebindings roles"),
	), "admin")
}

func aggregateToEdit() *rbac.ClusterRole {
	return partOf(clusterRole("system:aggregate-to-edit",
		can(read, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
		can("impersonate", "core", "serviceaccounts"),
		can(write, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
		can("create", "core", "pods/eviction"),
		can(write, "events.k8s.io", "events"),
		can(write, "core", "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy"),
		can("create", "core", "serviceaccounts/token"),
		can(write, "apps", "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale"),
		can(write, "autoscaling", "horizontalpodautoscalers"),
		can(write, "batch", "cronjobs jobs"),
		can(write, "extensions", "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale"),
		can(write, "policy", "poddisruptionbudgets"),
		can(write, "networking.k8s.io", "ingresses networkpolicies"),
		can(both, "coordination.k8s.io", "leases"),
		can(write, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
	), "edit")
}

func aggregateToView() *rbac.ClusterRole {
	return partOf(clusterRole("system:aggregate-to-view",
		can(read, "core", "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status"),
		can(read, "core", "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status"),
		can(read, "core", "namespaces"),
		can(read, "events.k8s.io", "events"),
		can(read, "discovery.k8s.io", "endpointslices"),
		can(read, "apps", "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"),
		can(read, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
		can(read, "batch", "cronjobs cronjobs/status jobs jobs/status"),
		can(read, "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale"),
		can(read, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
		can(read, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
		can(read, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
	), "view")
}

// systemRoles are those of users as such, and of monitoring.
func systemRoles() []*rbac.ClusterRole {
	return []*rbac.ClusterRole{
		clusterRole("system:auth-delegator",
			can("create", "authentication.k8s.io", "tokenreviews"),
			can("create", "authorization.k8s.io", "subjectaccessreviews")),
		clusterRole("system:basic-user",
			can("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
			can("create", "authentication.k8s.io", "selfsubjectreviews")),
		clusterRole("system:discovery", paths("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")),
		clusterRole("system:public-info-viewer", paths("/healthz /livez /readyz /version /version/")),
		clusterRole("system:service-account-issuer-discovery", paths("/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")),
		clusterRole("system:monitoring", can("get", "core", "nodes/metrics"), paths("/flagz /statusz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")),
		clusterRole("system:heapster",
			can(read, "core", "events namespaces nodes pods"),
			can(read, "extensions", "deployments")),
		clusterRole("system:cluster-trust-bundle-discovery", can(read, "certificates.k8s.io", "clustertrustbundles")),
		clusterRole("system:kube-aggregator", can(read, "core", "endpoints services")),
		clusterRole("system:kube-dns", can("list watch", "core", "endpoints services")),
		clusterRole("system:kubelet-api-admin",
			can(read, "core", "nodes"),
			can("proxy", "core", "nodes"),
			can("*", "core", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats")),
	}
}

// componentRoles are those of Kubernetes' own components.
func componentRoles() []*rbac.ClusterRole {
	return []*rbac.ClusterRole{
		nodeRole(), schedulerRole(), managerRole(),
		clusterRole("system:node-bootstrapper", can("create "+read, "certificates.k8s.io", "certificatesigningrequests")),
		clusterRole("system:node-problem-detector", can("get", "core", "nodes"), can("patch", "core", "nodes/status"), events),
		clusterRole("system:node-proxier",
			can("list watch", "core", "endpoints services"),
			can(read, "core", "nodes"),
			events,
			can("list watch", "discovery.k8s.io", "endpointslices"),
			can("list watch", "networking.k8s.io", "servicecidrs")),
		clusterRole("system:persistent-volume-provisioner",
			can("create delete "+read, "core", "persistentvolumes"),
			can("update "+read, "core", "persistentvolumeclaims"),
			can(read, "storage.k8s.io", "storageclasses"),
			can("watch", "core", "events"),
			events),
		clusterRole("system:volume-scheduler",
			can(read+" patch update", "core", "persistentvolumes"),
			can(read, "storage.k8s.io", "storageclasses"),
			can(read+" patch update", "core", "persistentvolumeclaims")),
	}
}

func nodeRole() *rbac.ClusterRole {
	return clusterRole("system:node",
		can("create", "authentication.k8s.io", "tokenreviews"),
		can("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
		can(read, "core", "services"),
		can("create "+read, "core", "nodes"),
		can("patch update", "core", "nodes/status"),
		can("patch update", "core", "nodes"),
		can("create patch update", "core events.k8s.io", "events"),
		can(read, "core", "pods"),
		can("create delete", "core", "pods"),
		can("patch update", "core", "pods/status"),
		can("create", "core", "pods/eviction"),
		can(read, "core", "configmaps secrets"),
		can("get", "core", "persistentvolumeclaims persistentvolumes"),
		can("get", "core", "endpoints"),
		can("create "+read, "certificates.k8s.io", "certificatesigningrequests podcertificaterequests"),
		can(read, "certificates.k8s.io", "clustertrustbundles"),
		can("create delete get patch update", "coordination.k8s.io", "leases"),
		can("get", "storage.k8s.io", "volumeattachments"),
		can("create", "core", "serviceaccounts/token"),
		can("get", "core", "serviceaccounts"),
		can("get patch update", "core", "persistentvolumeclaims/status"),
		can(read, "storage.k8s.io", "csidrivers"),
		can("create delete get patch update", "storage.k8s.io", "csinodes"),
		can(read, "node.k8s.io", "runtimeclasses"),
		can("get", "resource.k8s.io", "resourceclaims"),
		can("deletecollection", "resource.k8s.io", "resourceslices"),
	)
}

func schedulerRole() *rbac.ClusterRole {
	return clusterRole("system:kube-scheduler",
		events,
		can("create", "coordination.k8s.io", "leases"),
		named(can("update "+read, "coordination.k8s.io", "leases"), "kube-scheduler"),
		can(both, "coordination.k8s.io", "leasecandidates"),
		can(read, "core", "nodes"),
		can("delete "+read, "core", "pods"),
		can("create", "core", "bindings pods/binding"),
		can("patch update", "core", "pods/status"),
		can("update", "core", "pods/finalizers"),
		can(read, "core", "replicationcontrollers services"),
		can(read, "apps extensions", "replicasets"),
		can(read, "apps", "statefulsets"),
		can(read, "policy", "poddisruptionbudgets"),
		can(read, "core", "persistentvolumeclaims persistentvolumes"),
		can("create", "authentication.k8s.io", "tokenreviews"),
		can("create", "authorization.k8s.io", "subjectaccessreviews"),
		can(read, "storage.k8s.io", "csinodes"),
		can(read, "core", "namespaces"),
		can(read, "storage.k8s.io", "csidrivers"),
		can(read, "storage.k8s.io", "csistoragecapacities"),
		can(read, "storage.k8s.io", "volumeattachments"),
		can(read, "resource.k8s.io", "deviceclasses devicetaintrules resourceslices"),
		can("create delete patch update "+read, "resource.k8s.io", "resourceclaims"),
		can("patch update "+read, "resource.k8s.io", "resourceclaims/status"),
		can("patch update", "resource.k8s.io", "resourceclaims/binding"),
	)
}

func managerRole() *rbac.ClusterRole {
	return clusterRole("system:kube-controller-manager",
		events,
		can("create", "coordination.k8s.io", "leases"),
		named(can("get update", "coordination.k8s.io", "leases"), "kube-controller-manager"),
		can("create", "core", "secrets serviceaccounts"),
		can("delete", "core", "secrets"),
		can("get", "core", "configmaps namespaces secrets serviceaccounts"),
		can("update", "core", "secrets serviceaccounts"),
		can("create", "authentication.k8s.io", "tokenreviews"),
		can("create", "authorization.k8s.io", "subjectaccessreviews"),
		can("list watch", "*", "*"),
		can("create", "core", "serviceaccounts/token"),
	)
}

func signerRoles() []*rbac.ClusterRole {
	const group, prefix = "certificates.k8s.io", "system:certificates.k8s.io:"
	out := []*rbac.ClusterRole{
		clusterRole(prefix+"certificatesigningrequests:nodeclient", can("create", group, "certificatesigningrequests/nodeclient")),
		clusterRole(prefix+"certificatesigningrequests:selfnodeclient", can("create", group, "certificatesigningrequests/selfnodeclient")),
	}
	for _, s := range []string{"kube-apiserver-client", "kube-apiserver-client-kubelet", "kubelet-serving", "legacy-unknown"} {
		out = append(out, clusterRole(prefix+s+"-approver", named(can("approve", group, "signers"), "kubernetes.io/"+s)))
	}
	return out
}
