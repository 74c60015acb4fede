// Package limits is the pure part of LimitRange: it fills a pod's requests and
// limits with a namespace's defaults and says where a pod or a claim is outside of
// the bounds. It stores and looks up nothing. The sentences are upstream's.
package limits

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	podresource "k8s.io/component-helpers/resource"
)

const annotation = "kubernetes.io/limit-ranger"

// Default fills what the pod's containers leave open and notes it in an annotation.
func Default(p *core.Pod, r *core.LimitRange) {
	requests, limits := core.ResourceList{}, core.ResourceList{}
	for _, l := range r.Spec.Limits {
		if l.Type == core.LimitTypeContainer {
			maps.Copy(requests, l.DefaultRequest)
			maps.Copy(limits, l.Default)
		}
	}
	var notes []string
	each := func(list []core.Container, kind string) {
		for i := range list {
			c := &list[i]
			notes = append(notes, fill(&c.Resources.Requests, requests, "request", kind+" "+c.Name)...)
			notes = append(notes, fill(&c.Resources.Limits, limits, "limit", kind+" "+c.Name)...)
		}
	}
	each(p.Spec.Containers, "container")
	each(p.Spec.InitContainers, "init container")
	if len(notes) == 0 {
		return
	}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[annotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

func fill(to *core.ResourceList, from core.ResourceList, what, who string) []string {
	var set []string
	for _, k := range slices.Sorted(maps.Keys(from)) {
		if _, there := (*to)[k]; there {
			continue
		}
		if *to == nil {
			*to = core.ResourceList{}
		}
		q := from[k]
		(*to)[k] = q.DeepCopy()
		set = append(set, string(k))
	}
	if len(set) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s %s for %s", strings.Join(set, ", "), what, who)}
}

// CheckPod tells what of r the pod breaks; nil if nothing.
func CheckPod(p *core.Pod, r *core.LimitRange) error {
	var errs []error
	for _, l := range r.Spec.Limits {
		switch l.Type {
		case core.LimitTypeContainer:
			for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
				errs = append(errs, check(l, c.Resources.Requests, c.Resources.Limits)...)
			}
		case core.LimitTypePod:
			requests, limits := podTotals(p)
			errs = append(errs, check(l, requests, limits)...)
		}
	}
	return utilerrors.NewAggregate(errs)
}

// CheckClaim does the same for the size a claim asks for.
func CheckClaim(c *core.PersistentVolumeClaim, r *core.LimitRange) error {
	var errs []error
	for _, l := range r.Spec.Limits {
		if l.Type != core.LimitTypePersistentVolumeClaim {
			continue
		}
		for _, k := range slices.Sorted(maps.Keys(l.Min)) {
			errs = append(errs, minimum(l.Type, k, l.Min[k], c.Spec.Resources.Requests, core.ResourceList{})...)
		}
		for _, k := range slices.Sorted(maps.Keys(l.Max)) {
			errs = append(errs, maximumRequest(l.Type, k, l.Max[k], c.Spec.Resources.Requests)...)
		}
	}
	return utilerrors.NewAggregate(errs)
}

func check(l core.LimitRangeItem, requests, limits core.ResourceList) []error {
	var errs []error
	for _, k := range slices.Sorted(maps.Keys(l.Min)) {
		errs = append(errs, minimum(l.Type, k, l.Min[k], requests, limits)...)
	}
	for _, k := range slices.Sorted(maps.Keys(l.Max)) {
		errs = append(errs, maximum(l.Type, k, l.Max[k], requests, limits)...)
	}
	for _, k := range slices.Sorted(maps.Keys(l.MaxLimitRequestRatio)) {
		errs = append(errs, ratio(l.Type, k, l.MaxLimitRequestRatio[k], requests, limits)...)
	}
	return errs
}

func minimum(t core.LimitType, k core.ResourceName, bound resource.Quantity, requests, limits core.ResourceList) []error {
	request, hasRequest := requests[k]
	limit, hasLimit := limits[k]
	switch {
	case !hasRequest:
		return fail("minimum %s usage per %s is %s.  No request is specified", k, t, bound.String())
	case request.Cmp(bound) < 0:
		return fail("minimum %s usage per %s is %s, but request is %s", k, t, bound.String(), request.String())
	case hasLimit && limit.Cmp(bound) < 0:
		return fail("minimum %s usage per %s is %s, but limit is %s", k, t, bound.String(), limit.String())
	}
	return nil
}

func maximum(t core.LimitType, k core.ResourceName, bound resource.Quantity, requests, limits core.ResourceList) []error {
	request, hasRequest := requests[k]
	limit, hasLimit := limits[k]
	switch {
	case !hasLimit:
		return fail("maximum %s usage per %s is %s.  No limit is specified", k, t, bound.String())
	case limit.Cmp(bound) > 0:
		return fail("maximum %s usage per %s is %s, but limit is %s", k, t, bound.String(), limit.String())
	case hasRequest && request.Cmp(bound) > 0:
		return fail("maximum %s usage per %s is %s, but request is %s", k, t, bound.String(), request.String())
	}
	return nil
}

func maximumRequest(t core.LimitType, k core.ResourceName, bound resource.Quantity, requests core.ResourceList) []error {
	request, ok := requests[k]
	switch {
	case !ok:
		return fail("maximum %s usage per %s is %s.  No request is specified", k, t, bound.String())
	case request.Cmp(bound) > 0:
		return fail("maximum %s usage per %s is %s, but request is %s", k, t, bound.String(), request.String())
	}
	return nil
}

func ratio(t core.LimitType, k core.ResourceName, bound resource.Quantity, requests, limits core.ResourceList) []error {
	request, hasRequest := requests[k]
	limit, hasLimit := limits[k]
	switch {
	case !hasRequest || request.IsZero():
		return fail("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", k, t, bound.String())
	case !hasLimit || limit.IsZero():
		return fail("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", k, t, bound.String())
	}
	got := limit.AsApproximateFloat64() / request.AsApproximateFloat64()
	if got > bound.AsApproximateFloat64() {
		return fail("%s max limit to request ratio per %s is %s, but provided ratio is %f", k, t, bound.String(), got)
	}
	return nil
}

func fail(format string, args ...any) []error { return []error{fmt.Errorf(format, args...)} }

// podTotals sums the containers as the scheduler does, without overhead.
func podTotals(p *core.Pod) (requests, limits core.ResourceList) {
	o := podresource.PodResourcesOptions{ExcludeOverhead: true}
	return podresource.PodRequests(p, o), podresource.PodLimits(p, o)
}
