package defaults

import (
	"reflect"

	core "k8s.io/api/core/v1"
)

// fileMode is the permission of files made from ConfigMaps, Secrets and the like.
const fileMode int32 = 0o644

func volume(v *core.Volume) {
	s := &v.VolumeSource
	if reflect.ValueOf(*s).IsZero() {
		s.EmptyDir = &core.EmptyDirVolumeSource{}
		return
	}
	switch {
	case s.Secret != nil:
		point(&s.Secret.DefaultMode, fileMode)
	case s.ConfigMap != nil:
		point(&s.ConfigMap.DefaultMode, fileMode)
	case s.DownwardAPI != nil:
		point(&s.DownwardAPI.DefaultMode, fileMode)
		downwardFiles(s.DownwardAPI.Items)
	case s.Projected != nil:
		point(&s.Projected.DefaultMode, fileMode)
		for i := range s.Projected.Sources {
			projection(&s.Projected.Sources[i])
		}
	case s.HostPath != nil:
		point(&s.HostPath.Type, core.HostPathUnset)
	case s.Image != nil:
		fill(&s.Image.PullPolicy, pullPolicy(s.Image.Reference))
	case s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil:
		claimSpec(&s.Ephemeral.VolumeClaimTemplate.Spec)
	default:
		vendorVolume(s)
	}
}

func projection(p *core.VolumeProjection) {
	if p.ServiceAccountToken != nil {
		point(&p.ServiceAccountToken.ExpirationSeconds, 3600)
	}
	if p.PodCertificate != nil {
		point(&p.PodCertificate.MaxExpirationSeconds, 86400)
	}
	if p.DownwardAPI != nil {
		downwardFiles(p.DownwardAPI.Items)
	}
}

func downwardFiles(items []core.DownwardAPIVolumeFile) {
	for i := range items {
		if ref := items[i].FieldRef; ref != nil {
			fill(&ref.APIVersion, "v1")
		}
	}
}

// vendorVolume fills the in-tree volumes of storage vendors.
func vendorVolume(s *core.VolumeSource) {
	switch {
	case s.ISCSI != nil:
		fill(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		fill(&s.RBD.RBDPool, "rbd")
		fill(&s.RBD.RadosUser, "admin")
		fill(&s.RBD.Keyring, "/etc/ceph/keyring")
	case s.AzureDisk != nil:
		azureDisk(s.AzureDisk)
	case s.ScaleIO != nil:
		fill(&s.ScaleIO.StorageMode, "ThinProvisioned")
		fill(&s.ScaleIO.FSType, "xfs")
	}
}

func azureDisk(d *core.AzureDiskVolumeSource) {
	point(&d.CachingMode, core.AzureDataDiskCachingReadWrite)
	point(&d.Kind, core.AzureSharedBlobDisk)
	point(&d.FSType, "ext4")
	point(&d.ReadOnly, false)
}

// PersistentVolume fills a volume; a new one is Pending.
func PersistentVolume(o *core.PersistentVolume) {
	fill(&o.Status.Phase, core.VolumePending)
	fill(&o.Spec.PersistentVolumeReclaimPolicy, core.PersistentVolumeReclaimRetain)
	point(&o.Spec.VolumeMode, core.PersistentVolumeFilesystem)
	roundUp(o.Spec.Capacity)
	s := &o.Spec.PersistentVolumeSource
	switch {
	case s.HostPath != nil:
		point(&s.HostPath.Type, core.HostPathUnset)
	case s.ISCSI != nil:
		fill(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		fill(&s.RBD.RBDPool, "rbd")
		fill(&s.RBD.RadosUser, "admin")
		fill(&s.RBD.Keyring, "/etc/ceph/keyring")
	case s.AzureDisk != nil:
		azureDisk(s.AzureDisk)
	case s.ScaleIO != nil:
		fill(&s.ScaleIO.StorageMode, "ThinProvisioned")
		fill(&s.ScaleIO.FSType, "xfs")
	}
}

// PersistentVolumeClaim fills a claim; a new one is Pending.
func PersistentVolumeClaim(o *core.PersistentVolumeClaim) {
	fill(&o.Status.Phase, core.ClaimPending)
	claimSpec(&o.Spec)
	roundUp(o.Status.Capacity)
	roundUp(o.Status.AllocatedResources)
}

func claimSpec(s *core.PersistentVolumeClaimSpec) {
	point(&s.VolumeMode, core.PersistentVolumeFilesystem)
	roundUp(s.Resources.Limits)
	roundUp(s.Resources.Requests)
	mirrorDataSource(s)
}

// mirrorDataSource keeps the old and the new field for a claim's source alike
// where the new one names no other namespace (upstream: NormalizeDataSources).
func mirrorDataSource(s *core.PersistentVolumeClaimSpec) {
	switch {
	case s.DataSource != nil && s.DataSourceRef == nil:
		s.DataSourceRef = &core.TypedObjectReference{APIGroup: s.DataSource.APIGroup, Kind: s.DataSource.Kind, Name: s.DataSource.Name}
	case s.DataSourceRef != nil && s.DataSource == nil && (s.DataSourceRef.Namespace == nil || *s.DataSourceRef.Namespace == ""):
		s.DataSource = &core.TypedLocalObjectReference{APIGroup: s.DataSourceRef.APIGroup, Kind: s.DataSourceRef.Kind, Name: s.DataSourceRef.Name}
	}
}
