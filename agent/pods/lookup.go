package pods

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/pods/plan"
	"orch/runtime/engine"
)

// Shown is what others may know of a pod: a copy that does not change.
type Shown struct {
	Pod *core.Pod
	// Status is the newest, which may be ahead of the server's.
	Status core.PodStatus
	// NetNS is the path of the network namespace, empty for the host's.
	NetNS string
	// Cgroup is the pod's, from the root of the hierarchy.
	Cgroup     string
	Finished   bool
	Containers []Container
}

// Container is one container of a Shown pod, by its newest attempt that was made.
type Container struct {
	Name    string
	Role    plan.Role
	ID      string
	Image   string
	ImageID string
	Attempt int
	State   engine.State
	PID     int
	// LogPath is the attempt's log; PreviousLogPath that of the one before, if any.
	LogPath, PreviousLogPath string
}

// show publishes the pod to Lookup and List.
func (w *worker) show() {
	s := &Shown{Pod: w.pod, Status: w.last, Finished: w.finished, Cgroup: w.p.Cgroups.PodPath(w.last.QOSClass, w.pod.UID)}
	switch {
	case w.sandbox != nil:
		s.NetNS = w.sandbox.NetNS
	case w.known != nil:
		s.NetNS = w.known.sandbox.NetNS
	}
	for _, n := range plan.Specs(w.pod) {
		c := w.containers[n.Name]
		if c == nil {
			continue
		}
		i := c.Current
		if i == nil {
			i = c.Last
		}
		if i == nil {
			continue
		}
		k := Container{
			Name: n.Name, Role: n.Role, ID: i.ID, Image: i.Image, ImageID: i.ImageRef, Attempt: i.Attempt, State: i.State, PID: i.PID,
			LogPath: w.p.logPath(w.pod, n.Name, i.Attempt),
		}
		if i.Attempt > 0 {
			k.PreviousLogPath = w.p.logPath(w.pod, n.Name, i.Attempt-1)
		}
		s.Containers = append(s.Containers, k)
	}
	w.shown.Store(s)
}

// Lookup finds a pod of this node. Containers of pods that had ended before the
// agent started are known by their logs only.
func (p *Pods) Lookup(namespace, name string) (*Shown, bool) {
	p.mu.Lock()
	w := p.workers[p.byName[types.NamespacedName{Namespace: namespace, Name: name}]]
	p.mu.Unlock()
	if w == nil {
		return nil, false
	}
	s := w.shown.Load()
	if s == nil {
		return nil, false
	}
	if s.Finished && len(s.Containers) == 0 {
		s = p.withLogs(s)
	}
	return s, true
}

// List gives all pods of this node.
func (p *Pods) List() []*Shown {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*Shown
	for _, w := range p.workers {
		if s := w.shown.Load(); s != nil && !w.orphanShown() {
			out = append(out, s)
		}
	}
	return out
}

// orphanShown tells whether the pod is only remains without an object.
func (w *worker) orphanShown() bool { s := w.shown.Load(); return s.Pod.ResourceVersion == "" }

// Find returns the container of that name.
func (s *Shown) Find(name string) (Container, bool) {
	i := slices.IndexFunc(s.Containers, func(c Container) bool { return c.Name == name })
	if i < 0 {
		return Container{}, false
	}
	return s.Containers[i], true
}

// withLogs finds the containers of an ended pod by their log files.
func (p *Pods) withLogs(s *Shown) *Shown {
	out := *s
	for _, n := range plan.Specs(s.Pod) {
		entries, err := os.ReadDir(filepath.Join(p.logDir(s.Pod), n.Name))
		if err != nil {
			continue
		}
		last := -1
		for _, e := range entries {
			if number, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".log")); err == nil {
				last = max(last, number)
			}
		}
		if last < 0 {
			continue
		}
		c := Container{Name: n.Name, Role: n.Role, Attempt: last, State: engine.Exited, Image: n.Image, LogPath: p.logPath(s.Pod, n.Name, last)}
		if last > 0 {
			c.PreviousLogPath = p.logPath(s.Pod, n.Name, last-1)
		}
		out.Containers = append(out.Containers, c)
	}
	return &out
}

// ids are the containers in the engine that belong to c.
func ids(c *plan.Container) []string {
	var out []string
	for _, i := range []*plan.Instance{c.Current, c.Last} {
		if i != nil && i.ID != "" {
			out = append(out, i.ID)
		}
	}
	return out
}
