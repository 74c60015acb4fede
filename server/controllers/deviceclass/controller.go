// Package deviceclass offers the GPUs of orch's own agents under the class names that NVIDIA's
// DRA driver has, so that claims written for it work. A class is made when a node's first
// slice appears, if there is none of that name, and never touched again: whoever changes it
// keeps the change, and one that was deleted, for instance to let a chart bring its own, stays
// away until the server or a node comes anew. Start reading at Specs.
package deviceclass

import (
	"context"
	"fmt"
	"strings"

	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// own is the domain of the attributes that only orch's agents publish: where NVIDIA's driver
// is installed its chart has brought the classes.
const own = "orch.io/"

// classes of the driver: by the type of device.
var classes = []struct{ name, kind, extended string }{
	{api.GPUDriver, "gpu", "nvidia.com/gpu"},
	{"mig.nvidia.com", "mig", ""},
	{"vfio.gpu.nvidia.com", "vfio", ""},
}

// Specs is the controller; its keys are the names of classes.
func Specs(c *client.Client) []reconcile.Spec {
	return []reconcile.Spec{{Name: "deviceclass", Watches: []reconcile.Watch{reconcile.Map(api.ResourceSlices, appeared)},
		Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			return reconcile.Result{}, offer(ctx, c, k.Name)
		}}}
}

func appeared(was, is *resource.ResourceSlice) []reconcile.Key {
	if was != nil || is == nil || is.Spec.Driver != api.GPUDriver || !published(is) {
		return nil
	}
	var keys []reconcile.Key
	for _, c := range classes {
		keys = append(keys, reconcile.Key{Name: c.name})
	}
	return keys
}

// published tells that an agent of orch made the slice.
func published(s *resource.ResourceSlice) bool {
	for _, d := range s.Spec.Devices {
		for name := range d.Attributes {
			if strings.HasPrefix(string(name), own) {
				return true
			}
		}
	}
	return false
}

func offer(ctx context.Context, c *client.Client, name string) error {
	if client.Cached(c, api.DeviceClasses, "", name) != nil {
		return nil
	}
	if _, err := client.Create(ctx, c, api.DeviceClasses, class(name)); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making device class: %w", err)
	}
	return nil
}

// class says who made it, as Helm shows the label to whoever installs a chart with a class of that name.
func class(name string) *resource.DeviceClass {
	o := &resource.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "orch"}}}
	for _, c := range classes {
		if c.name != name {
			continue
		}
		o.Spec.Selectors = []resource.DeviceSelector{{CEL: &resource.CELDeviceSelector{
			Expression: fmt.Sprintf("device.driver == '%s' && device.attributes['%s'].type == '%s'", api.GPUDriver, api.GPUDriver, c.kind)}}}
		if c.extended != "" {
			o.Spec.ExtendedResourceName = &c.extended
		}
	}
	return o
}
