package node

import (
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/runtime/engine"
)

// Health is how the node is right now.
type Health struct {
	// Problem keeps the node from being Ready; empty when all is well.
	Problem string
	// Pressure of memory, disk and process IDs.
	Memory, Disk, PIDs bool
}

// conditions are the node's own, in upstream's order and words. The heartbeat is set
// by Merge when the status is written.
func (h Health) conditions() []core.NodeCondition {
	ready := core.NodeCondition{Type: core.NodeReady, Status: core.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if h.Problem != "" {
		ready.Status, ready.Reason, ready.Message = core.ConditionFalse, "KubeletNotReady", h.Problem
	}
	return []core.NodeCondition{
		pressure(core.NodeMemoryPressure, h.Memory, [4]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"}),
		pressure(core.NodeDiskPressure, h.Disk, [4]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure", "KubeletHasDiskPressure", "kubelet has disk pressure"}),
		pressure(core.NodePIDPressure, h.PIDs, [4]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available", "KubeletHasInsufficientPID", "kubelet has insufficient PID available"}),
		ready,
	}
}

// pressure picks reason and message: the first two without, the last two with pressure.
func pressure(t core.NodeConditionType, is bool, words [4]string) core.NodeCondition {
	c := core.NodeCondition{Type: t, Status: core.ConditionFalse, Reason: words[0], Message: words[1]}
	if is {
		c.Status, c.Reason, c.Message = core.ConditionTrue, words[2], words[3]
	}
	return c
}

// Merge puts the agent's part of a node's status into the server's. Conditions and
// resources that e does not own stay; a condition keeps its transition time while its status stays.
func Merge(server, own core.NodeStatus, e Extra, now time.Time) core.NodeStatus {
	s := *server.DeepCopy()
	s.Capacity, s.Allocatable = own.Capacity, own.Allocatable
	s.Addresses, s.DaemonEndpoints, s.NodeInfo, s.Images = own.Addresses, own.DaemonEndpoints, own.NodeInfo, own.Images
	s.RuntimeHandlers, s.Features = own.RuntimeHandlers, own.Features
	// Extended resources may be set by others; those of our devices that are gone go.
	for name, q := range server.Capacity {
		if _, ok := s.Capacity[name]; !ok && !e.OwnsResource(name) {
			s.Capacity[name], s.Allocatable[name] = q, server.Allocatable[name]
		}
	}
	s.Conditions = slices.DeleteFunc(s.Conditions, func(have core.NodeCondition) bool {
		named := slices.ContainsFunc(own.Conditions, func(c core.NodeCondition) bool { return c.Type == have.Type })
		return !named && e.OwnsCondition(have.Type)
	})
	stamp := metav1.NewTime(now.Truncate(time.Second))
	for _, c := range own.Conditions {
		c.LastHeartbeatTime, c.LastTransitionTime = stamp, stamp
		i := slices.IndexFunc(s.Conditions, func(have core.NodeCondition) bool { return have.Type == c.Type })
		if i < 0 {
			s.Conditions = append(s.Conditions, c)
			continue
		}
		if s.Conditions[i].Status == c.Status {
			c.LastTransitionTime = s.Conditions[i].LastTransitionTime
		}
		s.Conditions[i] = c
	}
	return s
}

// Same tells whether two statuses say the same but for the heartbeat.
func Same(a, b core.NodeStatus, equal func(a, b any) bool) bool {
	return equal(quiet(a), quiet(b))
}

func quiet(s core.NodeStatus) core.NodeStatus {
	s.Conditions = slices.Clone(s.Conditions)
	for i := range s.Conditions {
		s.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	return s
}

// Limits of the image list, as upstream's.
const (
	maxImages     = 50
	maxImageNames = 5
)

// images lists the largest images, as upstream does.
func images(list []engine.Image) []core.ContainerImage {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b engine.Image) int {
		if a.Bytes != b.Bytes {
			if a.Bytes > b.Bytes {
				return -1
			}
			return 1
		}
		return compare(a.ID, b.ID)
	})
	var out []core.ContainerImage
	for _, i := range list[:min(len(list), maxImages)] {
		names := append(slices.Clone(i.Digests), i.Names...)
		slices.SortStableFunc(names[:len(i.Digests)], compare)
		out = append(out, core.ContainerImage{Names: names[:min(len(names), maxImageNames)], SizeBytes: i.Bytes})
	}
	return out
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
