package devices

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Extended is a claim that stands for the resources of classes that a pod asks for by
// name, as if they were extended resources of the node.
type Extended struct {
	// Claim is to be created; its name is the server's to choose.
	Claim      *resource.ResourceClaim
	Allocation *resource.AllocationResult
	// Requests say which container's resource is which request of the claim.
	Requests []core.ContainerExtendedResourceRequest
}

// extended are the resources of a pod that are names of classes.
type extended struct {
	pod     *core.Pod
	classes map[core.ResourceName]string // by resource
}

func (s *State) extendedOf(p *core.Pod, scalars map[core.ResourceName]int64) *extended {
	var e *extended
	for name, n := range scalars {
		if class := s.classes.byResource[name]; n > 0 && class != nil {
			if e == nil {
				e = &extended{pod: p, classes: map[core.ResourceName]string{}}
			}
			e.classes[name] = class.Name
		}
	}
	return e
}

// Class tells whether a resource is the name of a class.
func (s *State) Class(name core.ResourceName) bool { return s.classes.byResource[name] != nil }

// on is the claim for what the node itself does not offer; nil if it offers all.
func (e *extended) on(n Node) (*resource.ResourceClaim, []core.ContainerExtendedResourceRequest, string) {
	var requests []resource.DeviceRequest
	var mappings []core.ContainerExtendedResourceRequest
	for _, name := range slices.Sorted(maps.Keys(e.classes)) {
		if n.Allocatable(name) > 0 {
			continue
		}
		r, m := requestsFor(e.pod, name, e.classes[name])
		requests, mappings = append(requests, r...), append(mappings, m...)
	}
	if len(requests) == 0 {
		return nil, nil, ""
	}
	slices.SortFunc(requests, func(a, b resource.DeviceRequest) int { return strings.Compare(a.Name, b.Name) })
	return &resource.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.pod.Namespace, GenerateName: e.pod.Name + "-extended-resources-",
			Annotations: map[string]string{resource.ExtendedResourceClaimAnnotation: "true"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: e.pod.Name, UID: e.pod.UID, Controller: new(true)}},
		},
		Spec: resource.ResourceClaimSpec{Devices: resource.DeviceClaim{Requests: requests}},
	}, mappings, ""
}

// requestsFor turns what the containers ask of one resource into requests of the claim.
// Init containers that end before the next one starts use what those behind them
// have, and share one request for what they need beyond that.
func requestsFor(p *core.Pod, name core.ResourceName, class string) (requests []resource.DeviceRequest, mappings []core.ContainerExtendedResourceRequest) {
	all := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	passes := func(i int) bool {
		r := all[i].RestartPolicy
		return i < len(p.Spec.InitContainers) && (r == nil || *r != core.ContainerRestartPolicyAlways)
	}
	maps := func(i int, request string) {
		mappings = append(mappings, core.ContainerExtendedResourceRequest{ContainerName: all[i].Name, ResourceName: string(name), RequestName: request})
	}
	lasting := map[int]resource.DeviceRequest{}
	for i := range all {
		if n := wanted(&all[i], name); n > 0 && !passes(i) {
			r := request(i, &all[i], name, class, n)
			lasting[i] = r
			requests = append(requests, r)
			maps(i, r.Name)
		}
	}
	var extra []resource.DeviceRequest
	for i := range all {
		n := wanted(&all[i], name)
		if n == 0 || !passes(i) {
			continue
		}
		for k := i; k < len(all) && n > 0; k++ {
			if r, ok := lasting[k]; ok {
				maps(i, r.Name)
				n -= r.Exactly.Count
			}
		}
		if n > 0 {
			r := request(i, &all[i], name, class, n)
			extra = append(extra, r)
			maps(i, r.Name)
		}
	}
	if len(extra) > 0 {
		most := slices.MaxFunc(extra, func(a, b resource.DeviceRequest) int { return cmp.Compare(a.Exactly.Count, b.Exactly.Count) })
		requests = append(requests, most)
		for i := range mappings {
			if slices.ContainsFunc(extra, func(r resource.DeviceRequest) bool { return r.Name == mappings[i].RequestName }) {
				mappings[i].RequestName = most.Name
			}
		}
	}
	return requests, mappings
}

func wanted(c *core.Container, name core.ResourceName) int64 {
	q := c.Resources.Requests[name]
	return q.Value()
}

// request is named after the container's place and the resource's among its requests.
func request(container int, c *core.Container, name core.ResourceName, class string, n int64) resource.DeviceRequest {
	place, _ := slices.BinarySearch(slices.Sorted(maps.Keys(c.Resources.Requests)), name)
	return resource.DeviceRequest{Name: fmt.Sprintf("container-%d-request-%d", container, place),
		Exactly: &resource.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resource.DeviceAllocationModeExactCount, Count: n}}
}

// Leftover says that a claim for the pod's extended resources is there from an earlier try:
// it may be out of date, and has to go before the next one.
type Leftover struct{ Claim *resource.ResourceClaim }

func (*Leftover) Error() string { return "cannot schedule extended resource claim" }

// IsExtended tells whether the scheduler made the claim for a pod's extended resources.
func IsExtended(o *resource.ResourceClaim) bool {
	return o.Annotations[resource.ExtendedResourceClaimAnnotation] == "true"
}

// owner is the pod that the scheduler made the claim for; empty for other claims.
func owner(o *resource.ResourceClaim) types.UID {
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil && IsExtended(o) {
		return ref.UID
	}
	return ""
}

// bear ends the wait for a claim that was decided before it was made.
func (s *State) bear(pod types.UID) {
	if results, ok := s.unborn[pod]; ok {
		delete(s.unborn, pod)
		s.take(results, -1)
	}
}
