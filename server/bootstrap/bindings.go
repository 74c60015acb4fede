package bootstrap

import (
	rbac "k8s.io/api/rbac/v1"

	"orch/api"
)

func user(name string) rbac.Subject {
	return rbac.Subject{Kind: rbac.UserKind, APIGroup: rbac.GroupName, Name: name}
}

func group(name string) rbac.Subject {
	return rbac.Subject{Kind: rbac.GroupKind, APIGroup: rbac.GroupName, Name: name}
}

// account is a service account of kube-system.
func account(name string) rbac.Subject {
	return rbac.Subject{Kind: rbac.ServiceAccountKind, Namespace: api.NamespaceSystem, Name: name}
}

func binding(name, role string, to ...rbac.Subject) *rbac.ClusterRoleBinding {
	return &rbac.ClusterRoleBinding{
		ObjectMeta: meta("", name), Subjects: to,
		RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: role},
	}
}

func same(name string, to ...rbac.Subject) *rbac.ClusterRoleBinding {
	return binding(name, name, to...)
}

func clusterRoleBindings() []*rbac.ClusterRoleBinding {
	out := []*rbac.ClusterRoleBinding{
		same("cluster-admin", group(api.GroupMasters)),
		same("system:monitoring", group("system:monitoring")),
		same("system:discovery", group(api.GroupAuthenticated)),
		same("system:basic-user", group(api.GroupAuthenticated)),
		same("system:public-info-viewer", group(api.GroupAuthenticated), group(api.GroupUnauthenticated)),
		same("system:node-proxier", user("system:kube-proxy")),
		same("system:cluster-trust-bundle-discovery", group("system:serviceaccounts")),
		same("system:kube-controller-manager", user(api.ControllerUser)),
		same("system:kube-dns", account("kube-dns")),
		same("system:kube-scheduler", user(api.SchedulerUser)),
		same("system:volume-scheduler", user(api.SchedulerUser)),
		same("system:node"), // nodes have the node authorizer instead
		same("system:service-account-issuer-discovery", group("system:serviceaccounts")),
		// The service proxy, DNS and the overlay live in the agent and use its credential.
		binding("orch:node-proxier", "system:node-proxier", group(api.GroupNodes)),
	}
	for _, c := range controllerRules {
		out = append(out, same(controllerPrefix+c.name, account(c.name)))
	}
	return out
}

func role(namespace, name string, rules ...rbac.PolicyRule) *rbac.Role {
	return &rbac.Role{ObjectMeta: meta(namespace, name), Rules: rules}
}

func roles() []*rbac.Role {
	const sys = api.NamespaceSystem
	leader := func(name string) *rbac.Role {
		return role(sys, "system::leader-locking-"+name, can("create update "+read, "coordination.k8s.io", "leasecandidates leases"))
	}
	return []*rbac.Role{
		role(sys, "extension-apiserver-authentication-reader", named(can(read, "core", "configmaps"), authenticationConfigMap)),
		leader("kube-controller-manager"), leader("kube-scheduler"),
		role(sys, controllerPrefix+"bootstrap-signer", can(read, "core", "secrets")),
		role(sys, controllerPrefix+"cloud-provider", can("create get list watch", "core", "configmaps")),
		role(sys, controllerPrefix+"token-cleaner", can("delete get list watch", "core", "secrets"), events),
		role(api.NamespacePublic, controllerPrefix+"bootstrap-signer", can(read, "core", "configmaps"), named(can("update", "core", "configmaps"), clusterInfoConfigMap), events),
	}
}

func roleBinding(namespace, name, role string, to ...rbac.Subject) *rbac.RoleBinding {
	return &rbac.RoleBinding{
		ObjectMeta: meta(namespace, name), Subjects: to,
		RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: role},
	}
}

func roleBindings() []*rbac.RoleBinding {
	const sys = api.NamespaceSystem
	out := []*rbac.RoleBinding{
		roleBinding(sys, "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader", user(api.ControllerUser), user(api.SchedulerUser)),
		roleBinding(sys, "system::leader-locking-kube-controller-manager", "system::leader-locking-kube-controller-manager", user(api.ControllerUser), account("kube-controller-manager"), account("leader-election-controller")),
		roleBinding(sys, "system::leader-locking-kube-scheduler", "system::leader-locking-kube-scheduler", user(api.SchedulerUser), account("kube-scheduler")),
		roleBinding(api.NamespacePublic, controllerPrefix+"bootstrap-signer", controllerPrefix+"bootstrap-signer", account("bootstrap-signer")),
	}
	for _, c := range []string{"bootstrap-signer", "cloud-provider", "token-cleaner"} {
		out = append(out, roleBinding(sys, controllerPrefix+c, controllerPrefix+c, account(c)))
	}
	return out
}
