package validate

import (
	"fmt"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

// PersistentVolume checks size, modes and source.
func PersistentVolume(o *core.PersistentVolume) Errors {
	var e rule.Errors
	s := &o.Spec
	modes, capacity := specPath.Child("accessModes"), specPath.Child("capacity")
	if len(s.AccessModes) == 0 {
		e.Required(modes, "")
	}
	e.Join(podspec.AccessModes(s.AccessModes, modes))
	if len(s.Capacity) == 0 {
		e.Required(capacity, "")
	}
	if _, has := s.Capacity[core.ResourceStorage]; !has || len(s.Capacity) > 1 {
		e.Add(field.NotSupported(capacity, s.Capacity, []core.ResourceName{core.ResourceStorage}))
	}
	for _, n := range rule.Sorted(s.Capacity) {
		if q := s.Capacity[n]; q.Sign() <= 0 {
			e.Invalid(capacity.Key(string(n)), q.String(), rule.Positive)
		}
	}
	if s.PersistentVolumeReclaimPolicy != "" {
		rule.Among(&e, specPath.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy,
			core.PersistentVolumeReclaimDelete, core.PersistentVolumeReclaimRecycle, core.PersistentVolumeReclaimRetain)
	}
	affine := volumeAffinity(&e, s.NodeAffinity, specPath.Child("nodeAffinity"))
	volumeSource(&e, s)
	if s.Local != nil && !affine {
		e.Required(metaPath.Child("annotations"), "Local volume requires node affinity")
	}
	if s.HostPath != nil && (s.HostPath.Path == "/" || s.HostPath.Path == "") && s.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimRecycle {
		e.Forbidden(specPath.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	}
	if s.StorageClassName != "" {
		e.ObjectName(specPath.Child("storageClassName"), s.StorageClassName)
	}
	if s.VolumeMode == nil {
		e.Required(specPath.Child("volumeMode"), "")
	} else {
		rule.Among(&e, specPath.Child("volumeMode"), *s.VolumeMode, core.PersistentVolumeBlock, core.PersistentVolumeFilesystem)
	}
	if v := s.VolumeAttributesClassName; v != nil {
		e.Need(specPath.Child("volumeAttributesClassName"), *v)
		e.ObjectName(specPath.Child("volumeAttributesClassName"), *v)
		if s.CSI == nil {
			e.Required(specPath.Child("csi"), "has to be specified when using volumeAttributesClassName")
		}
	}
	return e.List()
}

func volumeAffinity(e *rule.Errors, a *core.VolumeNodeAffinity, p *field.Path) bool {
	if a == nil {
		return false
	}
	if a.Required == nil {
		e.Required(p.Child("required"), "must specify required node constraints")
	} else {
		e.Join(rule.NodeSelector(p.Child("required"), a.Required))
	}
	return true
}

// volumeSource wants exactly one source. The old vendors' sources have the same
// fields as in pods where they matter.
func volumeSource(e *rule.Errors, s *core.PersistentVolumeSpec) {
	n := 0
	one := func(set bool, name string, check func(p *field.Path)) {
		if !set {
			return
		}
		if n++; n > 1 {
			e.Forbidden(specPath.Child(name), "may not specify more than 1 volume type")
			return
		}
		check(specPath.Child(name))
	}
	one(s.HostPath != nil, "hostPath", func(p *field.Path) { e.Join(podspec.HostPath(s.HostPath, p)) })
	one(s.NFS != nil, "nfs", func(p *field.Path) { e.Join(podspec.NFS(s.NFS, p)) })
	one(s.Local != nil, "local", func(p *field.Path) {
		e.Need(p.Child("path"), s.Local.Path)
		if hasBacksteps(s.Local.Path) {
			e.Invalid(p.Child("path"), s.Local.Path, "must not contain '..'")
		}
	})
	one(s.CSI != nil, "csi", func(p *field.Path) {
		e.Join(podspec.CSIDriverName(s.CSI.Driver, p.Child("driver")))
		e.Need(p.Child("volumeHandle"), s.CSI.VolumeHandle)
		secret := func(name string, ref *core.SecretReference) {
			if ref != nil {
				e.Need(p.Child(name, "name"), ref.Name)
				e.Need(p.Child(name, "namespace"), ref.Namespace)
			}
		}
		secret("controllerPublishSecretRef", s.CSI.ControllerPublishSecretRef)
		secret("controllerExpandSecretRef", s.CSI.ControllerExpandSecretRef)
		secret("nodePublishSecretRef", s.CSI.NodePublishSecretRef)
		secret("nodeExpandSecretRef", s.CSI.NodeExpandSecretRef)
	})
	one(s.ISCSI != nil, "iscsi", func(p *field.Path) { e.Join(podspec.ISCSI(s.ISCSI, p)) })
	one(s.FC != nil, "fc", func(p *field.Path) { e.Join(podspec.FC(s.FC, p)) })
	one(s.FlexVolume != nil, "flexVolume", func(p *field.Path) { e.Join(podspec.Flex(s.FlexVolume.Driver, s.FlexVolume.Options, p)) })
	one(s.Flocker != nil, "flocker", func(p *field.Path) { e.Join(podspec.Flocker(s.Flocker, p)) })
	one(s.Quobyte != nil, "quobyte", func(p *field.Path) { e.Join(podspec.Quobyte(s.Quobyte, p)) })
	one(s.AzureDisk != nil, "azureDisk", func(p *field.Path) { e.Join(podspec.AzureDisk(s.AzureDisk, p)) })
	for _, old := range []struct {
		set         bool
		name, field string
		value       func() string
	}{
		{s.GCEPersistentDisk != nil, "gcePersistentDisk", "pdName", func() string { return s.GCEPersistentDisk.PDName }},
		{s.AWSElasticBlockStore != nil, "awsElasticBlockStore", "volumeID", func() string { return s.AWSElasticBlockStore.VolumeID }},
		{s.Glusterfs != nil, "glusterfs", "endpoints", func() string { return s.Glusterfs.EndpointsName }},
		{s.RBD != nil, "rbd", "monitors", func() string { return strings.Join(s.RBD.CephMonitors, ",") }},
		{s.CephFS != nil, "cephfs", "monitors", func() string { return strings.Join(s.CephFS.Monitors, ",") }},
		{s.Cinder != nil, "cinder", "volumeID", func() string { return s.Cinder.VolumeID }},
		{s.AzureFile != nil, "azureFile", "shareName", func() string { return s.AzureFile.ShareName }},
		{s.VsphereVolume != nil, "vsphereVolume", "volumePath", func() string { return s.VsphereVolume.VolumePath }},
		{s.PhotonPersistentDisk != nil, "photonPersistentDisk", "pdID", func() string { return s.PhotonPersistentDisk.PdID }},
		{s.PortworxVolume != nil, "portworxVolume", "volumeID", func() string { return s.PortworxVolume.VolumeID }},
		{s.ScaleIO != nil, "scaleIO", "volumeName", func() string { return s.ScaleIO.VolumeName }},
		{s.StorageOS != nil, "storageos", "volumeName", func() string { return s.StorageOS.VolumeName }},
	} {
		one(old.set, old.name, func(p *field.Path) { e.Need(p.Child(old.field), old.value()) })
	}
	if n == 0 {
		e.Required(specPath, "must specify a volume type")
	}
}

func hasBacksteps(path string) bool {
	for _, part := range strings.Split(path, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// PersistentVolumeUpdate also keeps the source and the mode.
func PersistentVolumeUpdate(o, old *core.PersistentVolume) Errors {
	var e rule.Errors
	e.Join(PersistentVolume(o))
	is, was := o.Spec.PersistentVolumeSource.DeepCopy(), old.Spec.PersistentVolumeSource.DeepCopy()
	if is.CSI != nil && was.CSI != nil {
		// The secret for expansion may be changed.
		is.CSI.ControllerExpandSecretRef = was.CSI.ControllerExpandSecretRef
		if was.CSI.NodeExpandSecretRef == nil {
			is.CSI.NodeExpandSecretRef = nil
		}
	}
	if !equality.Semantic.DeepEqual(is, was) {
		e.Forbidden(specPath.Child("persistentvolumesource"), fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", rule.Diff(was, is)))
	}
	e.Unchanged(field.NewPath("volumeMode"), o.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Spec.NodeAffinity != nil {
		e.Unchanged(field.NewPath("nodeAffinity"), o.Spec.NodeAffinity, old.Spec.NodeAffinity)
	}
	return e.List()
}

// PersistentVolumeClaim checks what is claimed.
func PersistentVolumeClaim(o *core.PersistentVolumeClaim) Errors {
	return podspec.ClaimSpec(&o.Spec, specPath)
}

// PersistentVolumeClaimUpdate also keeps all but the size and the attributes.
func PersistentVolumeClaimUpdate(o, old *core.PersistentVolumeClaim) Errors {
	var e rule.Errors
	e.Join(PersistentVolumeClaim(o))
	is, was := o.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = is.VolumeName // bound once
	}
	if was.StorageClassName == nil && is.StorageClassName != nil {
		if note, has := old.Annotations[core.BetaStorageClassAnnotation]; !has || note == *is.StorageClassName {
			was.StorageClassName = is.StorageClassName // the default class, found later
		}
	}
	e.Join(sameNote(o.Annotations, old.Annotations))
	size, before := is.Resources.Requests[core.ResourceStorage], was.Resources.Requests[core.ResourceStorage]
	if o.Status.Phase == core.ClaimBound && is.Resources.Requests != nil {
		is.Resources.Requests[core.ResourceStorage] = before
	}
	is.VolumeAttributesClassName = was.VolumeAttributesClassName
	if !equality.Semantic.DeepEqual(is, was) {
		e.Forbidden(specPath, fmt.Sprintf("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", rule.Diff(was, is)))
	}
	if size.Cmp(before) < 0 {
		// Down to what there is, but not to it: a failed expansion can be taken back.
		if have := old.Status.Capacity[core.ResourceStorage]; size.Cmp(have) <= 0 {
			e.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity")
		}
	}
	e.Unchanged(field.NewPath("volumeMode"), o.Spec.VolumeMode, old.Spec.VolumeMode)
	if had := old.Spec.VolumeAttributesClassName; had != nil {
		p := specPath.Child("volumeAttributesClassName")
		switch has := o.Spec.VolumeAttributesClassName; {
		case has == nil:
			e.Forbidden(p, "update from non-nil value to nil is forbidden")
		case *has == "" && *had != "":
			e.Forbidden(p, "update from non-nil value to an empty string is forbidden")
		}
	}
	return e.List()
}

func sameNote(is, was map[string]string) Errors {
	if is[core.BetaStorageClassAnnotation] == was[core.BetaStorageClassAnnotation] {
		return nil
	}
	return Errors{field.Invalid(metaPath.Child("annotations", core.BetaStorageClassAnnotation), is[core.BetaStorageClassAnnotation], rule.Immutable)}
}

// PersistentVolumeClaimStatus checks the reported sizes.
func PersistentVolumeClaimStatus(o, _ *core.PersistentVolumeClaim) Errors {
	var e rule.Errors
	for _, n := range rule.Sorted(o.Status.Capacity) {
		if q := o.Status.Capacity[n]; q.Sign() < 0 {
			e.Invalid(statusPath.Child("capacity").Key(string(n)), q.Value(), "must be a valid resource quantity")
		}
	}
	return e.List()
}
