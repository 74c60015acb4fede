package share

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Resources by which a container asks for a part of each of its cards, as HAMi spells them.
const (
	Memory        = Prefix + "gpumem"            // MiB
	MemoryPercent = Prefix + "gpumem-percentage" // of the card's memory
	Cores         = Prefix + "gpucores"          // percent of the card's multiprocessors
)

// Annotations by which a pod asks for a part of a card, as KAI's scheduler spells them.
const (
	AnnotationFraction  = "gpu-fraction"
	AnnotationMemory    = "gpu-memory" // MiB
	AnnotationCards     = "gpu-fraction-num-devices"
	AnnotationContainer = "gpu-fraction-container-name"
)

// whole is 100 percent.
const whole = 100

// Request is a container's wish for parts of cards, of each the same. Whoever has none
// and asks for nvidia.com/gpu wants whole cards for itself.
type Request struct {
	// Cards are different ones.
	Cards int
	// MemoryMiB of each; 0 where MemoryPercent says it.
	MemoryMiB     int64
	MemoryPercent int64
	// CorePercent of each card's multiprocessors; 0 leaves it open.
	CorePercent int64
}

// Amount is a part of one card.
type Amount struct {
	MemoryMiB   int64
	CorePercent int64
}

// On is what the request means on a card of that much memory.
func (r Request) On(cardMiB int64) Amount {
	a := Amount{MemoryMiB: r.MemoryMiB, CorePercent: r.CorePercent}
	if a.MemoryMiB == 0 {
		a.MemoryMiB = cardMiB * r.MemoryPercent / whole
	}
	return a
}

// String is how messages speak of an amount.
func (a Amount) String() string {
	s := fmt.Sprintf("%d MiB", a.MemoryMiB)
	if a.CorePercent > 0 {
		s += fmt.Sprintf(" and %d %% of the multiprocessors", a.CorePercent)
	}
	return s
}

// Amounts tells whether a resource is a part of nvidia.com/gpu rather than devices.
func Amounts(name core.ResourceName) bool {
	return name == Memory || name == MemoryPercent || name == Cores
}

// Of reads a container's limits; ok is false for one that shares no card.
func Of(limits core.ResourceList) (r Request, ok bool, err error) {
	value := func(name core.ResourceName) int64 { q := limits[name]; return q.Value() }
	r = Request{Cards: 1, MemoryMiB: value(Memory), MemoryPercent: value(MemoryPercent), CorePercent: value(Cores)}
	if r.MemoryMiB == 0 && r.MemoryPercent == 0 && r.CorePercent == 0 {
		return Request{}, false, nil
	}
	if n, says := limits[GPU]; says {
		r.Cards = int(n.Value())
	} else if other := device(limits); other != "" {
		return r, true, fmt.Errorf("%s and the like are parts of %s, and the container asks for %s: ask for one or the other", Memory, GPU, other)
	}
	switch {
	case r.Cards < 1:
		return r, true, fmt.Errorf("%s: must be at least 1 beside %s", GPU, Memory)
	case r.MemoryMiB > 0 && r.MemoryPercent > 0:
		return r, true, fmt.Errorf("%s and %s are there together: say the memory in one way", Memory, MemoryPercent)
	case r.MemoryPercent > whole:
		return r, true, fmt.Errorf("%s: %d, a card has 100", MemoryPercent, r.MemoryPercent)
	case r.CorePercent > whole:
		return r, true, fmt.Errorf("%s: %d, a card has 100", Cores, r.CorePercent)
	case r.MemoryMiB == 0 && r.MemoryPercent == 0:
		r.MemoryPercent = whole // as HAMi: who says nothing of the memory may use all
	}
	return r, true, nil
}

// device is the name of a resource of NVIDIA's that is asked for, apart from amounts.
func device(limits core.ResourceList) string {
	var names []string
	for name := range limits {
		if strings.HasPrefix(string(name), Prefix+"mig-") || strings.HasPrefix(string(name), GPU) && !Amounts(name) {
			names = append(names, string(name))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return slices.Min(names)
}

// annotated is what the pod's annotations ask for, as limits of one container.
func annotated(annotations map[string]string) (core.ResourceList, error) {
	fraction, isFraction := annotations[AnnotationFraction]
	memory, isMemory := annotations[AnnotationMemory]
	number, isNumber := annotations[AnnotationCards]
	switch {
	case isFraction && isMemory:
		return nil, fmt.Errorf("%s and %s are there together: a share is told in one way", AnnotationFraction, AnnotationMemory)
	case !isFraction && !isMemory && isNumber:
		return nil, fmt.Errorf("%s: needs %s or %s beside it", AnnotationCards, AnnotationFraction, AnnotationMemory)
	case !isFraction && !isMemory:
		return nil, nil
	}
	cards := int64(1)
	if isNumber {
		n, err := strconv.ParseInt(number, 10, 32)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%s: %q, it must be a whole number above 0", AnnotationCards, number)
		}
		cards = n
	}
	out := core.ResourceList{GPU: *resource.NewQuantity(cards, resource.DecimalSI)}
	if isMemory {
		n, err := strconv.ParseInt(memory, 10, 64)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%s: %q, it must be a whole number of MiB above 0", AnnotationMemory, memory)
		}
		out[Memory] = *resource.NewQuantity(n, resource.DecimalSI)
		return out, nil
	}
	f, err := strconv.ParseFloat(fraction, 64)
	if err != nil || math.IsNaN(f) || f <= 0 || f >= 1 {
		return nil, fmt.Errorf("%s: %q, it must be a number above 0 and below 1; for whole cards use the limit %s", AnnotationFraction, fraction, GPU)
	}
	percent := int64(math.Floor(f*whole + 1e-9))
	if percent < 1 {
		return nil, fmt.Errorf("%s: %q, a hundredth of a card is the least", AnnotationFraction, fraction)
	}
	out[MemoryPercent] = *resource.NewQuantity(percent, resource.DecimalSI)
	out[Cores] = *resource.NewQuantity(percent, resource.DecimalSI)
	return out, nil
}

// Normalize writes a pod's shares in one spelling, as limits and requests of containers:
// annotations become limits, and parts of a card that no count stands beside are of one.
// It refuses what no card can give, and leaves pods alone that share nothing. Annotations of
// a pod that names another scheduler are for that one. Doing it again changes nothing.
func Normalize(pod *core.Pod) (changed bool, err error) {
	var add core.ResourceList
	if name := pod.Spec.SchedulerName; name == "" || name == core.DefaultSchedulerName {
		if add, err = annotated(pod.Annotations); err != nil {
			return false, fmt.Errorf("metadata.annotations: %w", err)
		}
	}
	if add != nil {
		c, err := annotatedContainer(pod)
		if err != nil {
			return false, err
		}
		if changed, err = merge(pod, c, add); err != nil {
			return false, err
		}
	}
	for _, list := range [][]core.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			limits := list[i].Resources.Limits
			_, ok, err := Of(limits)
			if err != nil {
				return false, fmt.Errorf("container %s: %w", list[i].Name, err)
			}
			if _, says := limits[GPU]; ok && !says {
				set(&list[i], core.ResourceList{GPU: *resource.NewQuantity(1, resource.DecimalSI)})
				changed = true
			}
		}
	}
	return changed, nil
}

func annotatedContainer(pod *core.Pod) (*core.Container, error) {
	if len(pod.Spec.Containers) == 0 {
		return nil, errors.New("the pod has no containers")
	}
	name, ok := pod.Annotations[AnnotationContainer]
	if !ok {
		return &pod.Spec.Containers[0], nil
	}
	for _, list := range [][]core.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i], nil
			}
		}
	}
	return nil, fmt.Errorf("metadata.annotations: %s: the pod has no container %q", AnnotationContainer, name)
}

// merge gives the container of an annotated pod its limits. A pod whose containers ask for
// GPUs in another way too is refused: it is not clear what is wanted. Limits that are
// there already and the same come from a pod that was normalized before.
func merge(pod *core.Pod, c *core.Container, add core.ResourceList) (changed bool, err error) {
	for _, list := range [][]core.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == c.Name && holds(c.Resources.Limits, add) {
				continue
			}
			for name := range list[i].Resources.Limits {
				if Amounts(name) || device(core.ResourceList{name: {}}) != "" {
					return false, fmt.Errorf("container %s asks for %s, and the pod's annotations for a part of a GPU: ask in one way", list[i].Name, name)
				}
			}
		}
	}
	if holds(c.Resources.Limits, add) {
		return false, nil
	}
	set(c, add)
	return true, nil
}

func holds(have, want core.ResourceList) bool {
	for name, q := range want {
		if h, ok := have[name]; !ok || h.Cmp(q) != 0 {
			return false
		}
	}
	return true
}

// set adds limits, and the requests that go with them: extended resources have both alike.
func set(c *core.Container, add core.ResourceList) {
	limits, requests := c.Resources.Limits.DeepCopy(), c.Resources.Requests.DeepCopy()
	if limits == nil {
		limits = core.ResourceList{}
	}
	if requests == nil {
		requests = core.ResourceList{}
	}
	for name, q := range add {
		limits[name], requests[name] = q, q
	}
	c.Resources.Limits, c.Resources.Requests = limits, requests
}

// Counted is what a pod's containers count for in sums over a node: a card that is shared
// is not used up by one of its users, so what shares ask of nvidia.com/gpu is left out.
// requests are the pod's; they are not changed.
func Counted(pod *core.Pod, requests core.ResourceList) core.ResourceList {
	q, asks := requests[GPU]
	if !asks || !Shares(pod) {
		return requests
	}
	out := requests.DeepCopy()
	if n := exclusiveCards(pod); n == 0 {
		delete(out, GPU)
	} else if q.Value() > n {
		out[GPU] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	return out
}

// Shares tells whether a container of the pod asks for a part of a card.
func Shares(pod *core.Pod) bool {
	asks := func(c core.Container) bool { _, ok, _ := Of(c.Resources.Limits); return ok }
	return slices.ContainsFunc(pod.Spec.Containers, asks) || slices.ContainsFunc(pod.Spec.InitContainers, asks)
}

// exclusiveCards are the whole cards that a pod needs at once, by the rule by which
// upstream sums requests: the largest of the init phase's and the running phase's needs.
func exclusiveCards(pod *core.Pod) int64 {
	need := func(c core.Container) int64 {
		if _, ok, err := Of(c.Resources.Limits); ok && err == nil {
			return 0
		}
		q := c.Resources.Requests[GPU]
		return q.Value()
	}
	var running, sidecars, most int64
	for _, c := range pod.Spec.Containers {
		running += need(c)
	}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways {
			sidecars += need(c)
			most = max(most, sidecars)
			continue
		}
		most = max(most, sidecars+need(c))
	}
	return max(most, running+sidecars)
}
