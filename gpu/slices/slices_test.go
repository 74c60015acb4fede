package slices

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	resource "k8s.io/api/resource/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/gpu/alloc"
	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/share"
	validate "orch/server/validate/device"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

var (
	mixed   = share.Config{MIG: share.Mixed}
	slicing = share.Config{Method: share.TimeSlicing, Resources: []share.Replication{{Name: share.GPU, As: share.GPU + ".shared", Replicas: 3, First: 1}}}
	mps     = share.Config{MIG: share.Mixed, Method: share.MPS, OneOnly: true, Resources: []share.Replication{
		{Name: share.GPU, As: share.GPU, Replicas: 4}, {Name: "nvidia.com/mig-7g.141gb", As: "nvidia.com/mig-7g.141gb", Replicas: 2}}}
)

func load(t testing.TB, name string) device.Machine {
	t.Helper()
	rec, err := fakenvml.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Machine
}

// nodes are the catalogue in all ways of sharing, and layouts that it does not have.
func nodes(t testing.TB) map[string]Node {
	out := map[string]Node{}
	for _, name := range fakenvml.Names() {
		m := load(t, name)
		machines := map[string]device.Machine{name: m, name + " partitioned": partitioned(m), name + " in pieces": pieces(m), name + " whole": full(m)}
		for what, m := range machines {
			for how, c := range map[string]share.Config{"none": {}, "single": {MIG: share.Single}, "mixed": mixed, "slicing": slicing, "mps": mps} {
				for _, dynamic := range []bool{false, true} {
					out[fmt.Sprint(what, " ", how, " ", dynamic)] = Node{Name: "node-1", Machine: m, Share: c, Dynamic: dynamic}
				}
			}
		}
	}
	return out
}

// partitioned turns MIG on where it can be, without any device.
func partitioned(m device.Machine) device.Machine {
	m = m.Clone()
	for i := range m.GPUs {
		if m.GPUs[i].MIG != nil {
			m.GPUs[i].MIG.Mode.Current = true
		}
	}
	return m
}

// add makes an instance of the profile's slices in the first place, of so many compute instances.
func add(m device.Machine, slices, parts int) device.Machine {
	m = partitioned(m)
	for i := range m.GPUs {
		g := &m.GPUs[i]
		if g.MIG == nil {
			continue
		}
		g.MIG.Instances = nil
		for _, p := range g.MIG.Profiles {
			if p.Slices != slices || len(g.MIG.Instances) > 0 {
				continue
			}
			gi := device.GPUInstance{ID: 1, ProfileID: p.ID, Placement: p.Placements[0]}
			for n := range parts {
				gi.Compute = append(gi.Compute, device.ComputeInstance{ID: n, Slices: slices / parts, UUID: fmt.Sprint("MIG-", i, "-", n), Index: n})
			}
			g.MIG.Instances = append(g.MIG.Instances, gi)
		}
	}
	return m
}

func pieces(m device.Machine) device.Machine { return add(m, 3, 3) }
func full(m device.Machine) device.Machine   { return add(m, 7, 1) }

// published are the slices of a node as the API has them.
func published(n Node, generation int64) []*resource.ResourceSlice {
	var out []*resource.ResourceSlice
	for i, spec := range Of(n) {
		spec.Pool.Generation = generation
		out = append(out, &resource.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("slice-%d", i)}, Spec: spec})
	}
	return out
}

func TestGolden(t *testing.T) {
	lost := Node{Name: "node-1", Machine: load(t, "h100-8"), Share: mixed, Taints: map[string][]resource.DeviceTaint{}}
	lost.Machine.GPUs = slices.Clone(lost.Machine.GPUs[:2])
	lost.Machine.GPUs[0].Problem = &device.Problem{Code: device.CodeGPULost}
	lost.Taints[lost.Machine.GPUs[1].UUID] = []resource.DeviceTaint{{Key: Driver + "/xid", Value: "48", Effect: resource.DeviceTaintEffectNoExecute}}
	one := load(t, "h200-mig")
	one.GPUs = one.GPUs[:1]
	for name, n := range map[string]Node{
		"t4": {Name: "node-1", Machine: load(t, "t4"), Share: mixed}, "rtx": {Name: "node-1", Machine: load(t, "rtx"), Share: mixed},
		"h100-8": {Name: "node-1", Machine: load(t, "h100-8"), Share: mixed}, "mixed-models": {Name: "node-1", Machine: load(t, "mixed"), Share: mixed},
		"mig": {Name: "node-1", Machine: load(t, "h200-mig"), Share: mixed}, "mig-dynamic": {Name: "node-1", Machine: one, Share: mixed, Dynamic: true},
		"shared": {Name: "node-1", Machine: load(t, "h100"), Share: mps}, "pieces": {Name: "node-1", Machine: pieces(load(t, "h200")), Share: mixed}, "ill": lost,
	} {
		got := printed(Of(n))
		path := filepath.Join("testdata", name+".txt")
		if *rewrite {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil || string(want) != got {
			t.Errorf("%s: %v; got:\n%s", name, err, got)
		}
	}
}

// printed is a pool for people: a paragraph for each device.
func printed(specs []resource.ResourceSliceSpec) string {
	var b strings.Builder
	for i, s := range specs {
		fmt.Fprintf(&b, "slice %d of %d: driver %s, pool %s, node %s\n", i+1, s.Pool.ResourceSliceCount, s.Driver, s.Pool.Name, *s.NodeName)
		for _, c := range s.SharedCounters {
			fmt.Fprintf(&b, "\ncounters %s\n  %s\n", c.Name, counted(c.Counters))
		}
		for _, d := range s.Devices {
			fmt.Fprintf(&b, "\n%s\n", d.Name)
			for _, k := range slices.Sorted(maps.Keys(d.Attributes)) {
				fmt.Fprintf(&b, "  %s: %s\n", k, value(d.Attributes[k]))
			}
			for _, k := range slices.Sorted(maps.Keys(d.Capacity)) {
				q := d.Capacity[k].Value
				fmt.Fprintf(&b, "  has %s %s\n", k, q.String())
			}
			for _, c := range d.ConsumesCounters {
				fmt.Fprintf(&b, "  takes of %s: %s\n", c.CounterSet, counted(c.Counters))
			}
			for _, taint := range d.Taints {
				fmt.Fprintf(&b, "  taint %s=%s:%s\n", taint.Key, taint.Value, taint.Effect)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func counted(c map[string]resource.Counter) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(c)) {
		q := c[k].Value
		out = append(out, k+" "+q.String())
	}
	return strings.Join(out, ", ")
}

func value(a resource.DeviceAttribute) string {
	switch {
	case a.StringValue != nil:
		return fmt.Sprintf("%q", *a.StringValue)
	case a.VersionValue != nil:
		return "version " + *a.VersionValue
	case a.IntValue != nil:
		return fmt.Sprint(*a.IntValue)
	}
	return fmt.Sprint(*a.BoolValue)
}

// TestTheAPITakesThem: the limits of slices, devices, attributes and counters, by the
// server's own validation.
func TestTheAPITakesThem(t *testing.T) {
	for name, n := range nodes(t) {
		names := map[string]bool{}
		for _, s := range published(n, 1) {
			if errs := validate.Slice(s); len(errs) > 0 {
				t.Fatalf("%s: %v", name, errs)
			}
			for _, d := range s.Spec.Devices {
				if names[d.Name] {
					t.Fatalf("%s: two devices are called %s", name, d.Name)
				}
				names[d.Name] = true
			}
		}
	}
	if Driver != api.GPUDriver {
		t.Error("the driver has two names")
	}
}

// TestReadIsTheInverse: what the scheduler reads offers and chooses as the node does.
func TestReadIsTheInverse(t *testing.T) {
	for name, n := range nodes(t) {
		p := Read(published(n, 7))
		want, _ := alloc.Offer(n.Machine, n.Share)
		if len(want)+len(p.Units) > 0 && !reflect.DeepEqual(p.Units, want) {
			t.Fatalf("%s: read\n%+v, want\n%+v", name, p.Units, want)
		}
		if p.Node != "node-1" && len(p.Devices) > 0 || p.Complete != (len(p.Devices) > 0) {
			t.Fatalf("%s: node %q, complete %v", name, p.Node, p.Complete)
		}
		chooseAlike(t, name, n, p)
	}
}

func chooseAlike(t *testing.T, name string, n Node, p Pool) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		free := slices.DeleteFunc(slices.Clone(p.Units), func(alloc.Unit) bool { return random.IntN(3) == 0 })
		if len(free) == 0 {
			continue
		}
		r := alloc.Request{Resource: free[random.IntN(len(free))].Resource, Count: 1 + random.IntN(4), Free: free}
		one := r
		one.OneOnly, r.OneOnly = n.Share.OneOnly, p.OneOnly(r.Resource)
		here, errHere := alloc.Choose(n.Machine, one)
		there, errThere := alloc.Choose(p.Machine, r)
		if !reflect.DeepEqual(here, there) || fmt.Sprint(errHere) != fmt.Sprint(errThere) {
			t.Fatalf("%s: %d of %s: the node chooses %v (%v), the scheduler %v (%v)", name, r.Count, r.Resource, here, errHere, there, errThere)
		}
		for _, u := range here {
			if d, ok := p.DeviceOf(u.ID); !ok || d.Card != u.Card || d.Resource != u.Resource {
				t.Fatalf("%s: unit %s is the device %+v, %v", name, u.ID, d, ok)
			}
		}
	}
}

// TestCountersAllowWhatTheCardAllows: layouts that exist fit into the counters, and two
// devices conflict exactly if the memory slices are not there for both.
func TestCountersAllowWhatTheCardAllows(t *testing.T) {
	for name, n := range nodes(t) {
		have, used := map[string]map[string]resource.Counter{}, map[string]map[string]quantity.Quantity{}
		list := published(n, 1)
		for _, s := range list {
			for _, c := range s.Spec.SharedCounters {
				have[c.Name], used[c.Name] = c.Counters, map[string]quantity.Quantity{}
			}
		}
		p := Read(list)
		var all []resource.Device
		for _, s := range list {
			all = append(all, s.Spec.Devices...)
		}
		for _, d := range all {
			r, _ := p.Device(d.Name)
			for _, c := range d.ConsumesCounters {
				for k, v := range c.Counters {
					if h, ok := have[c.CounterSet][k]; !ok || h.Value.Cmp(v.Value) < 0 {
						t.Fatalf("%s: %s takes %s %s of %s", name, d.Name, k, v.Value.String(), h.Value.String())
					}
					if r.UUID != "" && r.MIG {
						sum := used[c.CounterSet][k]
						sum.Add(v.Value)
						used[c.CounterSet][k] = sum
					}
				}
			}
		}
		for set, sums := range used {
			for k, sum := range sums {
				if h := have[set][k]; h.Value.Cmp(sum) < 0 {
					t.Fatalf("%s: what is there takes %s %s of %s", name, k, sum.String(), h.Value.String())
				}
			}
		}
		for i, a := range all {
			for _, b := range all[:i] {
				x, _ := p.Device(a.Name)
				y, _ := p.Device(b.Name)
				if got, want := x.Conflicts(y), tooMuch(a, b); got != want || y.Conflicts(x) != want {
					t.Fatalf("%s: %s and %s conflict: %v, by the counters %v", name, a.Name, b.Name, got, want)
				}
			}
		}
	}
}

// tooMuch tells that two devices want more than one of a memory slice.
func tooMuch(a, b resource.Device) bool {
	for _, x := range a.ConsumesCounters {
		for _, y := range b.ConsumesCounters {
			if x.CounterSet != y.CounterSet {
				continue
			}
			for k, v := range x.Counters {
				sum := v.Value.DeepCopy()
				if o, ok := y.Counters[k]; ok && strings.HasPrefix(k, sliceCounter) {
					if sum.Add(o.Value); sum.CmpInt64(1) > 0 {
						return true
					}
				}
			}
		}
	}
	return false
}

func TestOfWhatCannotBeRead(t *testing.T) {
	n := Node{Name: "node-1", Machine: load(t, "h100-8"), Share: mixed}
	list := append(published(n, 3), published(Node{Name: "node-1", Machine: load(t, "t4"), Share: mixed}, 4)...)
	if p := Read(list); len(p.Devices) != 1 || !p.Complete {
		t.Errorf("an old generation was read: %+v", p.Devices)
	}
	many := published(Node{Name: "node-1", Machine: partitioned(load(t, "h200-8")), Share: mixed, Dynamic: true}, 1)
	if p := Read(many[1:]); p.Complete {
		t.Error("a pool with a slice missing is complete")
	}
	odd := published(n, 1)[0]
	odd.Spec.Devices[0].Attributes["uuid"] = resource.DeviceAttribute{IntValue: new(int64(1))}
	odd.Spec.Devices[1].Attributes[AttrReplicas] = resource.DeviceAttribute{IntValue: new(int64(1 << 40))}
	odd.Spec.Devices[2].Attributes[AttrLinks] = resource.DeviceAttribute{StringValue: new("?")}
	if p := Read([]*resource.ResourceSlice{odd}); len(p.Devices) != 7 || len(p.Units) != 6+maxReplicas {
		t.Errorf("%d devices, %d units", len(p.Devices), len(p.Units))
	}
	if p := Read(nil); p.Complete || p.Node != "" {
		t.Errorf("nothing reads as %+v", p)
	}
	foreign := Node{Name: "node-1", Machine: load(t, "h200-mig"), Share: mixed, Others: func(r string) bool { return strings.HasSuffix(r, "1g.18gb") }}
	if p := Read(published(foreign, 1)); len(p.Devices) != 2 {
		t.Errorf("beside a plugin there are %+v", p.Devices)
	}
	if got := Of(Node{Name: "node-1"}); got != nil {
		t.Errorf("a node without GPUs has %v", got)
	}
}

func TestVersions(t *testing.T) {
	for in, want := range map[string]string{"580.159.03": "580.159.3", "13.0": "13.0.0", "9.0": "9.0.0", "535": "535.0.0", "1.2.3.4": "1.2.3", "": "", "r580": "", "580.x": ""} {
		if got := threeParts(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
