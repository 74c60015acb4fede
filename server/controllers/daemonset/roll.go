package daemonset

import (
	"maps"
	"slices"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// limits are how many pods a rollout may have missing, or extra, at a time.
func (w *work) limits() (surge, unavailable int) {
	r := w.set.Spec.UpdateStrategy.RollingUpdate
	if r == nil {
		return 0, 0
	}
	desired := int(w.status.DesiredNumberScheduled)
	surge, unavailable = scaled(r.MaxSurge, desired), scaled(r.MaxUnavailable, desired)
	if desired > 0 && surge == 0 && unavailable == 0 {
		unavailable = 1 // a rollout that may do nothing would never end
	}
	return surge, unavailable
}

// scaled rounds up; the API refuses what cannot be read.
func scaled(v *intstr.IntOrString, of int) int {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, of, true)
	if err != nil {
		return 0
	}
	return n
}

// surges tells whether the set may have two pods on a node for a while.
func (w *work) surges() bool {
	u := &w.set.Spec.UpdateStrategy
	return u.Type == apps.RollingUpdateDaemonSetStrategyType && u.RollingUpdate != nil && scaled(u.RollingUpdate.MaxSurge, 1) > 0
}

// roll plans the next step of a rollout.
func (w *work) roll() {
	for _, n := range w.nodes {
		if start, _ := w.wants(n); start {
			w.byNode[n.Name] = w.byNode[n.Name] // nodes without a pod count as well
		}
	}
	surge, unavailable := w.limits()
	if surge > 0 {
		w.rollSurging(surge)
		return
	}
	w.rollReplacing(unavailable)
}

// pair finds the new and the old pod of a node; false if it has several of a kind.
func (w *work) pair(pods []*core.Pod) (newest, old *core.Pod, ok bool) {
	for _, p := range pods {
		at := &old
		if w.updated(p) {
			at = &newest
		}
		if p.DeletionTimestamp != nil {
			continue
		}
		if *at != nil {
			return nil, nil, false
		}
		*at = p
	}
	return newest, old, true
}

// rollReplacing removes old pods; their replacements come when they are gone. Old pods that do
// not serve anyway go first and at once.
func (w *work) rollReplacing(limit int) {
	missing := 0
	var broken, candidates []*core.Pod
	for _, node := range slices.Sorted(maps.Keys(w.byNode)) {
		newest, old, ok := w.pair(w.byNode[node])
		switch {
		case !ok, (newest == nil) == (old == nil):
			missing++ // manage has something to do there
		case newest != nil:
			if !w.available(newest) {
				missing++
			}
		case !w.available(old):
			broken = append(broken, old)
			missing++
		default:
			candidates = append(candidates, old)
		}
	}
	w.remove = append(w.remove, broken...)
	w.remove = append(w.remove, candidates[:min(len(candidates), max(limit-missing, 0))]...)
}

// rollSurging adds new pods beside old ones, and removes an old one when its new one serves.
func (w *work) rollSurging(limit int) {
	extra, serving := 0, 0
	var candidates []string
	var misplaced []*core.Pod
	for _, node := range slices.Sorted(maps.Keys(w.byNode)) {
		newest, old, ok := w.pair(w.byNode[node])
		if !ok {
			extra++
			continue
		}
		if one := firstOf(old, newest); one != nil && w.available(one) {
			serving++
		}
		belongs := false
		if n := w.known[node]; n != nil {
			belongs, _ = w.wants(n)
		}
		switch {
		case old == nil:
		case newest != nil && !w.available(newest):
			extra++
		case newest != nil:
			w.remove = append(w.remove, old)
		case !w.available(old) && !belongs:
			w.remove = append(w.remove, old)
		case !w.available(old):
			w.create = append(w.create, node)
		case !belongs:
			misplaced = append(misplaced, old)
		default:
			candidates = append(candidates, node)
		}
	}
	// Pods where none belongs any more go as others begin to serve elsewhere.
	spare := max(serving-int(w.status.DesiredNumberScheduled), 0)
	w.remove = append(w.remove, misplaced[:min(len(misplaced), spare)]...)
	w.create = append(w.create, candidates[:min(len(candidates), max(limit-extra, 0))]...)
}

func firstOf(a, b *core.Pod) *core.Pod {
	if a != nil {
		return a
	}
	return b
}
