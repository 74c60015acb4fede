package devices

import (
	"fmt"
	"time"

	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
)

// bindingTimeout is how long devices may take to become ready; upstream's.
const bindingTimeout = 10 * time.Minute

// Ready tells whether all devices of an allocated claim that must be made ready before its
// pod may be bound are so, as their drivers say. If they are not, until is when to give
// up. The error says that they will not be.
func Ready(o *resource.ResourceClaim, now time.Time) (ready bool, until time.Time, err error) {
	if o.Status.Allocation == nil {
		return false, time.Time{}, fmt.Errorf("claim %s/%s got deallocated elsewhere in the meantime", o.Namespace, o.Name)
	}
	ready = true
	for i := range o.Status.Allocation.Devices.Results {
		r := &o.Status.Allocation.Devices.Results[i]
		if len(r.BindingConditions) == 0 {
			continue
		}
		said := statusOf(o, r)
		for _, name := range r.BindingFailureConditions {
			if c := meta.FindStatusCondition(said.Conditions, name); c != nil && c.Status == "True" {
				return false, time.Time{}, fmt.Errorf("device binding failed: claim=%s, reason=%s, message=%q", o.Name, c.Reason, c.Message)
			}
		}
		for _, name := range r.BindingConditions {
			ready = ready && meta.IsStatusConditionTrue(said.Conditions, name)
		}
	}
	if ready {
		return true, time.Time{}, nil
	}
	if since := o.Status.Allocation.AllocationTimestamp; since != nil {
		if until = since.Add(bindingTimeout); !until.After(now) {
			return false, until, fmt.Errorf("device binding timeout: claim=%s", o.Name)
		}
	}
	return false, until, nil
}

func statusOf(o *resource.ResourceClaim, r *resource.DeviceRequestAllocationResult) resource.AllocatedDeviceStatus {
	for _, d := range o.Status.Devices {
		if d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device {
			return d
		}
	}
	return resource.AllocatedDeviceStatus{}
}
