package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/access"
	"orch/server/registry"
)

// deviceStatus asks for more rights than to the status as such: who allocates or reserves needs
// resourceclaims/binding in the whole cluster, who speaks for a driver resourceclaims/driver of its
// name. And admin access is given in namespaces only that are labelled for it.
func (l *List) deviceStatus(ctx context.Context, a *registry.Attributes) error {
	is, ok := a.Object.(*resource.ResourceClaim)
	was := old[resource.ResourceClaim](a)
	if !ok || was == nil || a.Operation != registry.Update || a.Subresource != "status" {
		return nil
	}
	if i := adminResult(was.Status.Allocation); i < 0 {
		if i = adminResult(is.Status.Allocation); i >= 0 {
			if err := l.adminNamespace(a, field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess")); err != nil {
				return err
			}
		}
	}
	if a.Verb == "" {
		return nil // the server's own scheduler and controllers
	}
	errs := l.mayAllocate(ctx, a, &is.Status, &was.Status)
	if is.Status.Allocation != nil { // with it goes what drivers said, whoever takes it back
		errs = append(errs, l.mayDescribe(ctx, a, &is.Status, &was.Status)...)
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(a.Resource.GroupKind(), a.Name, errs)
}

// adminResult is the first device that was allocated with admin access; -1 for none.
func adminResult(al *resource.AllocationResult) int {
	if al == nil {
		return -1
	}
	return slices.IndexFunc(al.Devices.Results, func(r resource.DeviceRequestAllocationResult) bool { return isTrue(r.AdminAccess) })
}

func (l *List) mayAllocate(ctx context.Context, a *registry.Attributes, is, was *resource.ResourceClaimStatus) field.ErrorList {
	if equality.Semantic.DeepEqual(is.Allocation, was.Allocation) && equality.Semantic.DeepEqual(is.ReservedFor, was.ReservedFor) {
		return nil
	}
	if err := l.cfg.Access.Judge(ctx, claimRight(a, a.Verb, resource.SubresourceBinding)); err != nil {
		return field.ErrorList{field.Forbidden(field.NewPath("status", "allocation"),
			fmt.Sprintf(`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, a.Verb, err))}
	}
	return nil
}

func (l *List) mayDescribe(ctx context.Context, a *registry.Attributes, is, was *resource.ResourceClaimStatus) field.ErrorList {
	verbs := []string{resource.VerbPrefixArbitraryNode + a.Verb}
	if node := nodeOfAllocation(is.Allocation); node != "" && (access.RunsOn(a.User, node) || isNode(a.User, node)) {
		verbs = []string{resource.VerbPrefixAssociatedNode + a.Verb, resource.VerbPrefixArbitraryNode + a.Verb}
	}
	var errs field.ErrorList
	for _, driver := range changedDrivers(is.Devices, was.Devices) {
		var first error
		for _, verb := range verbs {
			at := claimRight(a, verb, resource.SubresourceDriver)
			at.Namespace, at.Name = a.Namespace, driver
			err := l.cfg.Access.Judge(ctx, at)
			if err == nil {
				first = nil
				break
			}
			if first == nil {
				first = err
			}
		}
		if first != nil {
			errs = append(errs, field.Forbidden(field.NewPath("status", "devices"),
				fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, first)))
		}
	}
	return errs
}

func isNode(u registry.User, name string) bool {
	node, ok := access.NodeOf(u)
	return ok && node == name
}

func claimRight(a *registry.Attributes, verb, part string) access.Attributes {
	return access.Attributes{User: a.User, Verb: verb, Group: a.Resource.Group, Version: a.Resource.Version, Resource: a.Resource.Plural, Subresource: part}
}

// changedDrivers are those of devices of which something else is said than before.
func changedDrivers(is, was []resource.AllocatedDeviceStatus) []string {
	type id struct{ driver, pool, device, share string }
	idOf := func(d resource.AllocatedDeviceStatus) id {
		i := id{d.Driver, d.Pool, d.Device, ""}
		if d.ShareID != nil {
			i.share = *d.ShareID
		}
		return i
	}
	before, drivers := map[id]resource.AllocatedDeviceStatus{}, map[string]bool{}
	for _, d := range was {
		before[idOf(d)] = d
	}
	for _, d := range is {
		if o, ok := before[idOf(d)]; !ok || !equality.Semantic.DeepEqual(o, d) {
			drivers[d.Driver] = true
		}
		delete(before, idOf(d))
	}
	for i := range before {
		drivers[i.driver] = true
	}
	return slices.Sorted(maps.Keys(drivers))
}

// nodeOfAllocation is the one node that the devices are for; empty where it is not one by name.
func nodeOfAllocation(al *resource.AllocationResult) string {
	if al.NodeSelector == nil || len(al.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	t := al.NodeSelector.NodeSelectorTerms[0]
	if len(t.MatchExpressions) > 0 || len(t.MatchFields) != 1 {
		return ""
	}
	f := t.MatchFields[0]
	if f.Key != "metadata.name" || f.Operator != core.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}
