package columns

import (
	"strings"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
)

// PersistentVolume shows size, phase and claim.
func PersistentVolume() []Column[core.PersistentVolume] {
	type v = core.PersistentVolume
	spec, status := core.PersistentVolumeSpec{}.SwaggerDoc(), core.PersistentVolumeStatus{}.SwaggerDoc()
	return list(
		name[v](),
		text("Capacity", spec["capacity"], func(o *v) string { return o.Spec.Capacity.Storage().String() }),
		text("Access Modes", spec["accessModes"], func(o *v) string { return accessModes(o.Spec.AccessModes) }),
		text("Reclaim Policy", spec["persistentVolumeReclaimPolicy"], func(o *v) string { return string(o.Spec.PersistentVolumeReclaimPolicy) }),
		text("Status", status["phase"], func(o *v) string {
			if o.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(o.Status.Phase)
		}),
		text("Claim", spec["claimRef"], func(o *v) string {
			if o.Spec.ClaimRef == nil {
				return ""
			}
			return o.Spec.ClaimRef.Namespace + "/" + o.Spec.ClaimRef.Name
		}),
		text("StorageClass", "StorageClass of the pv", func(o *v) string {
			return or(o.Annotations[core.BetaStorageClassAnnotation], o.Spec.StorageClassName)
		}),
		text("VolumeAttributesClass", spec["volumeAttributesClassName"], func(o *v) string { return or(value(o.Spec.VolumeAttributesClassName), unset) }),
		text("Reason", status["reason"], func(o *v) string { return o.Status.Reason }),
		age[v](),
		wide(text("VolumeMode", spec["volumeMode"], func(o *v) string { return or(string(value(o.Spec.VolumeMode)), unset) })),
	)
}

// PersistentVolumeClaim shows phase and volume.
func PersistentVolumeClaim() []Column[core.PersistentVolumeClaim] {
	type v = core.PersistentVolumeClaim
	spec, status := core.PersistentVolumeClaimSpec{}.SwaggerDoc(), core.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return list(
		name[v](),
		text("Status", status["phase"], func(o *v) string {
			if o.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(o.Status.Phase)
		}),
		text("Volume", spec["volumeName"], func(o *v) string { return o.Spec.VolumeName }),
		text("Capacity", status["capacity"], func(o *v) string {
			if o.Spec.VolumeName == "" {
				return ""
			}
			return o.Status.Capacity.Storage().String()
		}),
		text("Access Modes", status["accessModes"], func(o *v) string {
			if o.Spec.VolumeName == "" {
				return ""
			}
			return accessModes(o.Status.AccessModes)
		}),
		text("StorageClass", "StorageClass of the pvc", func(o *v) string {
			return or(o.Annotations[core.BetaStorageClassAnnotation], value(o.Spec.StorageClassName))
		}),
		text("VolumeAttributesClass", spec["volumeAttributesClassName"], func(o *v) string { return or(value(o.Spec.VolumeAttributesClassName), unset) }),
		age[v](),
		wide(text("VolumeMode", spec["volumeMode"], func(o *v) string { return or(string(value(o.Spec.VolumeMode)), unset) })),
	)
}

// accessModes shows the modes by their short words, each once, in fixed order.
func accessModes(modes []core.PersistentVolumeAccessMode) string {
	var words []string
	for _, short := range []struct {
		mode core.PersistentVolumeAccessMode
		word string
	}{{core.ReadWriteOnce, "RWO"}, {core.ReadOnlyMany, "ROX"}, {core.ReadWriteMany, "RWX"}, {core.ReadWriteOncePod, "RWOP"}} {
		for _, m := range modes {
			if m == short.mode {
				words = append(words, short.word)
				break
			}
		}
	}
	return strings.Join(words, ",")
}

// StorageClass marks the default one.
func StorageClass() []Column[storage.StorageClass] {
	type s = storage.StorageClass
	doc := storage.StorageClass{}.SwaggerDoc()
	c := name[s]()
	return list(
		Column[s]{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Cell: text("", "", func(o *s) string {
			if o.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" || o.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true" {
				return o.Name + " (default)"
			}
			return o.Name
		}).Cell},
		text("Provisioner", doc["provisioner"], func(o *s) string { return o.Provisioner }),
		text("ReclaimPolicy", doc["reclaimPolicy"], func(o *s) string {
			return or(string(value(o.ReclaimPolicy)), string(core.PersistentVolumeReclaimDelete))
		}),
		text("VolumeBindingMode", doc["volumeBindingMode"], func(o *s) string {
			return or(string(value(o.VolumeBindingMode)), string(storage.VolumeBindingImmediate))
		}),
		asText(truth("AllowVolumeExpansion", doc["allowVolumeExpansion"], func(o *s) bool { return value(o.AllowVolumeExpansion) })),
		age[s](),
	)
}

// VolumeAttributesClass shows the driver.
func VolumeAttributesClass() []Column[storage.VolumeAttributesClass] {
	type c = storage.VolumeAttributesClass
	return list(name[c](),
		text("DriverName", storage.VolumeAttributesClass{}.SwaggerDoc()["driverName"], func(o *c) string { return o.DriverName }),
		age[c]())
}

// VolumeAttachment shows volume and node.
func VolumeAttachment() []Column[storage.VolumeAttachment] {
	type a = storage.VolumeAttachment
	spec := storage.VolumeAttachmentSpec{}.SwaggerDoc()
	return list(
		name[a](),
		text("Attacher", spec["attacher"], func(o *a) string { return o.Spec.Attacher }),
		text("PV", storage.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"], func(o *a) string { return value(o.Spec.Source.PersistentVolumeName) }),
		text("Node", spec["nodeName"], func(o *a) string { return o.Spec.NodeName }),
		truth("Attached", storage.VolumeAttachmentStatus{}.SwaggerDoc()["attached"], func(o *a) bool { return o.Status.Attached }),
		age[a](),
	)
}

// CSIDriver shows what the driver can do.
func CSIDriver() []Column[storage.CSIDriver] {
	type d = storage.CSIDriver
	doc := storage.CSIDriverSpec{}.SwaggerDoc()
	return list(
		name[d](),
		truth("AttachRequired", doc["attachRequired"], func(o *d) bool { return o.Spec.AttachRequired == nil || *o.Spec.AttachRequired }),
		truth("PodInfoOnMount", doc["podInfoOnMount"], func(o *d) bool { return value(o.Spec.PodInfoOnMount) }),
		truth("StorageCapacity", doc["storageCapacity"], func(o *d) bool { return value(o.Spec.StorageCapacity) }),
		text("TokenRequests", doc["tokenRequests"], func(o *d) string {
			var words []string
			for _, t := range o.Spec.TokenRequests {
				words = append(words, t.Audience)
			}
			return or(strings.Join(words, ","), unset)
		}),
		truth("RequiresRepublish", doc["requiresRepublish"], func(o *d) bool { return value(o.Spec.RequiresRepublish) }),
		text("Modes", doc["volumeLifecycleModes"], func(o *d) string {
			var words []string
			for _, m := range o.Spec.VolumeLifecycleModes {
				words = append(words, string(m))
			}
			return or(strings.Join(words, ","), none)
		}),
		age[d](),
	)
}

// CSINode counts drivers.
func CSINode() []Column[storage.CSINode] {
	type n = storage.CSINode
	return list(name[n](), number("Drivers", storage.CSINodeSpec{}.SwaggerDoc()["drivers"], func(o *n) int { return len(o.Spec.Drivers) }), age[n]())
}

// CSIStorageCapacity shows how much there is of what.
func CSIStorageCapacity() []Column[storage.CSIStorageCapacity] {
	type c = storage.CSIStorageCapacity
	doc := storage.CSIStorageCapacity{}.SwaggerDoc()
	return list(
		name[c](),
		text("StorageClassName", doc["storageClassName"], func(o *c) string { return o.StorageClassName }),
		text("Capacity", doc["capacity"], func(o *c) string {
			if o.Capacity == nil {
				return unset
			}
			return o.Capacity.String()
		}),
	)
}
