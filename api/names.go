package api

// Names that clients know and several parts of orch use.
const (
	NamespaceSystem    = "kube-system"
	NamespacePublic    = "kube-public"
	NamespaceNodeLease = "kube-node-lease"
	NamespaceDefault   = "default"

	GroupMasters         = "system:masters"
	GroupNodes           = "system:nodes"
	GroupAuthenticated   = "system:authenticated"
	GroupUnauthenticated = "system:unauthenticated"
	UserNodePrefix       = "system:node:"
	UserAnonymous        = "system:anonymous"

	RootCAConfigMap      = "kube-root-ca.crt"
	KubernetesService    = "kubernetes"
	DefaultSchedulerName = "default-scheduler"

	// ControllerUser is whom the controllers of the server act as.
	ControllerUser = "system:kube-controller-manager"
	SchedulerUser  = "system:kube-scheduler"
)
