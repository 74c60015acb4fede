package main

import (
	"context"
	"maps"
	"net/http"
	"path/filepath"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/pods"
	"orch/agent/stats"
	"orch/runtime/engine"
)

// statistics are the pages of what the node uses, with those of its GPUs.
func (n *node) statistics() (map[string]http.Handler, error) {
	s, err := stats.New(stats.Source{
		Node: n.NodeName, Pods: func() []stats.Pod { return used(n.agent.Pods().List()) }, Counters: n.engine.Stats,
		RootDir: n.RootDir, ImageDir: filepath.Join(n.DataDir, "agent"),
		More: func(ctx context.Context) ([]byte, error) { return n.gpus.page.Text(ctx) },
	})
	if err != nil {
		return nil, err
	}
	paths := n.gpus.paths()
	maps.Copy(paths, s.Paths())
	return paths, nil
}

// used is what statistics know of pods.
func used(list []*pods.Shown) []stats.Pod {
	var out []stats.Pod
	for _, s := range list {
		o := s.Pod.DeepCopy()
		o.Status = *s.Status.DeepCopy()
		p := stats.Pod{UID: o.UID, Namespace: o.Namespace, Name: o.Name, Cgroup: s.Cgroup, HostNetwork: o.Spec.HostNetwork, Object: o}
		if o.Status.StartTime != nil {
			p.Start = o.Status.StartTime.Time
		}
		for _, c := range s.Containers {
			if c.State == engine.Running {
				p.Containers = append(p.Containers, stats.Container{Name: c.Name, ID: c.ID, Image: c.Image, PID: c.PID, LogPath: c.LogPath, Start: started(&o.Status, c.Name)})
			}
		}
		out = append(out, p)
	}
	return out
}

func started(s *core.PodStatus, container string) time.Time {
	for _, list := range [][]core.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.Name == container && c.State.Running != nil {
				return c.State.Running.StartedAt.Time
			}
		}
	}
	return time.Time{}
}
