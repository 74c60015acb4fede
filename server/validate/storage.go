package validate

import (
	"fmt"
	"strings"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	migration "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

const (
	mostParameters = 512
	parametersSize = 256 * 1024
	longestNodeID  = 192
	shortestToken  = 600
	longestToken   = 1 << 32
)

// StorageClass checks provisioner, parameters and modes.
func StorageClass(o *storage.StorageClass) Errors {
	var e rule.Errors
	provisioner := field.NewPath("provisioner")
	if o.Provisioner == "" {
		e.Required(provisioner, "")
	} else {
		e.Qualified(provisioner, strings.ToLower(o.Provisioner))
	}
	classParameters(&e, o.Parameters, field.NewPath("parameters"))
	if o.ReclaimPolicy != nil && *o.ReclaimPolicy != "" {
		rule.Among(&e, field.NewPath("reclaimPolicy"), *o.ReclaimPolicy, core.PersistentVolumeReclaimDelete, core.PersistentVolumeReclaimRetain)
	}
	mode := field.NewPath("volumeBindingMode")
	if o.VolumeBindingMode == nil {
		e.Required(mode, "")
	} else {
		rule.Among(&e, mode, *o.VolumeBindingMode, storage.VolumeBindingImmediate, storage.VolumeBindingWaitForFirstConsumer)
	}
	for i, t := range o.AllowedTopologies {
		seen := rule.Unique{}
		for j, r := range t.MatchLabelExpressions {
			at, values := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j), rule.Unique{}
			if len(r.Values) == 0 {
				e.Required(at.Child("values"), "")
			}
			for k, v := range r.Values {
				if values.Again(v) {
					e.Duplicate(at.Child("values").Index(k), v)
				}
			}
			e.LabelName(at.Child("key"), r.Key)
			if seen.Again(r.Key) {
				e.Duplicate(at.Child("key"), r.Key)
			}
		}
	}
	return e.List()
}

func classParameters(e *rule.Errors, parameters map[string]string, p *field.Path) {
	size := 0
	if len(parameters) > mostParameters {
		e.Add(field.TooLong(p, "", mostParameters))
		return
	}
	for _, k := range sortedKeys(parameters) {
		if k == "" {
			e.Invalid(p, k, "field can not be empty.")
		}
		size += len(k) + len(parameters[k])
	}
	if size > parametersSize {
		e.Add(field.TooLong(p, "", parametersSize))
	}
}

// StorageClassUpdate also keeps what volumes were made by.
func StorageClassUpdate(o, old *storage.StorageClass) Errors {
	var e rule.Errors
	if !equality.Semantic.DeepEqual(o.Parameters, old.Parameters) {
		e.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden.")
	}
	if o.Provisioner != old.Provisioner {
		e.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden.")
	}
	if !same(o.ReclaimPolicy, old.ReclaimPolicy) {
		e.Forbidden(field.NewPath("reclaimPolicy"), "updates to reclaimPolicy are forbidden.")
	}
	e.Unchanged(field.NewPath("volumeBindingMode"), o.VolumeBindingMode, old.VolumeBindingMode)
	e.Join(StorageClass(o))
	return e.List()
}

// VolumeAttributesClass checks driver and parameters.
func VolumeAttributesClass(o *storage.VolumeAttributesClass) Errors {
	var e rule.Errors
	e.Join(podspec.CSIDriverName(o.DriverName, field.NewPath("driverName")))
	if len(o.Parameters) == 0 {
		e.Required(field.NewPath("parameters"), "must contain at least one key/value pair")
	}
	classParameters(&e, o.Parameters, field.NewPath("parameters"))
	return e.List()
}

// VolumeAttributesClassUpdate keeps everything.
func VolumeAttributesClassUpdate(o, old *storage.VolumeAttributesClass) Errors {
	var e rule.Errors
	if o.DriverName != old.DriverName {
		e.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden.")
	}
	if !equality.Semantic.DeepEqual(o.Parameters, old.Parameters) {
		e.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden.")
	}
	return e.List()
}

// VolumeAttachment checks what is attached where.
func VolumeAttachment(o *storage.VolumeAttachment) Errors {
	var e rule.Errors
	s := &o.Spec
	e.Join(podspec.CSIDriverName(s.Attacher, specPath.Child("attacher")))
	source := specPath.Child("source")
	switch inline, named := s.Source.InlineVolumeSpec != nil, s.Source.PersistentVolumeName != nil; {
	case !inline && !named:
		e.Required(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	case inline && named:
		e.Forbidden(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	case named && *s.Source.PersistentVolumeName == "":
		e.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")
	case named:
		e.ObjectName(source.Child("persistentVolumeName"), *s.Source.PersistentVolumeName)
	}
	e.ObjectName(specPath.Child("nodeName"), s.NodeName)
	return e.List()
}

// VolumeAttachmentUpdate also keeps the spec.
func VolumeAttachmentUpdate(o, old *storage.VolumeAttachment) Errors {
	var e rule.Errors
	e.Join(VolumeAttachment(o))
	if !equality.Semantic.DeepEqual(o.Spec, old.Spec) {
		e.Invalid(specPath, o.Spec, rule.Immutable)
	}
	return e.List()
}

// CSIDriver checks name and abilities.
func CSIDriver(o *storage.CSIDriver) Errors {
	var e rule.Errors
	e.Join(podspec.CSIDriverName(o.Name, metaPath.Child("name")))
	s := &o.Spec
	needed := func(name string, v *bool) {
		if v == nil {
			e.Required(specPath.Child(name), "")
		}
	}
	needed("attachedRequired", s.AttachRequired)
	needed("podInfoOnMount", s.PodInfoOnMount)
	needed("storageCapacity", s.StorageCapacity)
	if s.FSGroupPolicy == nil {
		e.Required(specPath.Child("fsGroupPolicy"), "")
	} else {
		rule.Among(&e, specPath.Child("fsGroupPolicy"), *s.FSGroupPolicy, storage.ReadWriteOnceWithFSTypeFSGroupPolicy, storage.FileFSGroupPolicy, storage.NoneFSGroupPolicy)
	}
	for _, m := range s.VolumeLifecycleModes {
		rule.Among(&e, specPath.Child("volumeLifecycleModes"), m, storage.VolumeLifecyclePersistent, storage.VolumeLifecycleEphemeral)
	}
	tokens, seen := specPath.Child("tokenRequests"), rule.Unique{}
	for i, t := range s.TokenRequests {
		at := tokens.Index(i)
		if seen.Again(t.Audience) {
			e.Duplicate(at.Child("audience"), t.Audience)
		}
		if t.ExpirationSeconds == nil {
			continue
		}
		if *t.ExpirationSeconds < shortestToken {
			e.Invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration less than 10 minutes")
		}
		if *t.ExpirationSeconds > longestToken {
			e.Invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds")
		}
	}
	return e.List()
}

// CSIDriverUpdate also keeps attachRequired, fsGroupPolicy and lifecycle modes.
func CSIDriverUpdate(o, old *storage.CSIDriver) Errors {
	var e rule.Errors
	e.Join(CSIDriver(o))
	e.Unchanged(specPath.Child("attachedRequired"), o.Spec.AttachRequired, old.Spec.AttachRequired)
	e.Unchanged(specPath.Child("volumeLifecycleModes"), o.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)
	return e.List()
}

// CSINode checks the drivers of a node.
func CSINode(o *storage.CSINode) Errors {
	var e rule.Errors
	seen := rule.Unique{}
	for i := range o.Spec.Drivers {
		d, at := &o.Spec.Drivers[i], specPath.Child("drivers").Index(i)
		e.Join(podspec.CSIDriverName(d.Name, at.Child("name")))
		if seen.Again(d.Name) {
			e.Duplicate(at.Child("name"), d.Name)
		}
		e.Need(at.Child("nodeID"), d.NodeID)
		if len(d.NodeID) > longestNodeID {
			e.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", longestNodeID))
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			e.NotNegative(at.Child("allocatable", "count"), int64(*d.Allocatable.Count))
		}
		keys := rule.Unique{}
		for _, k := range d.TopologyKeys {
			if keys.Again(k) {
				e.Duplicate(at.Child("topologyKeys"), k)
			}
			e.Each(at.Child("topologyKeys"), k, validation.IsQualifiedName(k))
		}
	}
	return e.List()
}
func CSINodeUpdate(o, _ *storage.CSINode) Errors { return CSINode(o) }

// CSIStorageCapacity checks class and amounts.
func CSIStorageCapacity(o *storage.CSIStorageCapacity) Errors {
	var e rule.Errors
	if p := field.NewPath("storageClassName"); o.StorageClassName == "" {
		e.Required(p, "")
	} else {
		e.ObjectName(p, o.StorageClassName)
	}
	if o.Capacity != nil && o.Capacity.Sign() < 0 {
		e.Invalid(field.NewPath("capacity"), o.Capacity.String(), rule.NotNegative)
	}
	if o.MaximumVolumeSize != nil && o.MaximumVolumeSize.Sign() < 0 {
		e.Invalid(field.NewPath("maximumVolumeSize"), o.MaximumVolumeSize.String(), rule.NotNegative)
	}
	e.Selector(field.NewPath("nodeTopology"), o.NodeTopology)
	return e.List()
}

// CSIStorageCapacityUpdate also keeps class and topology.
func CSIStorageCapacityUpdate(o, old *storage.CSIStorageCapacity) Errors {
	var e rule.Errors
	e.Join(CSIStorageCapacity(o))
	e.Unchanged(field.NewPath("nodeTopology"), o.NodeTopology, old.NodeTopology)
	e.Unchanged(field.NewPath("storageClassName"), o.StorageClassName, old.StorageClassName)
	return e.List()
}

// StorageVersionMigration wants to know what is migrated.
func StorageVersionMigration(o *migration.StorageVersionMigration) Errors {
	var e rule.Errors
	at := specPath.Child("resource", "resource")
	if r := o.Spec.Resource.Resource; r == "" {
		e.Required(at, "resource is required")
	} else {
		e.Each(at, r, validation.IsDNS1123Label(r))
	}
	if g := o.Spec.Resource.Group; g != "" {
		e.DNSSubdomain(specPath.Child("resource", "group"), g)
	}
	return e.List()
}

// StorageVersionMigrationUpdate keeps the spec.
func StorageVersionMigrationUpdate(o, old *migration.StorageVersionMigration) Errors {
	var e rule.Errors
	e.Unchanged(specPath, o.Spec, old.Spec)
	return e.List()
}

// StorageVersionMigrationStatus keeps the revision from which objects are
// migrated, and an end once it is reached.
func StorageVersionMigrationStatus(o, old *migration.StorageVersionMigration) Errors {
	var e rule.Errors
	at := statusPath.Child("conditions")
	e.Join(metavalidation.ValidateConditions(o.Status.Conditions, at))
	if v := old.Status.ResourceVersion; v != "" && o.Status.ResourceVersion != v {
		e.Invalid(statusPath.Child("resourceVersion"), o.Status.ResourceVersion, "resourceVersion cannot be updated")
	}
	is := func(o *migration.StorageVersionMigration, kind migration.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(o.Status.Conditions, string(kind))
	}
	if is(o, migration.MigrationSucceeded) && is(o, migration.MigrationFailed) {
		e.Invalid(at, o.Status.Conditions, "Both success and failed conditions cannot be true at the same time")
	}
	for _, kind := range []migration.MigrationConditionType{migration.MigrationSucceeded, migration.MigrationFailed} {
		if is(old, kind) && !is(o, kind) {
			e.Invalid(at, o.Status.Conditions, fmt.Sprintf("%s condition cannot be set to false once it is true", kind))
		}
	}
	return e.List()
}
