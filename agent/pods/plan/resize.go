package plan

import (
	"fmt"
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Outgrown tells whether a running container's limits are not those of its spec.
func (v View) Outgrown(n Named) bool {
	c := v.Containers[n.Name]
	return (n.Role == Main || n.Role == Sidecar) && c.Running() && c.Current.Resources != nil &&
		!equality.Semantic.DeepEqual(*c.Current.Resources, n.Resources)
}

// Resizing tells whether any container's limits are being changed.
func (v View) Resizing() bool { return slices.ContainsFunc(Specs(v.Pod), v.Outgrown) }

// resizing gives containers the limits of their spec: in place, or by a restart where
// their resize policy wants one.
func (v View) resizing() []Action {
	if v.Unfit {
		return nil
	}
	var acts []Action
	for _, n := range Specs(v.Pod) {
		c := v.Containers[n.Name]
		if !v.Outgrown(n) || c.Busy != Idle {
			continue
		}
		switch {
		case c.NotBefore.After(v.Now):
			acts = append(acts, Action{Verb: Wait, Container: n.Name, Until: c.NotBefore, Reason: ReasonResize})
		case restartsToResize(n.Container, c.Current.Resources):
			acts = append(acts, Action{Verb: Kill, Container: n.Name, Attempt: c.Current.Attempt, Reason: ReasonResize, Restart: true, Grace: grace(v.Pod),
				Message: fmt.Sprintf("Container %s resize requires restart", n.Name)})
		default:
			acts = append(acts, Action{Verb: Resize, Container: n.Name, Attempt: c.Current.Attempt})
		}
	}
	return acts
}

// restartsToResize tells whether a resource has changed whose policy is to restart.
func restartsToResize(c *core.Container, was *core.ResourceRequirements) bool {
	return slices.ContainsFunc(c.ResizePolicy, func(p core.ContainerResizePolicy) bool {
		if p.RestartPolicy != core.RestartContainer {
			return false
		}
		differ := func(a, b core.ResourceList) bool {
			x, y := a[p.ResourceName], b[p.ResourceName]
			return x.Cmp(y) != 0
		}
		return differ(was.Requests, c.Resources.Requests) || differ(was.Limits, c.Resources.Limits)
	})
}
