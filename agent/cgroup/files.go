package cgroup

import (
	"math"
	"strconv"

	core "k8s.io/api/core/v1"
	resources "k8s.io/component-helpers/resource"

	"orch/agent/pods/spec"
)

// Limits of a group; zero means unlimited.
type Limits struct {
	CPUShares   uint64
	CPUQuotaUs  int64
	MemoryBytes int64
	Pids        int64
}

// PodLimits is the sum of what a pod's containers ask for and may use. A limit
// holds for the pod only if every container has it.
func PodLimits(pod *core.Pod) Limits {
	requests := resources.PodRequests(pod, resources.PodResourcesOptions{})
	limits := resources.PodLimits(pod, resources.PodResourcesOptions{})
	l := Limits{CPUShares: spec.Shares(requests.Cpu().MilliValue())}
	cpu, memory := true, true
	for _, c := range append(append([]core.Container{}, pod.Spec.Containers...), pod.Spec.InitContainers...) {
		cpu = cpu && !c.Resources.Limits.Cpu().IsZero()
		memory = memory && !c.Resources.Limits.Memory().IsZero()
	}
	if cpu {
		l.CPUQuotaUs = spec.Quota(limits.Cpu().MilliValue())
	}
	if memory {
		l.MemoryBytes = limits.Memory().Value()
	}
	return l
}

// file is one value to be written.
type file struct{ controller, name, value string }

func (l Limits) files(v2 bool) []file {
	if v2 {
		return l.filesV2()
	}
	out := []file{}
	if l.CPUShares > 0 {
		out = append(out, file{"cpu", "cpu.shares", strconv.FormatUint(l.CPUShares, 10)})
	}
	if l.CPUQuotaUs > 0 {
		out = append(out, file{"cpu", "cpu.cfs_period_us", strconv.Itoa(spec.QuotaPeriod)}, file{"cpu", "cpu.cfs_quota_us", strconv.FormatInt(l.CPUQuotaUs, 10)})
	}
	if l.MemoryBytes > 0 {
		out = append(out, file{"memory", "memory.limit_in_bytes", strconv.FormatInt(l.MemoryBytes, 10)})
	}
	if l.Pids > 0 {
		out = append(out, file{"pids", "pids.max", strconv.FormatInt(l.Pids, 10)})
	}
	return out
}

func (l Limits) filesV2() []file {
	out := []file{}
	if l.CPUShares > 0 {
		out = append(out, file{"cpu", "cpu.weight", strconv.FormatUint(weight(l.CPUShares), 10)})
	}
	if l.CPUQuotaUs > 0 {
		out = append(out, file{"cpu", "cpu.max", strconv.FormatInt(l.CPUQuotaUs, 10) + " " + strconv.Itoa(spec.QuotaPeriod)})
	}
	if l.MemoryBytes > 0 {
		out = append(out, file{"memory", "memory.max", strconv.FormatInt(l.MemoryBytes, 10)})
	}
	if l.Pids > 0 {
		out = append(out, file{"pids", "pids.max", strconv.FormatInt(l.Pids, 10)})
	}
	return out
}

// weight maps shares (2 .. 262144, default 1024) to cpu.weight (1 .. 10000,
// default 100) along the curve that runc 1.3 and later use for containers, so
// that a pod and its containers compare alike.
func weight(shares uint64) uint64 {
	if shares >= 262144 {
		return 10000
	}
	l := math.Log2(float64(max(shares, 2)))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612.0-7.0/34.0)))
}
