package controllers_test

import (
	"slices"
	"testing"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

// TestClaimStaysWhileAPodUsesIt: a deleted claim goes with the last pod that has it, a class
// with the last claim that names it; and what lacks its finalizer gets it.
func TestClaimStaysWhileAPodUsesIt(t *testing.T) {
	c := start(t)
	claim := make_(c, api.PersistentVolumeClaims, &core.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"},
		Spec: core.PersistentVolumeClaimSpec{AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce}, VolumeAttributesClassName: new("gold"),
			Resources: core.VolumeResourceRequirements{Requests: core.ResourceList{"storage": resource.MustParse("1Gi")}}}})
	make_(c, api.VolumeAttributesClasses, &storage.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, DriverName: "d.io", Parameters: map[string]string{"a": "b"}})
	make_(c, api.Pods, &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: core.PodSpec{NodeName: "n", Containers: []core.Container{{Name: "c", Image: "x"}},
		Volumes: []core.Volume{{Name: "v", VolumeSource: core.VolumeSource{PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}}})
	guarded := func(deleted bool) func() string {
		return func() string {
			n, g := client.Cached(c, api.PersistentVolumeClaims, "default", "c"), client.Cached(c, api.VolumeAttributesClasses, "", "gold")
			switch {
			case n == nil || g == nil:
				return "claim or class is gone"
			case !slices.Contains(n.Finalizers, api.ClaimProtection) || !slices.Contains(g.Finalizers, api.AttributesProtection):
				return "a finalizer is missing"
			case deleted != (n.DeletionTimestamp != nil) || deleted != (g.DeletionTimestamp != nil):
				return "the deletion does not show"
			}
			return ""
		}
	}
	c.await(guarded(false))
	for _, err := range []error{
		client.Delete(t.Context(), c, api.PersistentVolumeClaims, "default", claim.Name, metav1.DeleteOptions{}),
		client.Delete(t.Context(), c, api.VolumeAttributesClasses, "", "gold", metav1.DeleteOptions{}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.settle()
	c.await(guarded(true))
	if err := client.Delete(t.Context(), c, api.Pods, "default", "p", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	c.await(func() string {
		if client.Cached(c, api.PersistentVolumeClaims, "default", "c") != nil || client.Cached(c, api.VolumeAttributesClasses, "", "gold") != nil {
			return "claim or class is still there"
		}
		return ""
	})
}
