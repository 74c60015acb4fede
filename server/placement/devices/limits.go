package devices

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/gpu/alloc"
	"orch/gpu/share"
)

// Limits are the plain limits of a pod that units may serve.
type Limits struct {
	Asks []alloc.Ask
	// Need is how many units of each resource the pod has at once at most.
	Need map[string]int
	// wish is the same for pods whose asks are, if parts are among them.
	wish string
}

// LimitsOf reads a pod; the zero Limits ask for nothing.
func LimitsOf(p *core.Pod) Limits {
	l := Limits{Asks: alloc.Asks(p, func(resource string) bool { return strings.HasPrefix(resource, share.Prefix) })}
	for _, w := range alloc.Needs(l.Asks) {
		if l.Need == nil {
			l.Need = map[string]int{}
		}
		l.Need[w.Resource] = w.Count
	}
	if l.Parts() {
		l.wish = fmt.Sprint(l.Asks)
	}
	return l
}

// Parts tells that parts of cards are among them.
func (l Limits) Parts() bool {
	return slices.ContainsFunc(l.Asks, func(a alloc.Ask) bool { return slices.ContainsFunc(a.Wants, alloc.Want.Part) })
}

func (l Limits) asks(resource string) bool {
	return slices.ContainsFunc(l.Asks, func(a alloc.Ask) bool {
		return slices.ContainsFunc(a.Wants, func(w alloc.Want) bool { return w.Resource == resource })
	})
}

// Units are ids by container and resource, as the binding names them.
type Units alloc.Given

// Text is the value of api.AnnotationDevices.
func (u Units) Text() string {
	b, _ := json.Marshal(u) // strings: cannot fail
	return string(b)
}

// Holding is what a pod on a node holds by plain limits.
type Holding struct {
	Units []string
	// Unnamed are units that the pod has been given by somebody else, who has not said
	// which: until then nobody can be given the same resource there.
	Unnamed map[string]int
	// Wanted are units that the pod is to have once others have left.
	Wanted map[string]int
}

func (h Holding) empty() bool { return len(h.Units)+len(h.Unnamed)+len(h.Wanted) == 0 }

// HoldingOf is what a pod holds: what its binding says, else what its node says of it. A
// pod that is not bound wants.
func HoldingOf(p *core.Pod, l Limits) Holding {
	if len(l.Asks) == 0 {
		return Holding{}
	}
	if text := p.Annotations[api.AnnotationDevices]; text != "" {
		var u Units
		if err := json.Unmarshal([]byte(text), &u); err == nil {
			return u.Holding()
		}
	}
	if p.Spec.NodeName == "" {
		return Holding{Wanted: l.Need}
	}
	h := Holding{Unnamed: map[string]int{}}
	said := map[string]bool{}
	for _, c := range p.Status.ContainerStatuses {
		for _, r := range c.AllocatedResourcesStatus {
			for _, d := range r.Resources {
				if l.asks(string(r.Name)) && !slices.Contains(h.Units, string(d.ResourceID)) {
					h.Units, said[string(r.Name)] = append(h.Units, string(d.ResourceID)), true
				}
			}
		}
	}
	for resource, n := range l.Need {
		if !said[resource] {
			h.Unnamed[resource] = n
		}
	}
	if l.Parts() && !said[share.GPU] {
		h.Unnamed[share.GPU]++
	}
	return h
}

// Holding of a pod that has these units.
func (u Units) Holding() Holding {
	var h Holding
	for _, by := range u {
		for _, ids := range by {
			for _, id := range ids {
				if !slices.Contains(h.Units, id) {
					h.Units = append(h.Units, id)
				}
			}
		}
	}
	return h
}
