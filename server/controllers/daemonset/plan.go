package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"

	"orch/server/controllers/workpod"
)

const (
	// burst bounds how many pods one look at a set creates, and how many it deletes.
	burst = 250
	// generationLabel marks pods of sets that were made when templates had numbers.
	generationLabel = "pod-template-generation"
)

// observed is everything that a plan is made from.
type observed struct {
	set   *apps.DaemonSet
	nodes []*core.Node
	pods  []*core.Pod
	// hash of the set's newest revision, as its pods are labelled.
	hash string
	now  time.Time
	// wait says how long a failed pod on the node must stay before it may be
	// replaced; 0: now.
	wait func(node string) time.Duration
}

// plan says what to do for a set.
type plan struct {
	// create names the nodes that get a pod.
	create []string
	remove []*core.Pod
	// failed and succeeded are those of remove that ended by themselves.
	failed, succeeded []*core.Pod
	status            apps.DaemonSetStatus
	// after is when time alone will change something.
	after time.Duration
}

// makePlan keeps one pod on every node that wants one; where that is so, it goes on with the rollout.
func makePlan(o observed) plan {
	w := &work{observed: o, chooser: newChooser(o.set), byNode: byNode(o.pods), known: map[string]*core.Node{}}
	for _, n := range o.nodes {
		w.known[n.Name] = n
	}
	w.countStatus()
	for _, n := range w.sortedNodes() {
		w.manage(n)
	}
	w.removeHomeless()
	if len(w.create)+len(w.remove) == 0 && o.set.Spec.UpdateStrategy.Type == apps.RollingUpdateDaemonSetStrategyType {
		w.roll()
	}
	w.create = w.create[:min(len(w.create), burst)]
	w.remove = w.remove[:min(len(w.remove), burst)]
	return w.plan
}

// work is a plan in the making.
type work struct {
	observed
	chooser
	plan
	byNode map[string][]*core.Pod
	known  map[string]*core.Node
}

// byNode groups the pods by the node that they are for, the oldest first. Pods that have ended and are
// being deleted count no more.
func byNode(pods []*core.Pod) map[string][]*core.Pod {
	out := map[string][]*core.Pod{}
	for _, p := range pods {
		if workpod.Finished(p) && p.DeletionTimestamp != nil {
			continue
		}
		if n, ok := target(p); ok {
			out[n] = append(out[n], p)
		}
	}
	for _, list := range out {
		slices.SortFunc(list, older)
	}
	return out
}

// older sorts bound pods first, then by age.
func older(a, b *core.Pod) int {
	if bound := a.Spec.NodeName != ""; bound != (b.Spec.NodeName != "") {
		if bound {
			return -1
		}
		return 1
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func (w *work) sortedNodes() []*core.Node {
	nodes := slices.Clone(w.nodes)
	slices.SortFunc(nodes, func(a, b *core.Node) int { return cmp.Compare(a.Name, b.Name) })
	return nodes
}

func generation(d *apps.DaemonSet) (int64, bool) {
	g, err := strconv.ParseInt(d.Annotations[apps.DeprecatedTemplateGeneration], 10, 64)
	return g, err == nil
}

// updated tells whether a pod is of the newest template.
func (w *work) updated(p *core.Pod) bool {
	if w.hash != "" && p.Labels[apps.DefaultDaemonSetUniqueLabelKey] == w.hash {
		return true
	}
	g, ok := generation(w.set)
	return ok && p.Labels[generationLabel] == strconv.FormatInt(g, 10)
}

// available tells whether a pod serves, and notes when it will if only time is missing.
func (w *work) available(p *core.Pod) bool {
	ok, in := workpod.Available(p, time.Duration(w.set.Spec.MinReadySeconds)*time.Second, w.now)
	w.after = workpod.Soonest(w.after, in)
	return ok
}

func (w *work) countStatus() {
	s := *w.set.Status.DeepCopy()
	s.ObservedGeneration = w.set.Generation
	s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberMisscheduled = 0, 0, 0
	s.NumberReady, s.UpdatedNumberScheduled, s.NumberAvailable = 0, 0, 0
	for _, n := range w.nodes {
		start, _ := w.wants(n)
		pods := w.byNode[n.Name]
		switch {
		case !start && len(pods) > 0:
			s.NumberMisscheduled++
		case start:
			s.DesiredNumberScheduled++
		}
		if !start || len(pods) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		if workpod.Ready(pods[0]) {
			s.NumberReady++
			if w.available(pods[0]) {
				s.NumberAvailable++
			}
		}
		if w.updated(pods[0]) {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	w.status = s
}

// manage plans for one node: a pod where one is missing, none where none belongs,
// and not more than one, or two during a surge.
func (w *work) manage(n *core.Node) {
	start, stay := w.wants(n)
	pods := w.byNode[n.Name]
	switch {
	case start && len(pods) == 0:
		w.create = append(w.create, n.Name)
	case stay:
		running := w.removeEnded(n.Name, pods)
		if !w.surges() {
			if len(running) > 1 {
				w.remove = append(w.remove, running[1:]...)
			}
			return
		}
		if len(running) == 0 && start {
			w.create = append(w.create, n.Name)
			return
		}
		w.settleSurge(running)
	default:
		for _, p := range pods {
			if p.DeletionTimestamp == nil {
				w.remove = append(w.remove, p)
			}
		}
	}
}

// removeEnded plans the removal of pods that have ended, those that failed not too
// often, and returns the ones that run.
func (w *work) removeEnded(node string, pods []*core.Pod) (running []*core.Pod) {
	for _, p := range pods {
		switch {
		case p.DeletionTimestamp != nil:
		case p.Status.Phase == core.PodFailed:
			if wait := w.wait(node); wait > 0 {
				w.after = workpod.Soonest(w.after, wait)
				continue
			}
			w.failed, w.remove = append(w.failed, p), append(w.remove, p)
		case p.Status.Phase == core.PodSucceeded:
			w.succeeded, w.remove = append(w.succeeded, p), append(w.remove, p)
		default:
			running = append(running, p)
		}
	}
	return running
}

// settleSurge keeps the oldest new and the oldest old pod of a node; the old one only while it is ready and
// the new one does not serve yet.
func (w *work) settleSurge(running []*core.Pod) {
	if len(running) < 2 {
		return
	}
	var newest, old *core.Pod
	for _, p := range running {
		switch isNew := p.Labels[apps.DefaultDaemonSetUniqueLabelKey] == w.hash; {
		case isNew && newest == nil:
			newest = p
		case !isNew && old == nil:
			old = p
		default:
			w.remove = append(w.remove, p)
		}
	}
	if newest != nil && old != nil && (!workpod.Ready(old) || w.available(newest)) {
		w.remove = append(w.remove, old)
	}
}

// removeHomeless plans the removal of pods that wait for a node that is gone: no
// scheduler will ever bind them.
func (w *work) removeHomeless() {
	for _, name := range slices.Sorted(maps.Keys(w.byNode)) {
		if w.known[name] != nil {
			continue
		}
		for _, p := range w.byNode[name] {
			if p.Spec.NodeName == "" && p.DeletionTimestamp == nil {
				w.remove = append(w.remove, p)
			}
		}
	}
}
