package slices

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	resource "k8s.io/api/resource/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"

	"orch/gpu/device"
)

// Values of the attribute type.
const (
	typeGPU = "gpu"
	typeMIG = "mig"
)

// cardName is the card's device name; the minor is what /dev/nvidiaN has.
func cardName(g device.GPU) string {
	if g.Integrated {
		return "gpu-" + strconv.Itoa(g.Index)
	}
	if g.Minor == nil { // no number may be made up: it could be another card's
		return "gpu-pci-" + strings.NewReplacer(":", "-", ".", "-").Replace(g.PCI.Address)
	}
	return "gpu-" + strconv.Itoa(*g.Minor)
}

type attributes map[resource.QualifiedName]resource.DeviceAttribute

func (a attributes) text(name resource.QualifiedName, v string) {
	if v != "" {
		a[name] = resource.DeviceAttribute{StringValue: new(v[:min(len(v), resource.DeviceAttributeMaxValueLength)])}
	}
}

func (a attributes) version(name resource.QualifiedName, v string) {
	if v = threeParts(v); v != "" {
		a[name] = resource.DeviceAttribute{VersionValue: &v}
	}
}

func (a attributes) number(name resource.QualifiedName, v int) {
	a[name] = resource.DeviceAttribute{IntValue: new(int64(v))}
}

// threeParts makes a semantic version of a driver's: "580.159.03" is 580.159.3, "13.0"
// is 13.0.0. What is none is empty.
func threeParts(v string) string {
	var out [3]uint64
	for i, p := range strings.SplitN(v, ".", len(out)+1) {
		if i == len(out) {
			break
		}
		n, err := strconv.ParseUint(p, 10, 64)
		if err != nil {
			return ""
		}
		out[i] = n
	}
	return fmt.Sprintf("%d.%d.%d", out[0], out[1], out[2])
}

// of are the attributes that a card and its partitions have alike.
func (w *writer) of(g device.GPU) attributes {
	a := attributes{}
	a.text("productName", g.Name)
	a.text("brand", g.Brand)
	a.text("architecture", g.Architecture)
	a.text("addressingMode", g.AddressingMode)
	if g.Compute != nil {
		a.version("cudaComputeCapability", g.Compute.String())
	}
	driver := w.Machine.Driver.Version
	if driver == "" {
		driver = w.Machine.Module.Version
	}
	a.version("driverVersion", driver)
	a.version("cudaDriverVersion", w.Machine.Driver.CUDA)
	a.text("resource.kubernetes.io/pciBusID", g.PCI.Address)
	a.text("resource.kubernetes.io/pcieRoot", g.PCI.Root)
	if g.NUMANode != nil && *g.NUMANode >= 0 {
		a.number("resource.kubernetes.io/numaNode", *g.NUMANode)
	}
	return a
}

// serve says as what requests that are no claims get the device.
func (w *writer) serve(a attributes, uuid string) {
	s, ok := w.served[uuid]
	if !ok {
		return
	}
	a.text(AttrResource, s.resource)
	a.number(AttrOrder, s.order)
	if s.replicas == 0 {
		return
	}
	a.number(AttrReplicas, s.replicas)
	if w.Share.OneOnly {
		a[AttrOneOnly] = resource.DeviceAttribute{BoolValue: new(true)}
	}
}

// whole is a card as one device. Of a partitioned one it takes all that the counters have.
func (w *writer) whole(g device.GPU, set *resource.CounterSet) resource.Device {
	a := w.of(g)
	a.text("type", typeGPU)
	a.text("uuid", g.UUID)
	w.serve(a, g.UUID)
	if links := w.links(g); links != "" {
		a.text(AttrLinks, links)
	}
	d := resource.Device{Name: cardName(g), Attributes: a, Taints: w.taints(g, nil)}
	if g.MemoryBytes != nil {
		d.Capacity = map[resource.QualifiedName]resource.DeviceCapacity{"memory": {Value: *quantity.NewQuantity(int64(*g.MemoryBytes), quantity.BinarySI)}}
	}
	if set != nil {
		d.ConsumesCounters = []resource.DeviceCounterConsumption{{CounterSet: set.Name, Counters: maps.Clone(set.Counters)}}
	}
	return d
}
