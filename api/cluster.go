package api

import (
	certificates "k8s.io/api/certificates/v1"
	coordination "k8s.io/api/coordination/v1"
	discovery "k8s.io/api/discovery/v1"
	events "k8s.io/api/events/v1"
	flowcontrol "k8s.io/api/flowcontrol/v1"
	networking "k8s.io/api/networking/v1"
	node "k8s.io/api/node/v1"
	policy "k8s.io/api/policy/v1"
	scheduling "k8s.io/api/scheduling/v1"
	storage "k8s.io/api/storage/v1"
	migration "k8s.io/api/storagemigration/v1"
)

var networkingV1, storageV1 = networking.SchemeGroupVersion, storage.SchemeGroupVersion

// Kinds of networking.k8s.io/v1.
var (
	Ingresses       = kind[networking.Ingress, networking.IngressList](networkingV1, "Ingress", Facts{Plural: "ingresses", Short: words("ing"), Status: true, Path: "ingress"})
	IngressClasses  = kind[networking.IngressClass, networking.IngressClassList](networkingV1, "IngressClass", Facts{Plural: "ingressclasses", Cluster: true})
	NetworkPolicies = kind[networking.NetworkPolicy, networking.NetworkPolicyList](networkingV1, "NetworkPolicy", Facts{Plural: "networkpolicies", Short: words("netpol")})
	IPAddresses     = kind[networking.IPAddress, networking.IPAddressList](networkingV1, "IPAddress", Facts{Plural: "ipaddresses", Short: words("ip"), Cluster: true})
	ServiceCIDRs    = kind[networking.ServiceCIDR, networking.ServiceCIDRList](networkingV1, "ServiceCIDR", Facts{Plural: "servicecidrs", Cluster: true, Status: true})
)

// Kinds of discovery.k8s.io/v1, policy/v1, coordination.k8s.io/v1 and events.k8s.io/v1.
var (
	EndpointSlices       = kind[discovery.EndpointSlice, discovery.EndpointSliceList](discovery.SchemeGroupVersion, "EndpointSlice", Facts{Plural: "endpointslices"})
	PodDisruptionBudgets = kind[policy.PodDisruptionBudget, policy.PodDisruptionBudgetList](policy.SchemeGroupVersion, "PodDisruptionBudget", Facts{Plural: "poddisruptionbudgets", Short: words("pdb"), Status: true})
	Leases               = kind[coordination.Lease, coordination.LeaseList](coordination.SchemeGroupVersion, "Lease", Facts{Plural: "leases"})
	EventsV1             = kind[events.Event, events.EventList](events.SchemeGroupVersion, "Event", Facts{Plural: "events", Short: words("ev"), SameAs: Events.Facts})
)

// Kinds of storage.k8s.io/v1.
var (
	StorageClasses          = kind[storage.StorageClass, storage.StorageClassList](storageV1, "StorageClass", Facts{Plural: "storageclasses", Short: words("sc"), Cluster: true})
	VolumeAttachments       = kind[storage.VolumeAttachment, storage.VolumeAttachmentList](storageV1, "VolumeAttachment", Facts{Plural: "volumeattachments", Cluster: true, Status: true})
	CSIDrivers              = kind[storage.CSIDriver, storage.CSIDriverList](storageV1, "CSIDriver", Facts{Plural: "csidrivers", Cluster: true})
	CSINodes                = kind[storage.CSINode, storage.CSINodeList](storageV1, "CSINode", Facts{Plural: "csinodes", Cluster: true})
	CSIStorageCapacities    = kind[storage.CSIStorageCapacity, storage.CSIStorageCapacityList](storageV1, "CSIStorageCapacity", Facts{Plural: "csistoragecapacities"})
	VolumeAttributesClasses = kind[storage.VolumeAttributesClass, storage.VolumeAttributesClassList](storageV1, "VolumeAttributesClass", Facts{Plural: "volumeattributesclasses", Short: words("vac"), Cluster: true})
)

// Kinds of scheduling.k8s.io/v1, node.k8s.io/v1 and certificates.k8s.io/v1.
var (
	PriorityClasses            = kind[scheduling.PriorityClass, scheduling.PriorityClassList](scheduling.SchemeGroupVersion, "PriorityClass", Facts{Plural: "priorityclasses", Short: words("pc"), Cluster: true})
	RuntimeClasses             = kind[node.RuntimeClass, node.RuntimeClassList](node.SchemeGroupVersion, "RuntimeClass", Facts{Plural: "runtimeclasses", Cluster: true})
	CertificateSigningRequests = kind[certificates.CertificateSigningRequest, certificates.CertificateSigningRequestList](certificates.SchemeGroupVersion, "CertificateSigningRequest",
		Facts{Plural: "certificatesigningrequests", Short: words("csr"), Cluster: true, Status: true, Sub: words("approval")})
	ClusterTrustBundles    = kind[certificates.ClusterTrustBundle, certificates.ClusterTrustBundleList](certificates.SchemeGroupVersion, "ClusterTrustBundle", Facts{Plural: "clustertrustbundles", Cluster: true})
	PodCertificateRequests = kind[certificates.PodCertificateRequest, certificates.PodCertificateRequestList](certificates.SchemeGroupVersion, "PodCertificateRequest", Facts{Plural: "podcertificaterequests", Status: true})
)

// Kinds of flowcontrol.apiserver.k8s.io/v1 and storagemigration.k8s.io/v1.
var (
	FlowSchemas                 = kind[flowcontrol.FlowSchema, flowcontrol.FlowSchemaList](flowcontrol.SchemeGroupVersion, "FlowSchema", Facts{Plural: "flowschemas", Cluster: true, Status: true})
	PriorityLevelConfigurations = kind[flowcontrol.PriorityLevelConfiguration, flowcontrol.PriorityLevelConfigurationList](flowcontrol.SchemeGroupVersion, "PriorityLevelConfiguration",
		Facts{Plural: "prioritylevelconfigurations", Cluster: true, Status: true})
	StorageVersionMigrations = kind[migration.StorageVersionMigration, migration.StorageVersionMigrationList](migration.SchemeGroupVersion, "StorageVersionMigration",
		Facts{Plural: "storageversionmigrations", Cluster: true, Status: true})
)

var clusterKinds = []*Facts{
	Ingresses.Facts, IngressClasses.Facts, NetworkPolicies.Facts, IPAddresses.Facts, ServiceCIDRs.Facts,
	EndpointSlices.Facts, PodDisruptionBudgets.Facts, Leases.Facts, EventsV1.Facts,
	StorageClasses.Facts, VolumeAttachments.Facts, CSIDrivers.Facts, CSINodes.Facts, CSIStorageCapacities.Facts, VolumeAttributesClasses.Facts,
	PriorityClasses.Facts, RuntimeClasses.Facts, CertificateSigningRequests.Facts, ClusterTrustBundles.Facts, PodCertificateRequests.Facts,
	FlowSchemas.Facts, PriorityLevelConfigurations.Facts, StorageVersionMigrations.Facts,
}
