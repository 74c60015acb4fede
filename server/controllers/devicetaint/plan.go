package devicetaint

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/api"
	"orch/server/controllers/workpod"
)

// This file is pure: who uses which device, and what of its taints they do not tolerate.

// device is a device's name in the cluster.
type device struct{ driver, pool, name string }

// use is a device that a pod has, with what its claim tolerates of it.
type use struct {
	device
	tolerations []resource.DeviceToleration
}

// taint is one with the effect NoExecute; rule is empty for one that a driver set.
type taint struct {
	resource.DeviceTaint
	rule types.UID
}

// tainted is a taint that somebody does not tolerate after a time.
type tainted struct {
	rule types.UID
	at   time.Time
}

// eviction is when a pod has to go, and the rules that are a reason, in order.
type eviction struct {
	at    time.Time
	rules []types.UID
}

// mayUse: the pod is on a node and may have devices there.
func mayUse(p *core.Pod) bool {
	return p.Spec.NodeName != "" && !workpod.Finished(p) &&
		(len(p.Spec.ResourceClaims) > 0 || p.Status.ExtendedResourceClaimStatus != nil || len(plainIDs(p)) > 0)
}

// usesByClaim are the devices of the claims that are reserved for the pod.
func usesByClaim(p *core.Pod, claim func(name string) *resource.ResourceClaim) []use {
	var out []use
	for name, checkOwner := range resourceclaim.PodClaims(p) {
		c := claim(name)
		if c == nil || c.Status.Allocation == nil || !resourceclaim.IsReservedForPod(p, c, false) ||
			checkOwner && resourceclaim.IsForPod(p, c, false) != nil {
			continue
		}
		for _, r := range c.Status.Allocation.Devices.Results {
			out = append(out, use{device{r.Driver, r.Pool, r.Device}, r.Tolerations})
		}
	}
	return out
}

// plainIDs are the devices that a pod got for plain resources: those that the scheduler
// chose, or else those that the agent says it took.
func plainIDs(p *core.Pod) []string {
	var chosen map[string]map[string][]string
	var ids []string
	if s := p.Annotations[api.AnnotationDevices]; s != "" && json.Unmarshal([]byte(s), &chosen) == nil {
		for _, byResource := range chosen {
			for _, list := range byResource {
				ids = append(ids, list...)
			}
		}
	} else {
		for _, statuses := range [][]core.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
			for _, s := range statuses {
				for _, r := range s.AllocatedResourcesStatus {
					if strings.HasPrefix(string(r.Name), "claim:") {
						continue
					}
					for _, h := range r.Resources {
						ids = append(ids, string(h.ResourceID))
					}
				}
			}
		}
	}
	for i := range ids {
		ids[i], _, _ = strings.Cut(ids[i], "::") // a share of the device
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// untolerated are the taints that are not tolerated for good, each with the time until which
// it is: the shortest of the tolerations counts.
func untolerated(taints []taint, tolerations []resource.DeviceToleration) []tainted {
	var out []tainted
next:
	for _, t := range taints {
		var at time.Time
		if t.TimeAdded != nil {
			at = t.TimeAdded.Time
		}
		seconds := int64(-1)
		for _, o := range tolerations {
			if !resourceclaim.ToleratesTaint(o, t.DeviceTaint) {
				continue
			}
			if o.TolerationSeconds == nil {
				continue next
			}
			if s := max(*o.TolerationSeconds, 0); seconds < 0 || s < seconds {
				seconds = s
			}
		}
		out = append(out, tainted{t.rule, at.Add(time.Duration(max(seconds, 0)) * time.Second)})
	}
	return out
}

// soonest sums up; nil for nothing.
func soonest(all []tainted) *eviction {
	if len(all) == 0 {
		return nil
	}
	e := &eviction{at: all[0].at}
	for _, t := range all {
		if t.at.Before(e.at) {
			e.at = t.at
		}
		if t.rule != "" && !slices.Contains(e.rules, t.rule) {
			e.rules = append(e.rules, t.rule)
		}
	}
	slices.Sort(e.rules)
	return e
}

// selects tells whether the rule means the device. A rule without a selector means none.
func selects(r *resource.DeviceTaintRule, d device) bool {
	s := r.Spec.DeviceSelector
	return s != nil && (s.Driver == nil || *s.Driver == d.driver) && (s.Pool == nil || *s.Pool == d.pool) && (s.Device == nil || *s.Device == d.name)
}
