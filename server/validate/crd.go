package validate

import (
	"fmt"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/crdschema"
	"orch/server/validate/rule"
)

// NewCustomResourceDefinition checks all of a definition.
func NewCustomResourceDefinition(o *apiext.CustomResourceDefinition) Errors {
	e := CustomResourceDefinition(o)
	for i := range o.Spec.Versions {
		e = append(e, crdschema.Version(&o.Spec, i, specPath.Child("versions").Index(i))...)
	}
	return append(e, crdApproval(o, nil)...)
}

// CustomResourceDefinition checks names, versions and conversion, without the schemas.
func CustomResourceDefinition(o *apiext.CustomResourceDefinition) Errors {
	var e rule.Errors
	s := &o.Spec
	if o.Name != s.Names.Plural+"."+s.Group {
		e.Invalid(metaPath.Child("name"), o.Name, `must be spec.names.plural+"."+spec.group`)
	}
	switch group := specPath.Child("group"); {
	case s.Group == "":
		e.Required(group, "")
	case len(validation.IsDNS1123Subdomain(s.Group)) > 0:
		e.Each(group, s.Group, validation.IsDNS1123Subdomain(s.Group))
	case !strings.Contains(s.Group, "."):
		e.Invalid(group, s.Group, "should be a domain with at least one dot")
	}
	rule.OneOf(&e, specPath.Child("scope"), s.Scope, apiext.ClusterScoped, apiext.NamespaceScoped)
	if s.PreserveUnknownFields {
		e.Invalid(specPath.Child("preserveUnknownFields"), true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead")
	}
	crdVersions(&e, o)
	crdNames(&e, &s.Names, specPath.Child("names"))
	crdConversion(&e, s.Conversion, specPath.Child("conversion"))
	return e.List()
}

func crdVersions(e *rule.Errors, o *apiext.CustomResourceDefinition) {
	versions := o.Spec.Versions
	p := specPath.Child("versions")
	if len(versions) == 0 {
		e.Required(p, "must have at least one version")
	}
	stored, names := 0, rule.Unique{}
	for i := range versions {
		v, at := &versions[i], p.Index(i)
		if v.Storage {
			stored++
		}
		if names.Again(v.Name) {
			e.Invalid(p, v.Name, "must contain unique version names")
		}
		e.Each(at.Child("name"), v.Name, validation.IsDNS1035Label(v.Name))
		crdVersion(e, v, at)
	}
	if len(versions) > 0 && stored != 1 {
		e.Invalid(p, fmt.Sprintf("%d versions", stored), "must have exactly one version marked as storage version")
	}
	for i, v := range o.Status.StoredVersions {
		if !names[v] {
			e.Invalid(statusPath.Child("storedVersions").Index(i), v, "must appear in spec.versions")
		}
	}
}

func crdVersion(e *rule.Errors, v *apiext.CustomResourceDefinitionVersion, p *field.Path) {
	at := p.Child("schema", "openAPIV3Schema")
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		e.Required(at, "schemas are required")
	} else if root := v.Schema.OpenAPIV3Schema; root.Type == "" {
		e.Required(at.Child("type"), "must not be empty at the root")
	} else if root.Type != "object" {
		e.Invalid(at.Child("type"), root.Type, "must be object at the root")
	}
	if v.DeprecationWarning != nil && !v.Deprecated {
		e.Invalid(p.Child("deprecationWarning"), *v.DeprecationWarning, "can only be set for deprecated versions")
	}
	for i, c := range v.AdditionalPrinterColumns {
		column := p.Child("additionalPrinterColumns").Index(i)
		e.Need(column.Child("name"), c.Name)
		rule.OneOf(e, column.Child("type"), c.Type, "integer", "number", "string", "boolean", "date")
		if c.JSONPath == "" {
			e.Required(column.Child("jsonPath"), "")
		} else if !strings.HasPrefix(c.JSONPath, ".") {
			e.Invalid(column.Child("jsonPath"), c.JSONPath, "must be a simple json path starting with .")
		}
	}
	if v.Subresources == nil || v.Subresources.Scale == nil {
		return
	}
	scale, s := p.Child("subresources", "scale"), v.Subresources.Scale
	replicasPath(e, s.SpecReplicasPath, ".spec.", scale.Child("specReplicasPath"))
	replicasPath(e, s.StatusReplicasPath, ".status.", scale.Child("statusReplicasPath"))
	if l := s.LabelSelectorPath; l != nil && *l != "" && !strings.HasPrefix(*l, ".spec.") && !strings.HasPrefix(*l, ".status.") {
		e.Invalid(scale.Child("labelSelectorPath"), *l, "should be a json path under either .spec or .status")
	}
}

func replicasPath(e *rule.Errors, path, under string, p *field.Path) {
	switch {
	case path == "":
		e.Required(p, "")
	case !strings.HasPrefix(path, under):
		e.Invalid(p, path, "should be a json path under "+strings.TrimSuffix(under, "."))
	}
}

func crdNames(e *rule.Errors, n *apiext.CustomResourceDefinitionNames, p *field.Path) {
	word := func(name, v string) {
		if v == "" {
			e.Required(p.Child(name), "")
			return
		}
		e.Each(p.Child(name), v, validation.IsDNS1035Label(strings.ToLower(v)))
	}
	word("plural", n.Plural)
	word("singular", n.Singular)
	word("kind", n.Kind)
	word("listKind", n.ListKind)
	for i, s := range n.ShortNames {
		e.Each(p.Child("shortNames").Index(i), s, validation.IsDNS1035Label(s))
	}
	for i, c := range n.Categories {
		e.Each(p.Child("categories").Index(i), c, validation.IsDNS1035Label(c))
	}
	if n.Kind != "" && n.Kind == n.ListKind {
		e.Invalid(p.Child("listKind"), n.ListKind, "kind and listKind may not be the same")
	}
}

func crdConversion(e *rule.Errors, c *apiext.CustomResourceConversion, p *field.Path) {
	if c == nil {
		return
	}
	rule.OneOf(e, p.Child("strategy"), c.Strategy, apiext.NoneConverter, apiext.WebhookConverter)
	w := c.Webhook
	switch at := p.Child("webhookClientConfig"); {
	case c.Strategy != apiext.WebhookConverter:
		if w != nil && w.ClientConfig != nil {
			e.Forbidden(at, "should not be set when strategy is not set to Webhook")
		}
	case w == nil || w.ClientConfig == nil:
		e.Required(at, "required when strategy is set to Webhook")
	case (w.ClientConfig.URL == nil) == (w.ClientConfig.Service == nil):
		e.Required(at, "exactly one of url or service is required")
	case w.ClientConfig.URL != nil:
		webhookURL(e, *w.ClientConfig.URL, at.Child("url"))
	default:
		s := w.ClientConfig.Service
		webhookService(e, &admission.ServiceReference{Namespace: s.Namespace, Name: s.Name, Path: s.Path, Port: s.Port}, at.Child("service"))
	}
	if c.Strategy == apiext.WebhookConverter && w != nil {
		conversionReviews(e, w.ConversionReviewVersions, p.Child("conversionReviewVersions"))
	}
}

func conversionReviews(e *rule.Errors, versions []string, p *field.Path) {
	const known = "v1, v1beta1"
	if len(versions) == 0 {
		e.Required(p, "must specify one of "+known)
		return
	}
	seen := rule.Unique{}
	for i, v := range versions {
		if seen.Again(v) {
			e.Invalid(p.Index(i), v, "duplicate version")
			continue
		}
		for _, why := range validation.IsDNS1035Label(v) {
			e.Invalid(p.Index(i), v, why)
		}
	}
	if !slices.Contains(versions, "v1") && !slices.Contains(versions, "v1beta1") {
		e.Invalid(p, versions, "must include at least one of "+known)
	}
}

// CustomResourceDefinitionUpdate also keeps what clients have seen: group,
// names and scope of an established definition.
func CustomResourceDefinitionUpdate(o, old *apiext.CustomResourceDefinition) Errors {
	var e rule.Errors
	e.Join(CustomResourceDefinition(o))
	e.Join(crdApproval(o, old))
	for i := range o.Spec.Versions {
		if !crdschema.Same(&o.Spec, i, &old.Spec) { // what was accepted once stays accepted
			e.Join(crdschema.Version(&o.Spec, i, specPath.Child("versions").Index(i)))
		}
	}
	e.Unchanged(specPath.Child("group"), o.Spec.Group, old.Spec.Group)
	e.Unchanged(specPath.Child("names", "plural"), o.Spec.Names.Plural, old.Spec.Names.Plural)
	for _, c := range old.Status.Conditions {
		if c.Type == apiext.Established && c.Status == apiext.ConditionTrue {
			e.Unchanged(specPath.Child("scope"), o.Spec.Scope, old.Spec.Scope)
			e.Unchanged(specPath.Child("names", "kind"), o.Spec.Names.Kind, old.Spec.Names.Kind)
		}
	}
	return e.List()
}

// CustomResourceDefinitionStatus keeps a list of stored versions that is not empty.
func CustomResourceDefinitionStatus(o, _ *apiext.CustomResourceDefinition) Errors {
	var e rule.Errors
	p := statusPath.Child("storedVersions")
	if len(o.Status.StoredVersions) == 0 {
		e.Invalid(p, o.Status.StoredVersions, "must have at least one stored version")
	}
	names := rule.Unique{}
	for _, v := range o.Spec.Versions {
		names[v.Name] = true
		if v.Storage && len(o.Status.StoredVersions) > 0 && !slices.Contains(o.Status.StoredVersions, v.Name) {
			e.Invalid(p, o.Status.StoredVersions, "must have the storage version "+v.Name)
		}
	}
	for i, v := range o.Status.StoredVersions {
		if !names[v] {
			e.Invalid(p.Index(i), v, "must appear in spec.versions")
		}
	}
	return e.List()
}

// crdApproval keeps groups of the Kubernetes community from being used without its word.
func crdApproval(o, old *apiext.CustomResourceDefinition) (e Errors) {
	if !apihelpers.IsProtectedCommunityGroup(o.Spec.Group) || old != nil && old.Annotations[apiext.KubeAPIApprovedAnnotation] == o.Annotations[apiext.KubeAPIApprovedAnnotation] {
		return nil
	}
	at, given := metaPath.Child("annotations").Key(apiext.KubeAPIApprovedAnnotation), o.Annotations[apiext.KubeAPIApprovedAnnotation]
	switch state, reason := apihelpers.GetAPIApprovalState(o.Annotations); state {
	case apihelpers.APIApprovalInvalid:
		e = append(e, field.Invalid(at, given, reason))
	case apihelpers.APIApprovalMissing:
		e = append(e, field.Required(at, reason))
	}
	return e
}
