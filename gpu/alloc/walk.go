package alloc

import (
	"cmp"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/gpu/share"
)

// Ask is what one container of a pod wants.
type Ask struct {
	Container string
	// Passes: the container has ended before those after it start, and leaves them its devices.
	Passes bool
	Wants  []Want
}

// Want is so much of one resource, at least one.
type Want struct {
	Resource string
	Count    int
	// Share is of what part of each, the zero value for whole ones.
	Share share.Request
}

// Part tells that parts of devices are wanted.
func (w Want) Part() bool { return w.Share.Cards > 0 }

// Asks are those of a pod's containers in the order in which they get their devices: init
// containers, then the others, as upstream's kubelet goes. Only resources that counts lets
// through are in them; containers that want none are left out.
func Asks(pod *core.Pod, counts func(resource string) bool) []Ask {
	var out []Ask
	add := func(c *core.Container, passes bool) {
		a := Ask{Container: c.Name, Passes: passes}
		part, shares, err := share.Of(c.Resources.Limits)
		shares = shares && err == nil && counts(share.GPU)
		if shares {
			a.Wants = append(a.Wants, Want{share.GPU, part.Cards, part})
		}
		for name, q := range c.Resources.Limits {
			if shares && (name == share.GPU || share.Amounts(name)) {
				continue
			}
			if n := int(q.Value()); n > 0 && counts(string(name)) {
				a.Wants = append(a.Wants, Want{Resource: string(name), Count: n})
			}
		}
		slices.SortFunc(a.Wants, func(x, y Want) int { return strings.Compare(x.Resource, y.Resource) })
		if len(a.Wants) > 0 {
			out = append(out, a)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		add(c, c.RestartPolicy == nil || *c.RestartPolicy != core.ContainerRestartPolicyAlways)
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i], false)
	}
	return out
}

// Given are ids by container and resource.
type Given map[string]map[string][]string

// Walk gives every container what it asks for: first what containers that have ended pass on,
// then what pick chooses, which returns want.Count devices beside those that the container
// has already. Of parts it chooses all: has are then the shares that are passed on, whose places
// new ones may take. Scheduler and agent go the same way, so that they come to the same pod.
func Walk(asks []Ask, pick func(a Ask, want Want, has []string) ([]string, error)) (Given, error) {
	out, spare := Given{}, map[string][]string{}
	var shares []string
	for _, a := range asks {
		out[a.Container] = map[string][]string{}
		for _, w := range a.Wants {
			if w.Part() {
				ids, err := pick(a, w, shares)
				if err != nil {
					return nil, err
				}
				if shares = slices.DeleteFunc(slices.Clone(shares), func(s string) bool { return slices.ContainsFunc(ids, func(id string) bool { return sameSlot(s, id) }) }); a.Passes {
					shares = append(shares, ids...)
				}
				out[a.Container][w.Resource] = ids
				continue
			}
			passed := spare[w.Resource]
			ids := slices.Clone(passed[:min(w.Count, len(passed))])
			if !a.Passes {
				spare[w.Resource] = passed[len(ids):]
			}
			if missing := w.Count - len(ids); missing > 0 {
				more, err := pick(a, Want{Resource: w.Resource, Count: missing}, ids)
				if err != nil {
					return nil, err
				}
				if a.Passes {
					spare[w.Resource] = append(slices.Clip(spare[w.Resource]), more...)
				}
				ids = append(ids, more...)
			}
			out[a.Container][w.Resource] = ids
		}
	}
	return out, nil
}

// Needs is how many devices of each resource a pod holds at once: what its containers ask
// for, less what those that end pass on. Parts are not among them.
func Needs(asks []Ask) []Want {
	n := map[string]int{}
	_, _ = Walk(asks, func(_ Ask, w Want, _ []string) ([]string, error) { // it refuses nothing
		if !w.Part() {
			n[w.Resource] += w.Count
		}
		return make([]string, w.Count), nil
	})
	var out []Want
	for name, count := range n {
		out = append(out, Want{Resource: name, Count: count})
	}
	slices.SortFunc(out, func(a, b Want) int { return cmp.Compare(a.Resource, b.Resource) })
	return out
}
