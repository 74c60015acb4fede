// Package device holds the rules of resource.k8s.io: device classes, claims and
// their templates, slices and taints. All functions are pure, with upstream's paths
// and words. Whether a namespace may have admin access
// is admission's. Start reading at Claim, then Slice.
package device

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

var (
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// Class checks selectors, configuration and extended resource name.
func Class(o *resource.DeviceClass) field.ErrorList { return ClassUpdate(o, &resource.DeviceClass{}) }

// ClassUpdate takes selectors that are as before for good: the rules for expressions may have
// become stricter since.
func ClassUpdate(o, old *resource.DeviceClass) field.ErrorList {
	var e rule.Errors
	s := &o.Spec
	if !equality.Semantic.DeepEqual(s.Selectors, old.Spec.Selectors) {
		selectors(&e, s.Selectors, specPath.Child("selectors"))
	}
	if at := specPath.Child("config"); e.AtMost(at, len(s.Config), resource.DeviceConfigMaxSize) {
		for i := range s.Config {
			configuration(&e, &s.Config[i].DeviceConfiguration, at.Index(i))
		}
	}
	if n := s.ExtendedResourceName; n != nil && !rule.Extended(coreName(*n)) {
		e.Invalid(specPath.Child("extendedResourceName"), *n, "must be a valid extended resource name")
	}
	return e.List()
}

// Claim checks what is asked for.
func Claim(o *resource.ResourceClaim) field.ErrorList { return claim(&o.Spec.Devices, specPath) }

// ClaimUpdate keeps the spec.
func ClaimUpdate(o, old *resource.ResourceClaim) field.ErrorList {
	var e rule.Errors
	e.Unchanged(specPath, o.Spec, old.Spec)
	return e.List()
}

// ClaimTemplate checks the metadata and spec of the claims to be made.
func ClaimTemplate(o *resource.ResourceClaimTemplate) field.ErrorList {
	var e rule.Errors
	e.TemplateMeta(specPath.Child("metadata"), &o.Spec.ObjectMeta)
	e.Join(claim(&o.Spec.Spec.Devices, specPath.Child("spec")))
	return e.List()
}

// ClaimTemplateUpdate keeps the spec.
func ClaimTemplateUpdate(o, old *resource.ResourceClaimTemplate) field.ErrorList {
	var e rule.Errors
	e.Unchanged(specPath, o.Spec, old.Spec)
	return e.List()
}

// requests knows the names of a claim's requests, alone and with a subrequest
// behind a slash.
type requests map[string]bool

func names(c *resource.DeviceClaim) requests {
	r := requests{}
	for i := range c.Requests {
		r[c.Requests[i].Name] = true
		for _, sub := range c.Requests[i].FirstAvailable {
			r[c.Requests[i].Name+"/"+sub.Name] = true
		}
	}
	return r
}

// constrained lists, per request, the attributes that a constraint compares; the
// empty name stands for all requests.
type constrained map[string][]string

func constraintsOf(c *resource.DeviceClaim) constrained {
	by := constrained{}
	for _, x := range c.Constraints {
		name := x.MatchAttribute
		if name == nil {
			name = x.DistinctAttribute
		}
		if name == nil {
			continue
		}
		for _, r := range x.Requests {
			by[r] = append(by[r], string(*name))
		}
		if len(x.Requests) == 0 {
			by[""] = append(by[""], string(*name))
		}
	}
	return by
}

func (c constrained) uses(request string, name resource.FullyQualifiedName) bool {
	parent, _, _ := strings.Cut(request, "/")
	return slices.ContainsFunc([]string{"", parent, request}, func(r string) bool { return slices.Contains(c[r], string(name)) })
}

func claim(c *resource.DeviceClaim, p *field.Path) field.ErrorList {
	var e rule.Errors
	p = p.Child("devices")
	known, compared := names(c), constraintsOf(c)
	if at := p.Child("requests"); e.AtMost(at, len(c.Requests), resource.DeviceRequestsMaxSize) {
		seen := rule.Unique{}
		for i := range c.Requests {
			request(&e, &c.Requests[i], compared, at.Index(i))
		}
		for i := range c.Requests {
			if seen.Again(c.Requests[i].Name) {
				e.Duplicate(at.Index(i), c.Requests[i].Name)
			}
		}
	}
	if at := p.Child("constraints"); e.AtMost(at, len(c.Constraints), resource.DeviceConstraintsMaxSize) {
		for i := range c.Constraints {
			constraint(&e, &c.Constraints[i], known, at.Index(i))
		}
	}
	if at := p.Child("config"); e.AtMost(at, len(c.Config), resource.DeviceConfigMaxSize) {
		for i := range c.Config {
			references(&e, c.Config[i].Requests, known, at.Index(i).Child("requests"))
			configuration(&e, &c.Config[i].DeviceConfiguration, at.Index(i))
		}
	}
	return e.List()
}

func request(e *rule.Errors, r *resource.DeviceRequest, compared constrained, p *field.Path) {
	e.DNSLabel(p.Child("name"), r.Name)
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		e.Required(p, "exactly one of `exactly` or `firstAvailable` is required")
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		e.Invalid(p, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set")
	case r.Exactly != nil:
		x := r.Exactly
		alternative(e, &resource.DeviceSubRequest{DeviceClassName: x.DeviceClassName, Selectors: x.Selectors, AllocationMode: x.AllocationMode,
			Count: x.Count, Tolerations: x.Tolerations, DerivedAttributes: x.DerivedAttributes}, compared, r.Name, p.Child("exactly"))
	default:
		at, seen := p.Child("firstAvailable"), rule.Unique{}
		if !e.AtMost(at, len(r.FirstAvailable), resource.FirstAvailableDeviceRequestMaxSize) {
			return
		}
		for i := range r.FirstAvailable {
			sub := &r.FirstAvailable[i]
			e.DNSLabel(at.Index(i).Child("name"), sub.Name)
			alternative(e, sub, compared, r.Name+"/"+sub.Name, at.Index(i))
		}
		for i, sub := range r.FirstAvailable {
			if seen.Again(sub.Name) {
				e.Duplicate(at.Index(i), sub.Name)
			}
		}
	}
}

// alternative checks what exact requests and subrequests have in common.
func alternative(e *rule.Errors, r *resource.DeviceSubRequest, compared constrained, name string, p *field.Path) {
	if at := p.Child("deviceClassName"); r.DeviceClassName == "" {
		e.Required(at, "")
	} else {
		e.DNSSubdomain(at, r.DeviceClassName)
	}
	selectors(e, r.Selectors, p.Child("selectors"))
	derived(e, r.DerivedAttributes, compared, name, p.Child("derivedAttributes"))
	switch at := p.Child("count"); r.AllocationMode {
	case resource.DeviceAllocationModeAll:
		if r.Count != 0 {
			e.Invalid(at, r.Count, fmt.Sprintf("must not be specified when allocationMode is '%s'", r.AllocationMode))
		}
	case resource.DeviceAllocationModeExactCount:
		if r.Count <= 0 {
			e.Invalid(at, r.Count, rule.Positive)
		}
	default:
		rule.Among(e, p.Child("allocationMode"), r.AllocationMode, resource.DeviceAllocationModeAll, resource.DeviceAllocationModeExactCount)
	}
	if at := p.Child("tolerations"); e.AtMost(at, len(r.Tolerations), resource.DeviceTolerationsMaxLength) {
		tolerations(e, r.Tolerations, at)
	}
}

func derived(e *rule.Errors, list []resource.DeviceDerivedAttribute, compared constrained, request string, p *field.Path) {
	if !e.AtMost(p, len(list), resource.DeviceDerivedAttributesMaxSize) {
		return
	}
	seen := rule.Unique{}
	for i, a := range list {
		at := p.Index(i)
		fullName(e, a.Name, at.Child("name"))
		if a.Name != "" && !compared.uses(request, a.Name) {
			e.Invalid(at.Child("name"), a.Name, "must be referenced by at least one matchAttribute or distinctAttribute constraint targeting this request")
		}
		expression(e, a.Expression, true, at.Child("expression"))
		if seen.Again(string(a.Name)) {
			e.Duplicate(at, a.Name)
		}
	}
}

func selectors(e *rule.Errors, list []resource.DeviceSelector, p *field.Path) {
	if !e.AtMost(p, len(list), resource.DeviceSelectorsMaxSize) {
		return
	}
	for i, s := range list {
		if s.CEL == nil {
			e.Required(p.Index(i).Child("cel"), "")
			continue
		}
		expression(e, s.CEL.Expression, false, p.Index(i).Child("cel", "expression"))
	}
}

func constraint(e *rule.Errors, c *resource.DeviceConstraint, known requests, p *field.Path) {
	references(e, c.Requests, known, p.Child("requests"))
	switch {
	case c.MatchAttribute != nil:
		fullName(e, *c.MatchAttribute, p.Child("matchAttribute"))
	case c.DistinctAttribute != nil:
		fullName(e, *c.DistinctAttribute, p.Child("distinctAttribute"))
	default:
		e.Required(p, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`)
	}
}

// references wants each to name a request, or request/subrequest, of the claim.
func references(e *rule.Errors, list []string, known requests, p *field.Path) {
	if !e.AtMost(p, len(list), resource.DeviceRequestsMaxSize) {
		return
	}
	seen := rule.Unique{}
	for i, name := range list {
		reference(e, name, known, p.Index(i))
	}
	for i, name := range list {
		if seen.Again(name) {
			e.Duplicate(p.Index(i), name)
		}
	}
}

func reference(e *rule.Errors, name string, known requests, p *field.Path) {
	const detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	parts := strings.Split(name, "/")
	if len(parts) > 2 {
		e.Invalid(p, name, detail)
		return
	}
	for _, part := range parts {
		e.DNSLabel(p, part)
	}
	if !known[name] {
		e.Invalid(p, name, detail)
	}
}

func configuration(e *rule.Errors, c *resource.DeviceConfiguration, p *field.Path) {
	at := p.Child("opaque")
	if c.Opaque == nil {
		e.Required(at, "")
		return
	}
	e.Join(podspec.CSIDriverName(c.Opaque.Driver, at.Child("driver")))
	rawObject(e, c.Opaque.Parameters.Raw, resource.OpaqueParametersMaxLength, at.Child("parameters"))
}

// rawObject wants a JSON object.
func rawObject(e *rule.Errors, raw []byte, longest int, p *field.Path) {
	var v any
	switch {
	case len(raw) == 0:
		e.Required(p, "")
	case len(raw) > longest:
		e.Add(field.TooLong(p, "", longest))
	default:
		if err := json.Unmarshal(raw, &v); err != nil {
			e.Invalid(p, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))
		} else if v == nil {
			e.Required(p, "")
		} else if _, ok := v.(map[string]any); !ok {
			e.Invalid(p, "<value omitted>", "must be a valid JSON object")
		}
	}
}
