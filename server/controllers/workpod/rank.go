package workpod

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
)

// Surplus picks n of the pods, those that are missed least: upstream's
// ActivePodsWithRanks. doubled counts, per node, the pods that do the same work.
func Surplus(pods []*core.Pod, n int, doubled map[string]int, now time.Time) []*core.Pod {
	if n >= len(pods) {
		return pods
	}
	sorted := slices.Clone(pods)
	slices.SortFunc(sorted, func(a, b *core.Pod) int { return compare(a, b, doubled, now) })
	return sorted[:n]
}

// compare is negative if a goes before b: unassigned, pending, not ready, cheap
// to delete, on a node with many of its kind, ready or made more recently, or
// restarted more often.
func compare(a, b *core.Pod, doubled map[string]int, now time.Time) int {
	if c := cmp.Or(
		first(a.Spec.NodeName == "", b.Spec.NodeName == ""),
		cmp.Compare(phaseRank(a), phaseRank(b)),
		first(!Ready(a), !Ready(b)),
		cmp.Compare(deletionCost(a), deletionCost(b)),
		cmp.Compare(doubled[b.Spec.NodeName], doubled[a.Spec.NodeName]),
	); c != 0 {
		return c
	}
	if Ready(a) && Ready(b) {
		ta, tb := Condition(a, core.PodReady).LastTransitionTime.Time, Condition(b, core.PodReady).LastTransitionTime.Time
		if !ta.Equal(tb) {
			return byAge(a, b, ta, tb, now)
		}
	}
	if c := compareRestarts(a, b); c != 0 {
		return c
	}
	if ta, tb := a.CreationTimestamp.Time, b.CreationTimestamp.Time; !ta.Equal(tb) {
		return byAge(a, b, ta, tb, now)
	}
	return 0
}

// first sorts true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func phaseRank(p *core.Pod) int {
	switch p.Status.Phase {
	case core.PodPending, "":
		return 0
	case core.PodUnknown:
		return 1
	}
	return 2
}

func deletionCost(p *core.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[core.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

// byAge sorts the younger first, but ages of the same order of magnitude count
// as equal and the UID decides, so that scaling down does not always hit the
// newest pods (upstream's LogarithmicScaleDown).
func byAge(a, b *core.Pod, ta, tb, now time.Time) int {
	if ta.IsZero() || tb.IsZero() {
		return first(ta.IsZero(), tb.IsZero())
	}
	return cmp.Or(cmp.Compare(magnitude(now.Sub(ta)), magnitude(now.Sub(tb))), cmp.Compare(a.UID, b.UID))
}

func magnitude(d time.Duration) int64 {
	if d <= 0 {
		return -1
	}
	return int64(math.Log2(float64(d)))
}
