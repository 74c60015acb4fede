package rule

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Names of resources and what may be said of them, as upstream's
// pkg/apis/core/helper has it.

func HugePages(n core.ResourceName) bool {
	return strings.HasPrefix(string(n), core.ResourceHugePagesPrefix)
}

// Native resources have no domain, or kubernetes.io's.
func Native(n core.ResourceName) bool {
	return !strings.Contains(string(n), "/") || strings.Contains(string(n), core.ResourceDefaultNamespacePrefix)
}

// Extended resources are a vendor's: nvidia.com/gpu.
func Extended(n core.ResourceName) bool {
	return !Native(n) && !strings.HasPrefix(string(n), core.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(core.DefaultResourceRequestsPrefix+string(n))) == 0
}

// Overcommit tells whether limits may be above requests.
func Overcommit(n core.ResourceName) bool { return Native(n) && !HugePages(n) }

func whole(n core.ResourceName) bool {
	switch n {
	case core.ResourcePods, core.ResourceQuotas, core.ResourceServices, core.ResourceReplicationControllers, core.ResourceSecrets,
		core.ResourceConfigMaps, core.ResourcePersistentVolumeClaims, core.ResourceServicesNodePorts, core.ResourceServicesLoadBalancers:
		return true
	}
	return Extended(n)
}

func ofContainers(n core.ResourceName) bool {
	switch n {
	case core.ResourceCPU, core.ResourceMemory, core.ResourceEphemeralStorage:
		return true
	}
	return HugePages(n)
}

// OfQuotas tells whether a quota may count the unqualified name.
func OfQuotas(n core.ResourceName) bool {
	quota := []core.ResourceName{
		core.ResourceCPU, core.ResourceMemory, core.ResourceEphemeralStorage,
		core.ResourceRequestsCPU, core.ResourceRequestsMemory, core.ResourceRequestsStorage, core.ResourceRequestsEphemeralStorage,
		core.ResourceLimitsCPU, core.ResourceLimitsMemory, core.ResourceLimitsEphemeralStorage,
		core.ResourcePods, core.ResourceQuotas, core.ResourceServices, core.ResourceReplicationControllers, core.ResourceSecrets,
		core.ResourcePersistentVolumeClaims, core.ResourceConfigMaps, core.ResourceServicesNodePorts, core.ResourceServicesLoadBalancers,
	}
	return slices.Contains(quota, n) || HugePages(n) || strings.HasPrefix(string(n), core.ResourceRequestsHugePagesPrefix)
}

func standard(n core.ResourceName) bool { return OfQuotas(n) || n == core.ResourceStorage }

// ResourceName wants a standard name or a qualified one.
func ResourceName(p *field.Path, n core.ResourceName) field.ErrorList {
	var e Errors
	e.Each(p, n, validation.IsQualifiedName(string(n)))
	if e.Len() == 0 && !strings.Contains(string(n), "/") && !standard(n) {
		e.Invalid(p, n, "must be a standard resource type or fully qualified")
	}
	return e.List()
}

// ContainerResourceName wants a name that a container can ask for.
func ContainerResourceName(p *field.Path, n core.ResourceName) field.ErrorList {
	var e Errors
	e.Join(ResourceName(p, n))
	switch {
	case !strings.Contains(string(n), "/"):
		if !ofContainers(n) {
			e.Invalid(p, n, "must be a standard resource for containers")
		}
	case !Native(n) && !Extended(n):
		e.Invalid(p, n, "doesn't follow extended resource name standard")
	}
	return e.List()
}

// QuotaResourceName wants a name that a quota can count.
func QuotaResourceName(p *field.Path, n core.ResourceName) field.ErrorList {
	var e Errors
	e.Join(ResourceName(p, n))
	if !strings.Contains(string(n), "/") && !OfQuotas(n) {
		e.Invalid(p, n, "must be a standard resource for quota")
	}
	return e.List()
}

// Quantity wants an amount that the resource can have.
func Quantity(p *field.Path, n core.ResourceName, q resource.Quantity) field.ErrorList {
	var e Errors
	if q.Sign() < 0 {
		e.Invalid(p, q.String(), NotNegative)
	}
	if whole(n) && q.MilliValue()%1000 != 0 {
		e.Invalid(p, q, Integer)
	}
	return e.List()
}

// HugePageCount wants a whole number of pages of the size in the name.
func HugePageCount(p *field.Path, n core.ResourceName, q resource.Quantity) field.ErrorList {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(n), core.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 || q.Sign() <= 0 && !q.IsZero() || q.Value()%size.Value() != 0 {
		return field.ErrorList{field.Invalid(p, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), n))}
	}
	return nil
}

// Sorted lists a resource list's names, so that errors come in one order.
func Sorted(l core.ResourceList) []core.ResourceName {
	names := make([]core.ResourceName, 0, len(l))
	for n := range l {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
