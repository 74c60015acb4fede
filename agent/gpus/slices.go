package gpus

import (
	resource "k8s.io/api/resource/v1"

	"orch/gpu/device"
	"orch/gpu/slices"
)

// Slices are the node's pool of devices. Those of resources that others provide, which a
// device plugin may, are not in it.
func (g *GPUs) Slices(others func(resource string) bool) []resource.ResourceSliceSpec {
	return slices.Of(g.pool(g.config.Look(), others))
}

func (g *GPUs) pool(v View, others func(resource string) bool) slices.Node {
	return slices.Node{Name: g.config.Node, Machine: v.Machine, Share: g.config.Share, Dynamic: g.config.Dynamic != nil, Others: others, Taints: taints(v)}
}

// taints are those of devices by UUID. What may not be given out has one, whatever the reason.
func taints(v View) map[string][]resource.DeviceTaint {
	out := map[string][]resource.DeviceTaint{}
	for _, u := range v.Units {
		for _, uuid := range devicesOf(v.Machine, u) {
			for _, t := range u.Taints {
				out[uuid] = append(out[uuid], resource.DeviceTaint{Key: t.Key, Value: t.Value, Effect: resource.DeviceTaintEffect(t.Effect)})
			}
		}
	}
	barred := func(uuid, card string) {
		if !v.Allocatable(uuid) && len(out[uuid])+len(out[card]) == 0 {
			out[uuid] = []resource.DeviceTaint{{Key: slices.TaintUnmonitored, Effect: resource.DeviceTaintEffectNoSchedule}}
		}
	}
	for _, card := range v.Machine.GPUs {
		if card.Problem != nil {
			continue // its slices say which
		}
		barred(card.UUID, card.UUID)
		for _, d := range card.MIGDevices() {
			barred(d.UUID, card.UUID)
		}
	}
	return out
}

// devicesOf are the UUIDs that a unit's taints are written at: the card's, which its parts
// have as well, or those of the devices in one GPU instance.
func devicesOf(m device.Machine, u Unit) []string {
	if u.GI < 0 {
		return []string{u.UUID}
	}
	var out []string
	g, _ := m.GPU(u.UUID)
	for _, d := range g.MIGDevices() {
		if d.GI == u.GI {
			out = append(out, d.UUID)
		}
	}
	return out
}
