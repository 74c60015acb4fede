package publish

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Plan is what brings the API to the slices that are wanted, in this order.
type Plan struct {
	Delete         []string
	Update, Create []*resource.ResourceSlice
}

// Empty tells that nothing is to be done.
func (p Plan) Empty() bool { return len(p.Delete)+len(p.Update)+len(p.Create) == 0 }

// For plans one pool, as upstream's controller of slices does: the n-th wanted slice
// is the one whose name begins with that number; the generation goes up when more than one
// write is needed, so that nobody takes a half-written pool for a whole one. have are the
// slices of the pool's driver and node. A slice of another owner (a node that was there before)
// is replaced.
func For(want []resource.ResourceSliceSpec, have []*resource.ResourceSlice, owner metav1.OwnerReference) Plan {
	var p Plan
	if len(want) == 0 {
		for _, s := range have {
			p.Delete = append(p.Delete, s.Name)
		}
		return p
	}
	pool := want[0].Pool
	for _, s := range have {
		pool.Generation = max(pool.Generation, s.Spec.Pool.Generation)
	}
	now := make([]*resource.ResourceSlice, len(want))
	have = slices.SortedFunc(slices.Values(have), func(a, b *resource.ResourceSlice) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range have {
		i, ok := place(s.Name, len(want))
		if !ok || now[i] != nil || s.Spec.Pool.Name != pool.Name || s.Spec.Pool.Generation < pool.Generation || !owned(s, owner) {
			p.Delete = append(p.Delete, s.Name)
			continue
		}
		now[i] = s
	}
	changed, created := map[int]bool{}, 0
	for i, s := range now {
		if s == nil {
			created++
		} else if !same(s.Spec, want[i], pool) {
			changed[i] = true
		}
	}
	all := created > 0 || len(changed) > 1
	if all {
		pool.Generation++
	}
	for i, s := range now {
		spec := want[i]
		spec.Pool = pool
		switch {
		case s == nil:
			p.Create = append(p.Create, &resource.ResourceSlice{Spec: spec, ObjectMeta: metav1.ObjectMeta{
				GenerateName:    fmt.Sprintf("%0*x-%s-%s-", digits(len(want)), i, spec.Driver, pool.Name),
				OwnerReferences: []metav1.OwnerReference{owner},
			}})
		case all || changed[i]:
			u := s.DeepCopy()
			spec.Devices = keepTimes(s.Spec.Devices, spec.Devices)
			u.Spec = spec
			p.Update = append(p.Update, u)
		}
	}
	return p
}

// minDigits is how long the number in a slice's name is at least, in base 16.
const minDigits = 5

func digits(n int) int { return max(minDigits, len(strconv.FormatInt(int64(n-1), 16))) }

// place is the number in a slice's name.
func place(name string, n int) (int, bool) {
	prefix, _, ok := strings.Cut(name, "-")
	i, err := strconv.ParseUint(prefix, 16, 31)
	if !ok || err != nil || len(prefix) != digits(n) || int(i) >= n {
		return 0, false
	}
	return int(i), true
}

func owned(s *resource.ResourceSlice, owner metav1.OwnerReference) bool {
	return slices.ContainsFunc(s.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == owner.UID })
}

// same tells whether a slice is as wanted. Since when a taint is there is the server's matter.
func same(have, want resource.ResourceSliceSpec, pool resource.ResourcePool) bool {
	want.Pool = pool
	want.Devices = keepTimes(have.Devices, want.Devices)
	return equality.Semantic.DeepEqual(have, want)
}

// keepTimes takes over since when taints are there.
func keepTimes(from, to []resource.Device) []resource.Device {
	known := map[string][]resource.DeviceTaint{}
	for _, d := range from {
		known[d.Name] = d.Taints
	}
	out := slices.Clone(to)
	for i := range out {
		if len(out[i].Taints) == 0 {
			continue
		}
		out[i].Taints = slices.Clone(out[i].Taints)
		for j := range out[i].Taints {
			t := &out[i].Taints[j]
			at := slices.IndexFunc(known[out[i].Name], func(o resource.DeviceTaint) bool {
				return o.Key == t.Key && o.Value == t.Value && o.Effect == t.Effect
			})
			if at >= 0 && t.TimeAdded == nil {
				t.TimeAdded = known[out[i].Name][at].TimeAdded
			}
		}
	}
	return out
}
