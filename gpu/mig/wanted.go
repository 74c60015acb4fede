package mig

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"orch/gpu/device"
)

// wantedOf lists the GPU instances of a layout one by one, the largest first.
func wantedOf(m *device.MIG, l Layout) ([]want, error) {
	var out []want
	count, parts := map[string]int{}, map[string][]int{} // by GPU instance profile
	for _, name := range slices.Sorted(maps.Keys(l.Devices)) {
		n := l.Devices[name]
		of, slice := split(name)
		p, ok := m.ProfileNamed(of)
		if !ok {
			var have []string
			for _, p := range m.Profiles {
				have = append(have, p.Name)
			}
			return nil, fmt.Errorf("there is no profile %s, but %s", of, strings.Join(have, ", "))
		}
		if slice > 0 && slice != p.Slices {
			if len(p.Compute) > 0 && !slices.ContainsFunc(p.Compute, func(c device.ComputeProfile) bool { return c.Slices == slice }) {
				return nil, fmt.Errorf("%s has no compute instance of %d slices, as %s asks for", of, slice, name)
			}
			parts[of] = append(parts[of], slices.Repeat([]int{slice}, n)...)
			continue
		}
		count[of] += n
		out = append(out, slices.Repeat([]want{{p, []int{p.Slices}}}, n)...)
	}
	for _, of := range slices.Sorted(maps.Keys(parts)) {
		p, _ := m.ProfileNamed(of)
		divided := pack(p, parts[of])
		count[of] += len(divided)
		out = append(out, divided...)
	}
	for _, of := range slices.Sorted(maps.Keys(count)) {
		if p, _ := m.ProfileNamed(of); count[of] > p.Instances {
			return nil, fmt.Errorf("it holds %d of %s at most, not %d", p.Instances, of, count[of])
		}
	}
	slices.SortFunc(out, func(a, b want) int {
		return cmp.Or(cmp.Compare(size(b.Profile), size(a.Profile)), cmp.Compare(b.Slices, a.Slices), strings.Compare(a.Name, b.Name), slices.Compare(b.parts, a.parts))
	})
	return out, nil
}

// split takes "1c.3g.71gb" apart: one slice of 3g.71gb. Without a compute instance the number is 0.
func split(name string) (of string, slice int) {
	before, rest, ok := strings.Cut(name, "c.")
	n, err := strconv.Atoi(before)
	if !ok || err != nil || !strings.Contains(rest, "g.") {
		return name, 0
	}
	return rest, n
}

// pack puts compute instances into as few GPU instances as it takes, the largest first.
func pack(p device.Profile, parts []int) []want {
	var out []want
	slices.SortFunc(parts, func(a, b int) int { return b - a })
	for _, n := range parts {
		at := slices.IndexFunc(out, func(w want) bool { return hasRoom(p, w.parts, n) })
		if at < 0 {
			out = append(out, want{Profile: p})
			at = len(out) - 1
		}
		out[at].parts = append(out[at].parts, n)
	}
	return out
}

// hasRoom tells whether a GPU instance takes one more compute instance of n slices.
func hasRoom(p device.Profile, parts []int, n int) bool {
	used, alike := 0, 0
	for _, o := range parts {
		used += o
		if o == n {
			alike++
		}
	}
	most := p.Slices / n
	for _, c := range p.Compute {
		if c.Slices == n {
			most = c.Instances
		}
	}
	return used+n <= p.Slices && alike < most
}
