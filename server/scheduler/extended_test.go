package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
)

func (c *cluster) allClaims() []*resource.ResourceClaim {
	return client.CachedList(c, api.ResourceClaims, "default", nil)
}

func serving(name string) func(*resource.DeviceClass) {
	return func(o *resource.DeviceClass) { o.Spec.ExtendedResourceName = &name }
}

// TestResourceOfAClass: who asks for a class's resource by name gets a claim on a node that
// does not offer it as a number, and no claim on one that does.
func TestResourceOfAClass(t *testing.T) {
	c := newCluster(t, memory.New())
	c.node("a", "8")
	c.gpus("a", "h200-8")
	c.class("gpu", gpuClass, serving("example.com/card"))
	c.pod("p", "1", limit("example.com/card", "2"))
	p := c.until("p", "bound", bound)
	status := p.Status.ExtendedResourceClaimStatus
	if status == nil || !strings.HasPrefix(status.ResourceClaimName, "p-extended-resources-") {
		t.Fatalf("status %+v", status)
	}
	// cpu is the first of the container's requests, the card the second.
	if want := []core.ContainerExtendedResourceRequest{{ContainerName: "c", ResourceName: "example.com/card", RequestName: "container-0-request-1"}}; !slices.Equal(status.RequestMappings, want) {
		t.Errorf("mappings %v", status.RequestMappings)
	}
	o := c.getClaim(status.ResourceClaimName)
	if got := devicesOf(o); !slices.Equal(got, []string{"a/gpu-0", "a/gpu-1"}) || o.Annotations[resource.ExtendedResourceClaimAnnotation] != "true" ||
		!metav1.IsControlledBy(o, p) || len(o.Status.ReservedFor) != 1 || !slices.Contains(o.Finalizers, resource.Finalizer) {
		t.Errorf("claim %+v", o)
	}
	c.pod("implicit", "1", limit(resource.ResourceDeviceClassPrefix+"gpu", "6"))
	p = c.until("implicit", "bound", bound)
	if got := devicesOf(c.getClaim(p.Status.ExtendedResourceClaimStatus.ResourceClaimName)); len(got) != 6 || got[0] != "a/gpu-2" {
		t.Errorf("devices %v", got)
	}
	c.pod("late", "1", limit("example.com/card", "1"))
	c.until("late", "told why it waits", saying("0/1 nodes are available: 1 cannot allocate all claims. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."))
	n := c.node("b", "8").DeepCopy()
	n.Status.Allocatable["example.com/card"] = quantity("1")
	must[*core.Node](t)(client.UpdateStatus(context.Background(), c, api.Nodes, n))
	if p = c.until("late", "bound", bound); p.Status.ExtendedResourceClaimStatus != nil {
		t.Errorf("a claim where the node has the resource: %v", p.Status.ExtendedResourceClaimStatus)
	}
	if n := len(c.allClaims()); n != 2 {
		t.Errorf("%d claims", n)
	}
}

// TestClaimForExtendedResourcesGoesWithTheTry: a pod that could not be bound leaves no claim
// behind, and one that a dead scheduler left is replaced.
func TestClaimForExtendedResourcesGoesWithTheTry(t *testing.T) {
	c := newCluster(t, memory.New())
	c.refusing(func(t client.Target) error {
		if t.Subresource == "binding" {
			return errors.NewForbidden(core.Resource("pods"), t.Name, fmt.Errorf("not today"))
		}
		return nil
	})
	c.node("a", "8")
	c.gpus("a", "h200")
	c.class("gpu", gpuClass, serving("example.com/card"))
	c.pod("p", "1", limit("example.com/card", "1"))
	c.until("p", "told of a claim", func(p *core.Pod) bool { return p.Status.ExtendedResourceClaimStatus != nil })
	eventually(t, func() bool { return len(c.allClaims()) == 0 })
	c.stop()
	p := must[*core.Pod](t)(client.Get(context.Background(), c, api.Pods, "default", "p"))
	left := &resource.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "left", Finalizers: []string{resource.Finalizer},
		Annotations:     map[string]string{resource.ExtendedResourceClaimAnnotation: "true"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: p.UID, Controller: new(true)}}},
		Spec: resource.ResourceClaimSpec{Devices: resource.DeviceClaim{Requests: []resource.DeviceRequest{{Name: "container-0-request-0",
			Exactly: &resource.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resource.DeviceAllocationModeExactCount, Count: 1}}}}}}
	must[*resource.ResourceClaim](t)(client.Create(context.Background(), c, api.ResourceClaims, left))
	c.refusing(nil)
	c.start()
	p = c.until("p", "bound", bound)
	if claims := c.allClaims(); len(claims) != 1 || claims[0].Name != p.Status.ExtendedResourceClaimStatus.ResourceClaimName || len(devicesOf(claims[0])) != 1 {
		t.Errorf("claims %v", claims)
	}
}
