package device

import (
	"slices"

	"github.com/google/uuid"
	resource "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

// ClaimStatus checks allocation and reservations: an allocation is not changed,
// only made and taken back.
func ClaimStatus(o, old *resource.ResourceClaim) field.ErrorList {
	var e rule.Errors
	s := &o.Status
	consumers(&e, s.ReservedFor, statusPath.Child("reservedFor"))
	allocated(&e, s, statusPath.Child("devices"))
	if at := statusPath.Child("reservedFor"); len(s.ReservedFor) > 0 {
		fresh := func(r resource.ResourceClaimConsumerReference) bool {
			return !slices.Contains(old.Status.ReservedFor, r)
		}
		switch {
		case s.Allocation == nil:
			e.Forbidden(at, "may not be specified when `allocated` is not set")
		case o.DeletionTimestamp != nil && slices.ContainsFunc(s.ReservedFor, fresh):
			e.Forbidden(at, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set")
		}
	}
	switch at := statusPath.Child("allocation"); {
	case s.Allocation == nil:
	case old.Status.Allocation != nil:
		e.Unchanged(at, s.Allocation, old.Status.Allocation)
	default:
		allocation(&e, s.Allocation, names(&o.Spec.Devices), at)
	}
	return e.List()
}

func consumers(e *rule.Errors, list []resource.ResourceClaimConsumerReference, p *field.Path) {
	if !e.AtMost(p, len(list), resource.ResourceClaimReservedForMaxSize) {
		return
	}
	seen := rule.Unique{}
	for i, r := range list {
		e.Need(p.Index(i).Child("resource"), r.Resource)
		e.Need(p.Index(i).Child("name"), r.Name)
		e.Need(p.Index(i).Child("uid"), string(r.UID))
	}
	for i, r := range list {
		if seen.Again(string(r.UID)) {
			e.Duplicate(p.Index(i), r.UID)
		}
	}
}

func deviceID(driver, pool, device string, share *string) string {
	id := driver + "/" + pool + "/" + device
	if share != nil {
		id += "/" + *share
	}
	return id
}

// allocated checks what drivers say of the devices of a claim.
func allocated(e *rule.Errors, s *resource.ResourceClaimStatus, p *field.Path) {
	known, seen := map[string]bool{}, rule.Unique{}
	if s.Allocation != nil {
		for _, r := range s.Allocation.Devices.Results {
			known[deviceID(r.Driver, r.Pool, r.Device, (*string)(r.ShareID))] = true
		}
	}
	for i := range s.Devices {
		d, at := &s.Devices[i], p.Index(i)
		e.Join(podspec.CSIDriverName(d.Driver, at.Child("driver")))
		pool(e, d.Pool, at.Child("pool"))
		e.DNSLabel(at.Child("device"), d.Device)
		shareID(e, d.ShareID, at.Child("shareID"))
		id := deviceID(d.Driver, d.Pool, d.Device, d.ShareID)
		if !known[id] {
			e.Invalid(at, id, "must be an allocated device in the claim")
		}
		e.AtMost(at.Child("conditions"), len(d.Conditions), resource.AllocatedDeviceStatusMaxConditions)
		e.Join(metavalidation.ValidateConditions(d.Conditions, at.Child("conditions")))
		if d.Data != nil && len(d.Data.Raw) > 0 {
			rawObject(e, d.Data.Raw, resource.AllocatedDeviceStatusDataMaxLength, at.Child("data"))
		}
		network(e, d.NetworkData, at.Child("networkData"))
		if seen.Again(id) {
			e.Duplicate(at, id)
		}
	}
}

func network(e *rule.Errors, n *resource.NetworkDeviceData, p *field.Path) {
	if n == nil {
		return
	}
	e.Shorter(p.Child("interfaceName"), n.InterfaceName, resource.NetworkDeviceDataInterfaceNameMaxLength)
	e.Shorter(p.Child("hardwareAddress"), n.HardwareAddress, resource.NetworkDeviceDataHardwareAddressMaxLength)
	at, seen := p.Child("ips"), rule.Unique{}
	if !e.AtMost(at, len(n.IPs), resource.NetworkDeviceDataMaxIPs) {
		return
	}
	for i, ip := range n.IPs {
		e.Join(validation.IsValidInterfaceAddress(at.Index(i), ip))
		if seen.Again(ip) {
			e.Duplicate(at.Index(i), ip)
		}
	}
}

func allocation(e *rule.Errors, a *resource.AllocationResult, known requests, p *field.Path) {
	d := &a.Devices
	if at := p.Child("devices", "results"); e.AtMost(at, len(d.Results), resource.AllocationResultsMaxSize) {
		for i := range d.Results {
			result(e, &d.Results[i], known, at.Index(i))
		}
	}
	if at := p.Child("devices", "config"); e.AtMost(at, len(d.Config), 2*resource.DeviceConfigMaxSize) { // the class's and the claim's
		for i := range d.Config {
			c := &d.Config[i]
			rule.OneOf(e, at.Index(i).Child("source"), c.Source, resource.AllocationConfigSourceClaim, resource.AllocationConfigSourceClass)
			references(e, c.Requests, known, at.Index(i).Child("requests"))
			configuration(e, &c.DeviceConfiguration, at.Index(i))
		}
	}
	if a.NodeSelector != nil {
		e.Join(rule.NodeSelector(p.Child("nodeSelector"), a.NodeSelector))
	}
}

func result(e *rule.Errors, r *resource.DeviceRequestAllocationResult, known requests, p *field.Path) {
	reference(e, r.Request, known, p.Child("request"))
	e.Join(podspec.CSIDriverName(r.Driver, p.Child("driver")))
	pool(e, r.Pool, p.Child("pool"))
	e.DNSLabel(p.Child("device"), r.Device)
	binding(e, r.BindingConditions, r.BindingFailureConditions, p)
	tolerations(e, r.Tolerations, p.Child("tolerations"))
	shareID(e, (*string)(r.ShareID), p.Child("shareID"))
	skipped(e, r.SkipNodeOperations, p.Child("skipNodeOperations"))
}

func shareID(e *rule.Errors, id *string, p *field.Path) {
	if id == nil {
		return
	}
	u, err := uuid.Parse(*id)
	switch {
	case err != nil:
		e.Invalid(p, *id, "error validating uid: "+err.Error())
	case u.String() != *id:
		e.Invalid(p, *id, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")
	}
}
