package podspec

import (
	"reflect"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// AccessModes checks how a volume or claim is to be mounted.
func AccessModes(modes []core.PersistentVolumeAccessMode, p *field.Path) field.ErrorList {
	var e rule.Errors
	alone, others := false, false
	for _, m := range modes {
		rule.Among(&e, p, m, core.ReadWriteOnce, core.ReadOnlyMany, core.ReadWriteMany, core.ReadWriteOncePod)
		alone = alone || m == core.ReadWriteOncePod
		others = others || m != core.ReadWriteOncePod
	}
	if alone && others {
		e.Forbidden(p, "may not use ReadWriteOncePod with other access modes")
	}
	return e.List()
}

// ClaimSpec checks a claim for a volume, also in templates.
func ClaimSpec(s *core.PersistentVolumeClaimSpec, p *field.Path) field.ErrorList {
	var e rule.Errors
	if len(s.AccessModes) == 0 {
		e.Required(p.Child("accessModes"), "at least 1 access mode is required")
	}
	e.Selector(p.Child("selector"), s.Selector)
	e.Join(AccessModes(s.AccessModes, p.Child("accessModes")))
	storage, at := s.Resources.Requests[core.ResourceStorage], p.Child("resources").Key(string(core.ResourceStorage))
	if _, has := s.Resources.Requests[core.ResourceStorage]; !has {
		e.Required(at, "")
	} else if storage.Sign() <= 0 {
		e.Invalid(at, storage.String(), rule.Positive)
	}
	if s.StorageClassName != nil && *s.StorageClassName != "" {
		e.ObjectName(p.Child("storageClassName"), *s.StorageClassName)
	}
	if s.VolumeMode != nil {
		rule.Among(&e, p.Child("volumeMode"), *s.VolumeMode, core.PersistentVolumeBlock, core.PersistentVolumeFilesystem)
	}
	if d := s.DataSource; d != nil {
		dataSource(&e, d.APIGroup, d.Kind, d.Name, p.Child("dataSource"))
	}
	if d := s.DataSourceRef; d != nil {
		dataSource(&e, d.APIGroup, d.Kind, d.Name, p.Child("dataSourceRef"))
	}
	sourcesAgree(&e, s, p)
	if v := s.VolumeAttributesClassName; v != nil && *v != "" {
		e.ObjectName(p.Child("volumeAttributesClassName"), *v)
	}
	return e.List()
}

func dataSource(e *rule.Errors, group *string, kind, name string, p *field.Path) {
	e.Need(p.Child("name"), name)
	e.Need(p.Child("kind"), kind)
	g := ""
	if group != nil {
		g = *group
	}
	if g == "" && kind != "PersistentVolumeClaim" && kind != "" {
		e.Invalid(p, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
	}
	if g != "" {
		e.Each(p.Child("apiGroup"), g, validation.IsDNS1123Subdomain(g))
	}
}

func sourcesAgree(e *rule.Errors, s *core.PersistentVolumeClaimSpec, p *field.Path) {
	from, ref := s.DataSource, s.DataSourceRef
	switch {
	case from == nil || ref == nil:
	case ref.Namespace != nil && *ref.Namespace != "":
		e.Invalid(p, p.Child("dataSource").String(), "may not be specified when dataSourceRef.namespace is specified")
	case !reflect.DeepEqual(from.APIGroup, ref.APIGroup) || from.Kind != ref.Kind || from.Name != ref.Name:
		e.Invalid(p, p.Child("dataSource").String(), "must match dataSourceRef")
	}
}
