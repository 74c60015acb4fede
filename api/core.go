package api

import (
	auth "k8s.io/api/authentication/v1"
	autoscaling "k8s.io/api/autoscaling/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
)

var coreV1 = core.SchemeGroupVersion

// Kinds of core/v1.
var (
	Pods = kind[core.Pod, core.PodList](coreV1, "Pod", Facts{Plural: "pods", Short: words("po"), Categories: words("all"), Status: true,
		Sub: words("attach", "binding", "ephemeralcontainers", "eviction", "exec", "log", "portforward", "proxy", "resize")})
	PodTemplates           = kind[core.PodTemplate, core.PodTemplateList](coreV1, "PodTemplate", Facts{Plural: "podtemplates"})
	ReplicationControllers = kind[core.ReplicationController, core.ReplicationControllerList](coreV1, "ReplicationController", Facts{Plural: "replicationcontrollers", Short: words("rc"), Categories: words("all"), Status: true, Scale: true, Path: "controllers"})
	Services               = kind[core.Service, core.ServiceList](coreV1, "Service", Facts{Plural: "services", Short: words("svc"), Categories: words("all"), Status: true, Sub: words("proxy"), Path: "services/specs"})
	Endpoints              = kind[core.Endpoints, core.EndpointsList](coreV1, "Endpoints", Facts{Plural: "endpoints", Singular: "endpoints", Short: words("ep"), Path: "services/endpoints"})
	Nodes                  = kind[core.Node, core.NodeList](coreV1, "Node", Facts{Plural: "nodes", Short: words("no"), Cluster: true, Status: true, Sub: words("proxy"), Path: "minions"})
	Namespaces             = kind[core.Namespace, core.NamespaceList](coreV1, "Namespace", Facts{Plural: "namespaces", Short: words("ns"), Cluster: true, Status: true, Sub: words("finalize")})
	ConfigMaps             = kind[core.ConfigMap, core.ConfigMapList](coreV1, "ConfigMap", Facts{Plural: "configmaps", Short: words("cm")})
	Secrets                = kind[core.Secret, core.SecretList](coreV1, "Secret", Facts{Plural: "secrets"})
	ServiceAccounts        = kind[core.ServiceAccount, core.ServiceAccountList](coreV1, "ServiceAccount", Facts{Plural: "serviceaccounts", Short: words("sa"), Sub: words("token")})
	PersistentVolumes      = kind[core.PersistentVolume, core.PersistentVolumeList](coreV1, "PersistentVolume", Facts{Plural: "persistentvolumes", Short: words("pv"), Cluster: true, Status: true})
	PersistentVolumeClaims = kind[core.PersistentVolumeClaim, core.PersistentVolumeClaimList](coreV1, "PersistentVolumeClaim", Facts{Plural: "persistentvolumeclaims", Short: words("pvc"), Status: true})
	LimitRanges            = kind[core.LimitRange, core.LimitRangeList](coreV1, "LimitRange", Facts{Plural: "limitranges", Short: words("limits")})
	ResourceQuotas         = kind[core.ResourceQuota, core.ResourceQuotaList](coreV1, "ResourceQuota", Facts{Plural: "resourcequotas", Short: words("quota"), Status: true})
	Events                 = kind[core.Event, core.EventList](coreV1, "Event", Facts{Plural: "events", Short: words("ev")})
	ComponentStatuses      = kind[core.ComponentStatus, core.ComponentStatusList](coreV1, "ComponentStatus", Facts{Plural: "componentstatuses", Short: words("cs"), Cluster: true, Computed: true})
	Bindings               = kind[core.Binding, noList](coreV1, "Binding", Facts{Plural: "bindings", Computed: true})
)

// Bodies of subresources; they have no resource of their own.
var (
	Scales        = kind[autoscaling.Scale, noList](autoscaling.SchemeGroupVersion, "Scale", Facts{Computed: true})
	Evictions     = kind[policy.Eviction, noList](policy.SchemeGroupVersion, "Eviction", Facts{Computed: true})
	TokenRequests = kind[auth.TokenRequest, noList](auth.SchemeGroupVersion, "TokenRequest", Facts{Computed: true})
)

var coreKinds = []*Facts{
	Pods.Facts, PodTemplates.Facts, ReplicationControllers.Facts, Services.Facts, Endpoints.Facts, Nodes.Facts, Namespaces.Facts,
	ConfigMaps.Facts, Secrets.Facts, ServiceAccounts.Facts, PersistentVolumes.Facts, PersistentVolumeClaims.Facts, LimitRanges.Facts,
	ResourceQuotas.Facts, Events.Facts, ComponentStatuses.Facts, Bindings.Facts,
}
