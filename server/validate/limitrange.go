package validate

import (
	"fmt"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// LimitRange checks that minima, defaults and maxima of each type are in order.
func LimitRange(o *core.LimitRange) Errors {
	var e rule.Errors
	seen := rule.Unique{}
	for i := range o.Spec.Limits {
		item, at := &o.Spec.Limits[i], specPath.Child("limits").Index(i)
		limitType(&e, item.Type, at.Child("type"))
		if seen.Again(string(item.Type)) {
			e.Duplicate(at.Child("type"), item.Type)
		}
		limitItem(&e, item, at)
	}
	return e.List()
}
func LimitRangeUpdate(o, _ *core.LimitRange) Errors { return LimitRange(o) }

func limitType(e *rule.Errors, t core.LimitType, p *field.Path) {
	before := e.Len()
	e.Each(p, t, validation.IsQualifiedName(string(t)))
	if e.Len() > before || strings.Contains(string(t), "/") {
		return
	}
	switch t {
	case core.LimitTypePod, core.LimitTypeContainer, core.LimitTypePersistentVolumeClaim:
	default:
		e.Invalid(p, t, "must be a standard limit type or fully qualified")
	}
}

func limitItem(e *rule.Errors, item *core.LimitRangeItem, p *field.Path) {
	all := core.ResourceList{}
	names := func(l core.ResourceList, p *field.Path) {
		for _, n := range rule.Sorted(l) {
			all[n] = l[n]
			if item.Type == core.LimitTypePod || item.Type == core.LimitTypeContainer {
				e.Join(rule.ContainerResourceName(p.Key(string(n)), n))
			} else {
				e.Join(rule.ResourceName(p.Key(string(n)), n))
			}
		}
	}
	names(item.Max, p.Child("max"))
	names(item.Min, p.Child("min"))
	if item.Type == core.LimitTypePod {
		if len(item.Default) > 0 {
			e.Forbidden(p.Child("default"), "may not be specified when `type` is 'Pod'")
		}
		if len(item.DefaultRequest) > 0 {
			e.Forbidden(p.Child("defaultRequest"), "may not be specified when `type` is 'Pod'")
		}
	} else {
		names(item.Default, p.Child("default"))
		names(item.DefaultRequest, p.Child("defaultRequest"))
	}
	if item.Type == core.LimitTypePersistentVolumeClaim {
		_, least := item.Min[core.ResourceStorage]
		_, most := item.Max[core.ResourceStorage]
		if !least && !most {
			e.Required(p.Child("limits"), "either minimum or maximum storage value is required, but neither was provided")
		}
	}
	names(item.MaxLimitRequestRatio, p.Child("maxLimitRequestRatio"))
	for _, n := range rule.Sorted(all) {
		limitOrder(e, item, n, p)
	}
}

// limitOrder wants min <= defaultRequest <= default <= max, and a ratio that fits.
func limitOrder(e *rule.Errors, item *core.LimitRangeItem, n core.ResourceName, p *field.Path) {
	least, hasLeast := item.Min[n]
	most, hasMost := item.Max[n]
	limit, hasLimit := item.Default[n]
	request, hasRequest := item.DefaultRequest[n]
	ratio, hasRatio := item.MaxLimitRequestRatio[n]
	at := func(name string) *field.Path { return p.Child(name).Key(string(n)) }
	if hasLeast && hasMost && least.Cmp(most) > 0 {
		e.Invalid(at("min"), least.String(), fmt.Sprintf("min value %s is greater than max value %s", least.String(), most.String()))
	}
	if hasRequest && hasLeast && least.Cmp(request) > 0 {
		e.Invalid(at("defaultRequest"), request.String(), fmt.Sprintf("min value %s is greater than default request value %s", least.String(), request.String()))
	}
	if hasRequest && hasMost && request.Cmp(most) > 0 {
		e.Invalid(at("defaultRequest"), request.String(), fmt.Sprintf("default request value %s is greater than max value %s", request.String(), most.String()))
	}
	if hasRequest && hasLimit && request.Cmp(limit) > 0 {
		e.Invalid(at("defaultRequest"), request.String(), fmt.Sprintf("default request value %s is greater than default limit value %s", request.String(), limit.String()))
	}
	if hasLimit && hasLeast && least.Cmp(limit) > 0 {
		e.Invalid(at("default"), least.String(), fmt.Sprintf("min value %s is greater than default value %s", least.String(), limit.String()))
	}
	if hasLimit && hasMost && limit.Cmp(most) > 0 {
		e.Invalid(at("default"), most.String(), fmt.Sprintf("default value %s is greater than max value %s", limit.String(), most.String()))
	}
	if hasRatio && ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
		e.Invalid(at("maxLimitRequestRatio"), ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String()))
	}
	if hasRatio && hasLeast && hasMost && least.Sign() > 0 {
		if bound := most.AsApproximateFloat64() / least.AsApproximateFloat64(); ratio.AsApproximateFloat64() > bound {
			e.Invalid(at("maxLimitRequestRatio"), ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), bound))
		}
	}
	if !rule.Overcommit(n) && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		e.Invalid(at("defaultRequest"), request.String(), fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), n))
	}
}
