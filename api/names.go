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

	// Finalizers that keep storage objects until nobody uses them.
	ClaimProtection      = "kubernetes.io/pvc-protection"
	VolumeProtection     = "kubernetes.io/pv-protection"
	AttributesProtection = "kubernetes.io/vac-protection"

	// ServerUser is whom the API server's own parts act as.
	ServerUser = "system:apiserver"

	// ControllerUser is whom the controllers of the server act as.
	ControllerUser = "system:kube-controller-manager"
	SchedulerUser  = "system:kube-scheduler"

	// GPUDriver is the driver of the ResourceSlices that orch's own agents publish.
	GPUDriver = "gpu.nvidia.com"

	// GPUTaintKey is the taint of nodes with GPUs, as NVIDIA's charts tolerate it.
	GPUTaintKey = "nvidia.com/gpu"

	// AnnotationDevices names, on a pod, the devices that the scheduler chose for its
	// containers: JSON, container to resource to ids. It is part of the binding; what a
	// user wrote there is replaced.
	AnnotationDevices = "orch.io/allocated-devices"

	// ConditionGPUShare says, on a pod, what keeps those that share its GPUs within their
	// shares; its reasons are gpu/share's levels.
	ConditionGPUShare = "orch.io/GPUShareEnforced"
)
