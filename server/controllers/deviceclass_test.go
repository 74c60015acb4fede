package controllers_test

import (
	"fmt"
	"testing"

	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

// Classes come with the first slice of an agent and are the user's from then on.
func TestDeviceClassesComeWithTheDevices(t *testing.T) {
	c := start(t)
	make_(c, api.DeviceClasses, &resource.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "mig.nvidia.com", Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm"}}})
	make_(c, api.ResourceSlices, gpuSlice()) // another's driver of that name brings its own classes
	c.settle()
	if n := len(client.CachedList(c, api.DeviceClasses, "", nil)); n != 1 {
		t.Errorf("%d classes for a driver that is not ours", n)
	}
	ours := gpuSlice()
	ours.Name = "ours"
	ours.Spec.Devices[0].Attributes["orch.io/resource"] = resource.DeviceAttribute{StringValue: new("nvidia.com/gpu")}
	make_(c, api.ResourceSlices, ours)
	c.await(func() string {
		if l := client.CachedList(c, api.DeviceClasses, "", nil); len(l) != 3 {
			return fmt.Sprintf("%d classes", len(l))
		}
		return ""
	})
	g := client.Cached(c, api.DeviceClasses, "", "gpu.nvidia.com")
	if e := g.Spec.ExtendedResourceName; e == nil || *e != "nvidia.com/gpu" || g.Spec.Selectors[0].CEL.Expression != "device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'gpu'" {
		t.Errorf("class: %+v", g.Spec)
	}
	if m := client.Cached(c, api.DeviceClasses, "", "mig.nvidia.com"); m.Labels["app.kubernetes.io/managed-by"] != "Helm" || len(m.Spec.Selectors) != 0 {
		t.Errorf("the chart's class was changed: %+v", m)
	}
	// Deleted to make room for a chart: it stays away while slices change.
	if err := client.Delete(t.Context(), c, api.DeviceClasses, "", "gpu.nvidia.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	edit(c, api.ResourceSlices, "", "ours", func(s *resource.ResourceSlice) {
		s.Spec.Devices[0].Taints = []resource.DeviceTaint{noExecute("a.io/b")}
	})
	c.settle()
	if client.Cached(c, api.DeviceClasses, "", "gpu.nvidia.com") != nil {
		t.Error("the class came back")
	}
}
