package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/resource"

	"orch/server/validate/rule"
)

// Resources checks requests and limits that stand outside a pod (RuntimeClass overhead).
func Resources(r *core.ResourceRequirements, p *field.Path) field.ErrorList {
	return resources(r, nil, p)
}

// resources checks requests and limits of one container; claims are the names
// of the pod's resource claims.
func resources(r *core.ResourceRequirements, claims rule.Unique, p *field.Path) field.ErrorList {
	var e rule.Errors
	compute, pages := false, false
	amounts := func(l core.ResourceList, p *field.Path) {
		for _, n := range rule.Sorted(l) {
			q, at := l[n], p.Key(string(n))
			e.Join(rule.ContainerResourceName(at, n), rule.Quantity(at, n, q))
			if rule.HugePages(n) {
				pages = true
				e.Join(rule.HugePageCount(at, n, q))
			}
			compute = compute || n == core.ResourceCPU || n == core.ResourceMemory
		}
	}
	amounts(r.Limits, p.Child("limits"))
	amounts(r.Requests, p.Child("requests"))
	withinLimits(&e, r, p)
	if pages && !compute {
		e.Forbidden(p, "HugePages require cpu or memory")
	}
	claimNames(&e, r.Claims, claims, p.Child("claims"))
	return e.List()
}

func withinLimits(e *rule.Errors, r *core.ResourceRequirements, p *field.Path) {
	for _, n := range rule.Sorted(r.Requests) {
		q := r.Requests[n]
		limit, limited := r.Limits[n]
		switch {
		case !limited && !rule.Overcommit(n):
			e.Required(p.Child("limits"), "Limit must be set for non overcommitable resources")
		case !limited:
		case q.Cmp(limit) != 0 && !rule.Overcommit(n):
			e.Invalid(p.Child("requests"), q.String(), fmt.Sprintf("must be equal to %s limit of %s", n, limit.String()))
		case q.Cmp(limit) > 0:
			e.Invalid(p.Child("requests"), q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", n, limit.String()))
		}
	}
}

func claimNames(e *rule.Errors, list []core.ResourceClaim, known rule.Unique, p *field.Path) {
	seen := rule.Unique{}
	for i, claim := range list {
		at := p.Index(i)
		if claim.Name == "" {
			e.Required(at, "")
			continue
		}
		if seen.Again(claim.Name + "/" + claim.Request) {
			e.Duplicate(at, claim.Name)
		}
		if known[claim.Name] {
			continue
		}
		missing := field.NotFound(at, claim.Name)
		missing.Detail = "must be one of the names in pod.spec.resourceClaims"
		if len(known) == 0 {
			missing.Detail += " which is empty"
		} else {
			missing.Detail += ": " + strings.Join(slices.Sorted(maps.Keys(known)), ", ")
		}
		e.Add(missing)
	}
}

// checkPodResources checks the resources of the pod as a whole, which must cover
// what its containers ask for.
func (c *spec) checkPodResources(parent *field.Path) {
	r, p := c.Resources, parent.Child("resources")
	if r == nil {
		return
	}
	e := &c.Errors
	for _, list := range []struct {
		path *field.Path
		core.ResourceList
	}{{p.Child("limits"), r.Limits}, {p.Child("requests"), r.Requests}} {
		for _, n := range rule.Sorted(list.ResourceList) {
			if !resource.IsSupportedPodLevelResource(n) {
				e.Add(field.NotSupported(list.path.Key(string(n)), n, []string{"cpu", "hugepages-", "memory"}))
			}
		}
	}
	if len(r.Claims) > 0 {
		e.Forbidden(p.Child("claims"), "claims cannot be set for Resources at pod-level")
	}
	e.Join(resources(&core.ResourceRequirements{Limits: r.Limits, Requests: r.Requests}, nil, p))
	sum := resource.AggregateContainerRequests(&core.Pod{Spec: *c.PodSpec}, resource.PodResourcesOptions{})
	for _, n := range rule.Sorted(sum) {
		asked := sum[n]
		if own, has := r.Requests[n]; has && asked.Cmp(own) > 0 {
			e.Invalid(p.Child("requests").Key(string(n)), own.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", asked.String()))
		}
	}
	for _, list := range []struct {
		name string
		of   []core.Container
	}{{"containers", c.Containers}, {"initContainers", c.InitContainers}} {
		for i := range list.of {
			for _, n := range rule.Sorted(list.of[i].Resources.Limits) {
				limit := list.of[i].Resources.Limits[n]
				if own, has := r.Limits[n]; has && limit.Cmp(own) > 0 {
					e.Invalid(parent.Child(list.name).Index(i).Child("resources", "limits").Key(string(n)), limit.String(),
						fmt.Sprintf("must be less than or equal to pod limits of %s", own.String()))
				}
			}
		}
	}
}
