package pods

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/pods/plan"
	"orch/agent/pods/spec"
	"orch/agent/pods/status"
	"orch/runtime/engine"
)

func typesUID(s string) types.UID { return types.UID(s) }

// remains are what an earlier run left of one pod on the host.
type remains struct {
	containers []engine.Container
	sandbox    saved
	joined     bool // the sandbox was in the network, and its namespaces are there
}

// find looks for what earlier runs left: containers, saved sandboxes, directories.
func (p *Pods) find(ctx context.Context) (map[types.UID]*remains, error) {
	list, err := p.Engine.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	out := map[types.UID]*remains{}
	of := func(uid types.UID) *remains {
		if out[uid] == nil {
			out[uid] = &remains{}
		}
		return out[uid]
	}
	for _, c := range list {
		if uid := c.Labels[spec.LabelPodUID]; uid != "" {
			r := of(types.UID(uid))
			r.containers = append(r.containers, c)
		}
	}
	for _, dir := range []string{filepath.Join(p.config.RunDir, "pods"), filepath.Join(p.config.RootDir, "pods")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("listing %s: %w", dir, err)
		}
		for _, e := range entries {
			r := of(types.UID(e.Name()))
			if s, ok := p.load(e.Name()); ok {
				r.sandbox = s
				r.joined = s.NetNS == "" || p.Namespaces.Pinned(s.NetNS)
			}
		}
	}
	return out, nil
}

// adopt takes over what is left of the pod, before the worker runs. Containers
// whose sandbox is gone (a reboot) count as ended.
func (w *worker) adopt(r *remains) {
	slices.SortFunc(r.containers, func(a, b engine.Container) int { return attempt(a) - attempt(b) })
	for _, c := range r.containers {
		name := c.Labels[spec.LabelContainer]
		if _, ok := plan.Find(w.pod, name); !ok {
			w.strays = append(w.strays, c.ID)
			continue
		}
		w.adoptContainer(name, c, r.joined)
	}
	for name := range w.containers {
		w.restoreProbes(name)
	}
	if !r.joined {
		// A new sandbox: everything starts again, init containers too.
		for _, c := range w.containers {
			if c.Current != nil {
				c.Last, c.Current = c.Current, nil
			}
		}
		return
	}
	if w.finished {
		return
	}
	if !w.admitted {
		w.admitted = true
		w.p.enlist(w.pod)
	}
	w.known = r
}

func attempt(c engine.Container) int {
	n, err := strconv.Atoi(c.Labels[spec.LabelAttempt])
	if err != nil {
		return 0
	}
	return n
}

func (w *worker) adoptContainer(name string, c engine.Container, joined bool) {
	k := w.container(name)
	i := &plan.Instance{
		ID: c.ID, Attempt: attempt(c), State: c.State, PID: c.PID, Image: c.Image, ImageRef: c.ImageID, Hash: c.Labels[spec.LabelHash],
		CreatedAt: c.CreatedAt, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt, ExitCode: c.ExitCode, Hooked: true,
	}
	if s := w.statusOf(name); s != nil && trimScheme(s.ContainerID) == c.ID {
		i.ImageRef, i.Image, i.Resources = s.ImageID, s.Image, s.Resources.DeepCopy()
	}
	switch {
	case c.State == engine.Created: // the agent ended between create and start
		w.strays = append(w.strays, c.ID)
		k.NextAttempt = max(k.NextAttempt, i.Attempt)
		return
	case c.State == engine.Running && !joined:
		w.strays = append(w.strays, c.ID) // it runs in a sandbox that is lost
		i.State, i.ExitCode, i.Reason, i.FinishedAt = engine.Exited, 137, status.ContainerStatusUnknown, time.Now()
	case c.State == engine.Exited:
		e := w.p.endOf(c)
		i.Reason, i.Message, i.FinishedAt = e.reason, e.message, e.at
	}
	if k.Current != nil && k.Current.ID != c.ID {
		k.Last = k.Current
	}
	k.Current, k.NextAttempt = i, i.Attempt+1
	if k.Last != nil && k.Last.ID == c.ID {
		k.Last = nil
	}
}

func (w *worker) statusOf(name string) *core.ContainerStatus {
	for _, list := range [][]core.ContainerStatus{w.last.ContainerStatuses, w.last.InitContainerStatuses, w.last.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// restoreProbes lets a container that was ready stay ready until a probe says
// otherwise.
func (w *worker) restoreProbes(name string) {
	c, s := w.containers[name], w.statusOf(name)
	if !c.Running() || s == nil || trimScheme(s.ContainerID) != c.Current.ID {
		return
	}
	if s.Started != nil && *s.Started {
		c.Startup = plan.Success
	}
	if s.Ready {
		c.Readiness = plan.Success
	}
}

// orphans ends what is left of pods that the API does not have any more. It returns
// all pods that may hold something of the network.
func (p *Pods) orphans(ctx context.Context, left map[types.UID]*remains, taken map[types.UID]bool) map[types.UID]bool {
	live := map[types.UID]bool{}
	p.mu.Lock()
	for uid := range p.workers {
		live[uid] = true
	}
	for uid, r := range left {
		if live[uid] || taken[uid] {
			continue
		}
		w := newWorker(p, r.pod(uid))
		w.orphan, w.admitted = true, true
		w.adopt(r)
		w.setStop(time.Now().Add(graceOf(w.pod)), plan.ReasonStopping)
		p.enterLocked(ctx, w)
		live[uid] = true
	}
	p.mu.Unlock()
	return live
}

// keep lets the network drop what others hold; only then pods may join it.
func (p *Pods) keep(ctx context.Context, live map[types.UID]bool) {
	if err := p.Network.Keep(ctx, live); err != nil && ctx.Err() == nil {
		p.Log.Warn("releasing network resources of pods that are gone failed", "err", err)
	}
	if p.Devices != nil {
		if err := p.Devices.Keep(live); err != nil {
			p.Log.Warn("releasing devices of pods that are gone failed", "err", err)
		}
	}
	if ctx.Err() == nil {
		close(p.kept)
	}
}

// pod makes up an object for a pod of which only containers are left.
func (r *remains) pod(uid types.UID) *core.Pod {
	pod := &core.Pod{}
	pod.UID, pod.Namespace, pod.Name = uid, r.sandbox.Namespace, r.sandbox.Name
	pod.Spec.HostNetwork = r.sandbox.UID != "" && r.sandbox.NetNS == ""
	for _, c := range r.containers {
		pod.Namespace, pod.Name = c.Labels[spec.LabelPodNamespace], c.Labels[spec.LabelPodName]
		if g, err := strconv.ParseInt(c.Labels[spec.LabelGrace], 10, 64); err == nil {
			pod.Spec.TerminationGracePeriodSeconds = &g
		}
		name := c.Labels[spec.LabelContainer]
		if !slices.ContainsFunc(pod.Spec.Containers, func(k core.Container) bool { return k.Name == name }) {
			pod.Spec.Containers = append(pod.Spec.Containers, core.Container{Name: name, TerminationMessagePath: c.Labels[spec.LabelMessagePath]})
		}
	}
	return pod
}
