package metrics

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"orch/gpu/device"
)

// Usage is what namespaces have used since the agent began to count. The zero value
// is empty. It only grows, so rates of it are right over restarts as those of any
// counter.
type Usage struct {
	// Namespaces by name.
	Namespaces map[string]Used
	// Idle is how long each device has been held without doing anything, by owner.
	Idle map[Holding]time.Duration
}

// Used is one namespace's part.
type Used struct {
	// Held is GPU time: the sum over its devices of how long they were held; a device
	// with n owners counts as one n-th for each.
	Held time.Duration
	// Joules is the energy of the devices meanwhile, divided alike. MIG devices have
	// no meter of their own: theirs is left out.
	Joules float64
}

// Holding is a device in the hands of one container.
type Holding struct {
	Owner
	UUID string
}

// maxHoldings bounds Idle: containers that are gone are dropped when it is passed.
const maxHoldings = 4096

// idleBelow is the use, in percent, under which a held device counts as idle.
const idleBelow = 1

// Add counts the time between two readings of the same devices. Readings that are not
// in both, or whose meter went back (the driver was loaded again), count for time only.
func (u Usage) Add(before, now []device.Figures, owners map[string][]Owner) Usage {
	out := Usage{Namespaces: map[string]Used{}, Idle: map[Holding]time.Duration{}}
	for k, v := range u.Namespaces {
		out.Namespaces[k] = v
	}
	for k, v := range u.Idle {
		if len(u.Idle) <= maxHoldings || slices.Contains(owners[k.UUID], k.Owner) {
			out.Idle[k] = v
		}
	}
	for _, f := range now {
		i := slices.IndexFunc(before, func(b device.Figures) bool { return b.UUID == f.UUID })
		holders := owners[f.UUID]
		if i < 0 || len(holders) == 0 || f.UnixNano <= before[i].UnixNano {
			continue
		}
		took := time.Duration(f.UnixNano - before[i].UnixNano)
		part := time.Duration(int64(took) / int64(len(holders)))
		joules := energy(before[i], f) / float64(len(holders))
		idle := idle(f)
		for _, o := range holders {
			ns := out.Namespaces[o.Namespace]
			ns.Held += part
			ns.Joules += joules
			out.Namespaces[o.Namespace] = ns
			if idle {
				out.Idle[Holding{o, f.UUID}] += took
			}
		}
	}
	return out
}

func energy(before, now device.Figures) float64 {
	a, okA := before.Get(device.EnergyMillijoule)
	b, okB := now.Get(device.EnergyMillijoule)
	if !okA || !okB || b < a {
		return 0
	}
	return (b - a) / 1000
}

// idle says yes only where the driver says how busy the device is.
func idle(f device.Figures) bool {
	if v, ok := f.Get(device.GPUUtilPercent); ok {
		return v < idleBelow
	}
	v, ok := f.Get(device.GPMGraphics)
	return ok && 100*v < idleBelow
}

func (u Usage) appendTo(b []byte) []byte {
	var names []string
	for n := range u.Namespaces {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, family := range []struct {
		name, help string
		value      func(Used) float64
	}{
		{"orch_gpu_namespace_seconds_total", "Time in which a namespace held GPUs, summed over them, in seconds.", func(v Used) float64 { return v.Held.Seconds() }},
		{"orch_gpu_namespace_energy_joules_total", "Energy of the GPUs that a namespace held, in J.", func(v Used) float64 { return v.Joules }},
	} {
		for i, n := range names {
			if i == 0 {
				b = appendHead(b, family.name, counter, family.help)
			}
			b = appendPairs(append(append(b, family.name...), '{'), [][2]string{{"namespace", n}})
			b = append(strconv.AppendFloat(append(b, "} "...), family.value(u.Namespaces[n]), 'f', -1, 64), '\n')
		}
	}
	var held []Holding
	for h := range u.Idle {
		held = append(held, h)
	}
	slices.SortFunc(held, func(a, b Holding) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container), cmp.Compare(a.UUID, b.UUID), cmp.Compare(a.UID, b.UID))
	})
	const name = "orch_gpu_allocated_idle_seconds_total"
	for i, h := range held {
		if i == 0 {
			b = appendHead(b, name, counter, "Time in which a container held a GPU that did nothing, in seconds.")
		}
		b = appendPairs(append(append(b, name...), '{'), [][2]string{{"UUID", h.UUID}, {"container", h.Container}, {"namespace", h.Namespace}, {"pod", h.Pod}, {"pod_uid", h.UID}})
		b = append(strconv.AppendFloat(append(b, "} "...), u.Idle[h].Seconds(), 'f', -1, 64), '\n')
	}
	return b
}
