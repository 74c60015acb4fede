package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

var oneDevice = resource.ResourceClaimSpec{Devices: resource.DeviceClaim{Requests: []resource.DeviceRequest{
	{Name: "r", Exactly: &resource.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resource.DeviceAllocationModeExactCount, Count: 1}}}}}

func claimTemplate(name string) *resource.ResourceClaimTemplate {
	return &resource.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: resource.ResourceClaimTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"x.io/y": "z"}}, Spec: oneDevice}}
}

func claimNamed(name string) *resource.ResourceClaim {
	return &resource.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: oneDevice}
}

// podWithClaim uses a claim by its name, or one made from a template.
func podWithClaim(name string, r core.PodResourceClaim) *core.Pod {
	r.Name = "c"
	return &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: core.PodSpec{ResourceClaims: []core.PodResourceClaim{r},
		Containers: []core.Container{{Name: "c", Image: "x", Resources: core.ResourceRequirements{Claims: []core.ResourceClaim{{Name: "c"}}}}}}}
}

// allocate does the scheduler's part for a claim: finalizer, allocation, reservations.
func (c *cluster) allocate(name string, pods ...*core.Pod) {
	c.t.Helper()
	edit(c, api.ResourceClaims, "default", name, func(o *resource.ResourceClaim) { o.Finalizers = []string{resource.Finalizer} })
	editStatus(c, api.ResourceClaims, "default", name, func(o *resource.ResourceClaim) {
		o.Status.Allocation = &resource.AllocationResult{Devices: resource.DeviceAllocationResult{
			Results: []resource.DeviceRequestAllocationResult{{Request: "r", Driver: "d.io", Pool: "n1", Device: "gpu-0"}}}}
		for _, p := range pods {
			o.Status.ReservedFor = append(o.Status.ReservedFor, resource.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
		}
	})
}

func editStatus[T any, P client.PtrTo[T]](c *cluster, k api.Kind[T], namespace, name string, change func(*T)) {
	c.t.Helper()
	for {
		o, err := client.Get(c.ctx, c, k, namespace, name)
		if err != nil {
			c.t.Fatal(err)
		}
		next := any(P(o).DeepCopyObject()).(P)
		change((*T)(next))
		if _, err = client.UpdateStatus(c.ctx, c, k, next); err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			c.t.Fatal(err)
		}
	}
}

// succeed lets a pod end as its node would say.
func (c *cluster) succeed(name string) {
	c.t.Helper()
	c.await(func() string {
		if p := client.Cached(c, api.Pods, "default", name); p == nil || p.Status.Phase != core.PodRunning {
			return "the pod does not run"
		}
		return ""
	})
	editStatus(c, api.Pods, "default", name, func(p *core.Pod) { p.Status.Phase = core.PodSucceeded })
}

// claimOfPod waits until the pod's status names its claim, and the claim is there.
func (c *cluster) claimOfPod(pod string) *resource.ResourceClaim {
	c.t.Helper()
	var claim *resource.ResourceClaim
	c.await(func() string {
		p := client.Cached(c, api.Pods, "default", pod)
		if p == nil || len(p.Status.ResourceClaimStatuses) != 1 || p.Status.ResourceClaimStatuses[0].ResourceClaimName == nil {
			return fmt.Sprintf("the status names no claim: %+v", p)
		}
		if claim = client.Cached(c, api.ResourceClaims, "default", *p.Status.ResourceClaimStatuses[0].ResourceClaimName); claim == nil {
			return "the claim is not there"
		}
		return ""
	})
	return claim
}

// claimIs waits for what a claim has become: "gone", or "<allocated|pending> <pods...>".
func (c *cluster) claimIs(name, want string) {
	c.t.Helper()
	c.await(func() string {
		got := "gone"
		if o := client.Cached(c, api.ResourceClaims, "default", name); o != nil {
			got = "pending"
			if o.Status.Allocation != nil {
				got = "allocated"
			}
			for _, r := range o.Status.ReservedFor {
				got += " " + r.Name
			}
			if (o.Status.Allocation != nil) != slices.Contains(o.Finalizers, resource.Finalizer) {
				got += ", finalizers " + strings.Join(o.Finalizers, " ")
			}
		}
		if got != want {
			return fmt.Sprintf("claim %s: %s, want %s", name, got, want)
		}
		return ""
	})
}

func TestPodGetsTheClaimOfItsTemplate(t *testing.T) {
	c := start(t)
	p := make_(c, api.Pods, podWithClaim("web", core.PodResourceClaim{ResourceClaimTemplateName: new("t")}))
	c.awaitEvent("FailedResourceClaimCreation", `PodResourceClaim c: resource claim template "t": `)
	make_(c, api.ResourceClaimTemplates, claimTemplate("t")) // the wait for it ends at once
	claim := c.claimOfPod("web")
	o := metav1.GetControllerOf(claim)
	if !strings.HasPrefix(claim.Name, "web-c-") || o == nil || o.UID != p.UID || o.BlockOwnerDeletion != nil {
		t.Errorf("name %s, owner %+v", claim.Name, o)
	}
	if claim.Labels["a"] != "b" || claim.Annotations["x.io/y"] != "z" || claim.Annotations[resource.PodResourceClaimAnnotation] != "c" {
		t.Errorf("labels %v, annotations %v", claim.Labels, claim.Annotations)
	}
	if err := client.Delete(t.Context(), c, api.ResourceClaims, "default", claim.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.await(func() string {
		p := client.Cached(c, api.Pods, "default", "web")
		if name := *p.Status.ResourceClaimStatuses[0].ResourceClaimName; name == claim.Name {
			return "the pod still names the claim that was deleted"
		}
		return ""
	})
	c.settle()
	if n := len(client.CachedList(c, api.ResourceClaims, "default", nil)); n != 1 {
		t.Errorf("%d claims, want one", n)
	}
}

func TestGeneratedClaimGoesWhenItsPodIsDone(t *testing.T) {
	c := start(t)
	make_(c, api.ResourceClaimTemplates, claimTemplate("t"))
	p := make_(c, api.Pods, podWithClaim("job", core.PodResourceClaim{ResourceClaimTemplateName: new("t")}))
	claim := c.claimOfPod("job")
	c.allocate(claim.Name, p)
	c.settle()
	c.claimIs(claim.Name, "allocated job")
	c.succeed("job")
	c.claimIs(claim.Name, "gone")
	c.settle()
	if l := client.CachedList(c, api.ResourceClaims, "default", nil); len(l) != 0 {
		t.Errorf("a pod that is done got a claim again: %s", l[0].Name)
	}
}

func TestClaimOfExtendedResourcesGoesWhenItsPodIsDone(t *testing.T) {
	c := start(t)
	p := make_(c, api.Pods, &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Image: "x",
		Resources: core.ResourceRequirements{Limits: core.ResourceList{"nvidia.com/gpu": quantity.MustParse("1")}}}}}})
	claim := claimNamed("p-extended-resources-x")
	claim.Annotations = map[string]string{resource.ExtendedResourceClaimAnnotation: "true"}
	claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: p.UID, Controller: new(true)}}
	make_(c, api.ResourceClaims, claim)
	c.allocate(claim.Name, p)
	editStatus(c, api.Pods, "default", "p", func(p *core.Pod) {
		p.Status.ExtendedResourceClaimStatus = &core.PodExtendedResourceClaimStatus{ResourceClaimName: claim.Name,
			RequestMappings: []core.ContainerExtendedResourceRequest{{ContainerName: "c", ResourceName: "nvidia.com/gpu", RequestName: "r"}}}
	})
	c.succeed("p")
	c.claimIs(claim.Name, "gone")
}

func TestSharedClaimIsFreedWithItsLastPod(t *testing.T) {
	c := start(t)
	make_(c, api.ResourceClaims, claimNamed("shared"))
	a := make_(c, api.Pods, podWithClaim("a", core.PodResourceClaim{ResourceClaimName: new("shared")}))
	b := make_(c, api.Pods, podWithClaim("b", core.PodResourceClaim{ResourceClaimName: new("shared")}))
	c.allocate("shared", a, b)
	c.succeed("a")
	c.claimIs("shared", "allocated b")
	if err := client.Delete(t.Context(), c, api.ResourceClaims, "default", "shared", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.settle()
	c.claimIs("shared", "allocated b") // deleted, but in use
	if err := client.Delete(t.Context(), c, api.Pods, "default", "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.claimIs("shared", "gone")

	make_(c, api.ResourceClaims, claimNamed("again"))
	d := make_(c, api.Pods, podWithClaim("d", core.PodResourceClaim{ResourceClaimName: new("again")}))
	c.allocate("again", d)
	c.succeed("d")
	c.claimIs("again", "pending")
}

func TestClaimIsReservedForAPodThatIsBoundAlready(t *testing.T) {
	c := start(t)
	make_(c, api.ResourceClaims, claimNamed("named"))
	make_(c, api.Pods, podWithClaim("p", core.PodResourceClaim{ResourceClaimName: new("named")}))
	c.settle()
	c.allocate("named")
	c.claimIs("named", "allocated p")
}

func TestReservationOfAPodThatWasReplacedEnds(t *testing.T) {
	c := start(t)
	make_(c, api.ResourceClaims, claimNamed("named"))
	p := make_(c, api.Pods, podWithClaim("p", core.PodResourceClaim{ResourceClaimName: new("other")}))
	p = p.DeepCopy()
	p.UID = "another"
	c.allocate("named", p)
	c.claimIs("named", "pending")
}
