package devices

import (
	"cmp"
	"maps"
	"slices"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/dynamic-resource-allocation/structured"

	"orch/api"
)

// classes are the DeviceClasses, also by the names of resources that pods may ask for in
// place of a claim.
type classes struct {
	byName     map[string]*resource.DeviceClass
	byResource map[core.ResourceName]*resource.DeviceClass
}

var _ structured.DeviceClassLister = classes{}

func newClasses() classes {
	return classes{byName: map[string]*resource.DeviceClass{}, byResource: map[core.ResourceName]*resource.DeviceClass{}}
}

func (c classes) List() ([]*resource.DeviceClass, error) {
	return slices.Collect(maps.Values(c.byName)), nil
}

func (c classes) Get(name string) (*resource.DeviceClass, error) {
	if o := c.byName[name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Group: resource.GroupName, Resource: api.DeviceClasses.Facts.Plural}, name)
}

func (c classes) set(o *resource.DeviceClass) {
	c.byName[o.Name] = o
	c.index()
}

func (c classes) remove(name string) {
	delete(c.byName, name)
	c.index()
}

// index names the class for each resource. Of two with one name the newer counts, so that
// people can move from one class to another, then the first by name.
func (c classes) index() {
	clear(c.byResource)
	for _, o := range slices.SortedFunc(maps.Values(c.byName), func(a, b *resource.DeviceClass) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(b.Name, a.Name))
	}) {
		c.byResource[core.ResourceName(resource.ResourceDeviceClassPrefix+o.Name)] = o
		if o.Spec.ExtendedResourceName != nil {
			c.byResource[core.ResourceName(*o.Spec.ExtendedResourceName)] = o
		}
	}
}
