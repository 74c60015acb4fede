package placement

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"orch/gpu/fakenvml"
	"orch/gpu/share"
	gpu "orch/gpu/slices"
)

// devices does the commands of transcripts that are about devices.
func (p *player) devices(verb, name string, args []string, body string) {
	read := func(into any) {
		if err := yaml.UnmarshalStrict([]byte(body), into); err != nil {
			p.Fatal(err)
		}
	}
	state := p.c.Devices
	switch verb {
	case "gpus":
		p.gpus(name, args)
	case "slice":
		o := &resource.ResourceSlice{}
		o.Name = name
		read(&o.Spec)
		state.SetSlice(o)
	case "rule":
		o := &resource.DeviceTaintRule{}
		o.Name = name
		read(&o.Spec)
		state.SetRule(o)
	case "class":
		o := &resource.DeviceClass{}
		o.Name = name
		if len(args) > 0 && strings.HasPrefix(args[0], "resource=") {
			o.Spec.ExtendedResourceName, args = new(args[0][len("resource="):]), args[1:]
		}
		if len(args) > 0 {
			o.Spec.Selectors = []resource.DeviceSelector{{CEL: &resource.CELDeviceSelector{Expression: strings.Join(args, " ")}}}
		}
		state.SetClass(o)
	case "claim":
		o := &resource.ResourceClaim{}
		o.Namespace, o.Name, o.UID, o.ResourceVersion = "default", name, types.UID(name), "1"
		read(&o.Spec)
		state.SetClaim(o)
	case "free":
		o := state.Claim(types.NamespacedName{Namespace: "default", Name: name}).DeepCopy()
		o.ResourceVersion += "0"
		o.Status = resource.ResourceClaimStatus{}
		state.SetClaim(o)
	}
}

func (p *player) gpus(node string, args []string) {
	rec, err := fakenvml.Load(args[0])
	if err != nil {
		p.Fatal(err)
	}
	n := gpu.Node{Name: node, Machine: rec.Machine, Taints: map[string][]resource.DeviceTaint{}}
	for _, a := range args[1:] {
		switch k, v, _ := strings.Cut(a, "="); k {
		case "strategy":
			n.Share.MIG = share.Strategy(v)
		case "dynamic":
			n.Dynamic = true
		case "taint":
			for i, g := range rec.Machine.GPUs {
				if fmt.Sprint(i) == v {
					n.Taints[g.UUID] = []resource.DeviceTaint{{Key: gpu.TaintXID, Value: "79", Effect: resource.DeviceTaintEffectNoSchedule}}
				}
			}
		default:
			p.Fatalf("unknown argument %s", a)
		}
	}
	for i, g := range rec.Machine.GPUs {
		p.places[g.UUID] = fmt.Sprint(i)
		for _, d := range g.MIGDevices() {
			p.places[d.UUID] = fmt.Sprintf("%d:%d", i, d.Index)
		}
	}
	for i, spec := range gpu.Of(n) {
		o := &resource.ResourceSlice{Spec: spec}
		o.Name = fmt.Sprintf("%s-%d", node, i)
		p.c.Devices.SetSlice(o)
	}
}

// granted prints the devices of a decision, and writes the claims as the scheduler does.
func (p *player) granted(pod *Pod, d Decision) {
	names := func(a *resource.AllocationResult) string {
		var out []string
		for _, r := range a.Devices.Results {
			out = append(out, r.Request+"="+r.Device)
		}
		return strings.Join(out, " ")
	}
	for _, c := range d.Grant.Claims {
		o := c.ResourceClaim.DeepCopy()
		o.ResourceVersion += "0"
		o.Status.ReservedFor = append(o.Status.ReservedFor, resource.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if c.Allocation != nil {
			p.printf("%s: %s", c.Name, names(c.Allocation))
			o.Status.Allocation = c.Allocation
		}
		p.c.Devices.SetClaim(o)
	}
	if e := d.Grant.Extended; e != nil {
		p.printf("%s: %s", e.Claim.GenerateName, names(e.Allocation))
		for _, r := range e.Requests {
			p.printf("%s %s: %s", r.ContainerName, r.ResourceName, r.RequestName)
		}
		o := e.Claim.DeepCopy()
		o.Name, o.UID, o.ResourceVersion = pod.Name+"-extended", types.UID(pod.Name+"-extended"), "1"
		o.Status.Allocation = e.Allocation
		p.c.Devices.SetClaim(o)
	}
	for _, container := range slices.Sorted(maps.Keys(d.Units)) {
		for _, r := range slices.Sorted(maps.Keys(d.Units[container])) {
			var ids []string
			for _, id := range d.Units[container][r] {
				uuid, replica, _ := strings.Cut(id, "::")
				if place, ok := p.places[uuid]; ok { // easier to read
					uuid = place
				}
				if replica != "" {
					uuid += "::" + replica
				}
				ids = append(ids, uuid)
			}
			p.printf("%s %s: %s", container, r, strings.Join(ids, " "))
		}
	}
}
