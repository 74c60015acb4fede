package spec

import (
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/agent/pods/status"
	"orch/runtime/engine"
)

// Figures of the kernel's CPU controller.
const (
	minShares   = 2
	maxShares   = 262144
	perCPU      = 1024
	QuotaPeriod = 100_000 // us
	minQuota    = 1000    // us
)

// Shares turns milli-CPUs into cpu.shares.
func Shares(milli int64) uint64 {
	return uint64(min(max(milli*perCPU/1000, minShares), maxShares))
}

// Quota turns milli-CPUs into a CFS quota in microseconds per QuotaPeriod; 0: none.
func Quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*QuotaPeriod/1000, minQuota)
}

// Limits are those that the engine sets for the input's container. Of the input it needs
// the pod, the container, and the facts of the host.
func Limits(in Input) engine.Resources { return resources(in) }

func resources(in Input) engine.Resources {
	limits, requests := in.Container.Resources.Limits, in.Container.Resources.Requests
	cpu := requests.Cpu().MilliValue()
	if _, ok := requests[core.ResourceCPU]; !ok {
		cpu = limits.Cpu().MilliValue()
	}
	r := engine.Resources{
		CPUShares:   Shares(cpu),
		CPUQuotaUs:  Quota(limits.Cpu().MilliValue()),
		MemoryBytes: limits.Memory().Value(),
		PidsLimit:   in.PidsLimit,
		OOMScoreAdj: new(max(OOMScore(in.Pod, in.Container, in.MemoryCapacity), in.OOMFloor)),
	}
	if r.CPUQuotaUs > 0 {
		r.CPUPeriodUs = QuotaPeriod
	}
	for name, q := range limits {
		if size, ok := strings.CutPrefix(string(name), core.ResourceHugePagesPrefix); ok && !q.IsZero() {
			if r.Hugepages == nil {
				r.Hugepages = map[string]uint64{}
			}
			r.Hugepages[pageSize(size)] = uint64(q.Value())
		}
	}
	if in.CgroupV2 {
		// A container that runs out of memory goes as a whole.
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// pageSize turns 2Mi into the kernel's 2MB.
func pageSize(size string) string {
	q, err := resource.ParseQuantity(size)
	if err != nil {
		return size
	}
	units := []string{"B", "KB", "MB", "GB", "TB"}
	n, u := q.Value(), 0
	for n >= 1024 && n%1024 == 0 && u < len(units)-1 {
		n, u = n/1024, u+1
	}
	return resource.NewQuantity(n, resource.DecimalSI).String() + units[u]
}

// OOM scores, as upstream's qos policy gives them.
const (
	guaranteedOOM = -997
	bestEffortOOM = 1000
)

// OOMScore is the oom_score_adj of a container by its pod's class.
func OOMScore(pod *core.Pod, c *core.Container, memoryCapacity int64) int {
	if p := pod.Spec.Priority; p != nil && *p >= 2_000_000_000 { // node-critical pods
		return guaranteedOOM
	}
	switch status.QOS(pod) {
	case core.PodQOSGuaranteed:
		return guaranteedOOM
	case core.PodQOSBestEffort:
		return bestEffortOOM
	}
	if memoryCapacity <= 0 {
		return bestEffortOOM - 1
	}
	score := 1000 - int(1000*c.Resources.Requests.Memory().Value()/memoryCapacity)
	return min(max(score, 1000+guaranteedOOM), bestEffortOOM-1)
}
