package quota

import (
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

// A device that a claim asks for counts for three names: that of its class, and those of the
// extended resources which stand for the class, one that every class has and one that it
// may have. Pods that ask for these are counted too, so a claim that the scheduler made for
// such a pod counts only for what is beyond the pod's own requests.

const (
	deviceSuffix = ".deviceclass.resource.k8s.io/devices"
	// requestsPrefix of an extended resource in a quota.
	requestsPrefix = "requests."
	// mostDevices is what a request for all devices counts as: the most that a claim can get.
	mostDevices = resourcev1.AllocationResultsMaxSize
)

// deviceUsage counts devices by class; of alternatives the largest of each class counts.
func deviceUsage(c *resourcev1.ResourceClaim, u core.ResourceList) {
	count := func(mode resourcev1.DeviceAllocationMode, n int64) int64 {
		if mode == resourcev1.DeviceAllocationModeAll {
			return mostDevices
		}
		return n
	}
	for _, r := range c.Spec.Devices.Requests {
		most := map[string]int64{}
		if r.Exactly != nil {
			most[r.Exactly.DeviceClassName] = count(r.Exactly.AllocationMode, r.Exactly.Count)
		}
		for _, s := range r.FirstAvailable {
			most[s.DeviceClassName] = max(most[s.DeviceClassName], count(s.AllocationMode, s.Count))
		}
		for class, n := range most {
			addTo(u, core.ResourceList{core.ResourceName(class + deviceSuffix): *resource.NewQuantity(n, resource.DecimalSI)})
		}
	}
}

// extendedUsage adds the extended resources that the classes in u stand for, as extended names
// them ("" for none), less what a pod has been counted for.
func extendedUsage(u core.ResourceList, extended func(class string) string, pod core.ResourceList) {
	more := core.ResourceList{}
	for name, n := range u {
		class, ok := strings.CutSuffix(string(name), deviceSuffix)
		if !ok {
			continue
		}
		names := []string{resourcev1.ResourceDeviceClassPrefix + class}
		if e := extended(class); e != "" {
			names = append(names, e)
		}
		for _, e := range names {
			addTo(more, core.ResourceList{core.ResourceName(requestsPrefix + e): n})
		}
	}
	for name, n := range more {
		n.Sub(pod[name])
		if n.Sign() > 0 {
			u[name] = n
		}
	}
}

// byClasses tells whether claims may count for the name, as they do for every extended
// resource that a class can stand for.
func byClasses(k core.ResourceName) bool {
	name, ok := strings.CutPrefix(string(k), requestsPrefix)
	return ok && strings.Contains(name, "/") && (!strings.Contains(name, "kubernetes.io/") || strings.HasPrefix(name, resourcev1.ResourceDeviceClassPrefix))
}

// meter measures objects with what the cache knows of classes and pods.
type meter struct {
	cache client.Cache
	now   func() time.Time
}

func (m meter) usage(f *api.Facts, o api.Object) core.ResourceList {
	u := Usage(f, o, m.now())
	if c, ok := o.(*resourcev1.ResourceClaim); ok {
		extendedUsage(u, m.extendedName, m.paid(c))
	}
	return u
}

func (m meter) extendedName(class string) string {
	if c := client.Cached(m.cache, api.DeviceClasses, "", class); c != nil && c.Spec.ExtendedResourceName != nil {
		return *c.Spec.ExtendedResourceName
	}
	return ""
}

// paid is what the pod counts for that a claim for extended resources was made for. Anybody can
// write the annotation that says so, so the pod has to agree: its status names the claim, or it
// is the first that was made for the pod.
func (m meter) paid(c *resourcev1.ResourceClaim) core.ResourceList {
	o := metav1.GetControllerOfNoCopy(c)
	if c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || o == nil || o.Kind != "Pod" || o.APIVersion != "v1" {
		return nil
	}
	p := client.Cached(m.cache, api.Pods, c.Namespace, o.Name)
	if p == nil || p.UID != o.UID {
		return nil
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		if s.ResourceClaimName != c.Name {
			return nil
		}
	} else if m.another(c, o) {
		return nil
	}
	return Usage(api.Pods.Facts, p, m.now())
}

// another tells whether an older claim was made for the same pod.
func (m meter) another(c *resourcev1.ResourceClaim, owner *metav1.OwnerReference) bool {
	found := false
	m.cache.Each(api.ResourceClaims.Facts, c.Namespace, func(x api.Object) bool {
		o := metav1.GetControllerOfNoCopy(x)
		if x.GetName() == c.Name || o == nil || o.UID != owner.UID || x.GetAnnotations()[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
			return true
		}
		was, is := x.GetCreationTimestamp(), c.CreationTimestamp
		found = is.IsZero() || was.Before(&is) || was.Equal(&is) && x.GetName() < c.Name
		return !found
	})
	return found
}
