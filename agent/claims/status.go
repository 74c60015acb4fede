package claims

import (
	"cmp"
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
)

// Status says how the devices are that a pod's containers have of its claims, by container, as
// upstream's ContainerStatus.allocatedResourcesStatus has it: under claim:<name in the
// pod>/<request>. The claim for extended resources is not in it, as with upstream.
func (c *Claims) Status(pod types.UID) map[string][]core.ResourceStatus {
	var out map[string][]core.ResourceStatus
	for _, claim := range c.config.Ledger.ClaimsOf(pod) {
		for container, requests := range claim.Pods[pod].Containers {
			for _, r := range requests {
				if r.Claim == "" {
					continue
				}
				s := core.ResourceStatus{Name: core.ResourceName("claim:" + r.Claim)}
				if r.Request != "" {
					s.Name += core.ResourceName("/" + r.Request)
				}
				if s.Resources = c.health(claim, r.Request); len(s.Resources) == 0 {
					continue
				}
				if out == nil {
					out = map[string][]core.ResourceStatus{}
				}
				out[container] = append(out[container], s)
			}
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b core.ResourceStatus) int { return cmp.Compare(a.Name, b.Name) })
	}
	return out
}

// health of a claim's devices for a request. A device goes by its first name for container
// engines, else by driver, pool and name.
func (c *Claims) health(claim devices.Claim, request string) []core.ResourceHealth {
	var out []core.ResourceHealth
	for name, known := range claim.Drivers {
		driver, _ := c.config.Driver(name)
		nurse, _ := driver.(Nurse)
		for _, d := range known.Devices {
			if !d.For(request) {
				continue
			}
			h := core.ResourceHealth{ResourceID: core.ResourceID(name + "/" + d.Pool + "/" + d.Device), Health: core.ResourceHealthStatusUnknown}
			if len(d.CDI) > 0 {
				h.ResourceID = core.ResourceID(d.CDI[0])
			}
			if nurse != nil {
				var message string
				if h.Health, message = nurse.ClaimHealth(d); message != "" {
					h.Message = new(message[:min(len(message), core.ResourceHealthMessageMaxLength)])
				}
			}
			if !slices.ContainsFunc(out, func(o core.ResourceHealth) bool { return o.ResourceID == h.ResourceID }) {
				out = append(out, h)
			}
		}
	}
	slices.SortFunc(out, func(a, b core.ResourceHealth) int { return cmp.Compare(a.ResourceID, b.ResourceID) })
	return out
}
