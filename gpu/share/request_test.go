package share

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// limits reads "gpu=1 gpumem=3000": names without a domain are NVIDIA's.
func limits(text string) core.ResourceList {
	out := core.ResourceList{}
	for _, f := range strings.Fields(text) {
		name, n, _ := strings.Cut(f, "=")
		if !strings.Contains(name, "/") {
			name = Prefix + name
		}
		out[core.ResourceName(name)] = resource.MustParse(n)
	}
	return out
}

func podOf(annotations string, containers ...string) *core.Pod {
	p := &core.Pod{}
	for _, f := range strings.Fields(annotations) {
		k, v, _ := strings.Cut(f, "=")
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[k] = v
	}
	for i, c := range containers {
		l := limits(c)
		p.Spec.Containers = append(p.Spec.Containers, core.Container{Name: string(rune('a' + i)), Resources: core.ResourceRequirements{Limits: l, Requests: l.DeepCopy()}})
	}
	return p
}

func TestOf(t *testing.T) {
	for _, tc := range []struct {
		limits string
		want   Request
		shares bool
		err    string
	}{
		{"gpu=1", Request{}, false, ""},
		{"cpu=1", Request{}, false, ""},
		{"gpu=2 gpumem=3000", Request{Cards: 2, MemoryMiB: 3000}, true, ""},
		{"gpumem=3000 gpucores=30", Request{Cards: 1, MemoryMiB: 3000, CorePercent: 30}, true, ""},
		{"gpu=1 gpucores=30", Request{Cards: 1, MemoryPercent: 100, CorePercent: 30}, true, ""},
		{"gpumem-percentage=50", Request{Cards: 1, MemoryPercent: 50}, true, ""},
		{"gpu=1 gpumem=0 gpucores=0", Request{}, false, ""},
		{"gpu=0 gpumem=10", Request{}, true, "nvidia.com/gpu: must be at least 1"},
		{"gpumem=10 gpumem-percentage=50", Request{}, true, "say the memory in one way"},
		{"gpumem-percentage=101", Request{}, true, "nvidia.com/gpumem-percentage: 101, a card has 100"},
		{"gpucores=200", Request{}, true, "nvidia.com/gpucores: 200, a card has 100"},
		{"mig-1g.10gb=1 gpumem=10", Request{}, true, "the container asks for nvidia.com/mig-1g.10gb"},
		{"gpu.shared=1 gpumem=10", Request{}, true, "the container asks for nvidia.com/gpu.shared"},
	} {
		got, shares, err := Of(limits(tc.limits))
		if shares != tc.shares || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) || err == nil && got != tc.want {
			t.Errorf("%s: %+v %v %v", tc.limits, got, shares, err)
		}
	}
}

func TestNormalize(t *testing.T) {
	for _, tc := range []struct {
		name, annotations string
		containers        []string
		// want are the limits afterwards, or the error.
		want []string
		err  string
	}{
		{"nothing", "", []string{"cpu=1", "gpu=1"}, []string{"cpu=1", "gpu=1"}, ""},
		{"a part of one", "", []string{"gpumem=10"}, []string{"gpumem=10 gpu=1"}, ""},
		{"fraction", "gpu-fraction=0.5", []string{"", ""}, []string{"gpu=1 gpumem-percentage=50 gpucores=50", ""}, ""},
		{"fraction that floats do not have", "gpu-fraction=0.29", []string{""}, []string{"gpu=1 gpumem-percentage=29 gpucores=29"}, ""},
		{"of another container", "gpu-fraction=0.25 gpu-fraction-num-devices=2 gpu-fraction-container-name=b", []string{"", ""}, []string{"", "gpu=2 gpumem-percentage=25 gpucores=25"}, ""},
		{"memory", "gpu-memory=2000", []string{""}, []string{"gpu=1 gpumem=2000"}, ""},
		{"the whole of one", "gpu-fraction=1", []string{""}, nil, `gpu-fraction: "1", it must be a number above 0 and below 1; for whole cards use the limit nvidia.com/gpu`},
		{"no number", "gpu-fraction=half", []string{""}, nil, `gpu-fraction: "half"`},
		{"NaN", "gpu-fraction=NaN", []string{""}, nil, `gpu-fraction: "NaN"`},
		{"less than a hundredth", "gpu-fraction=0.001", []string{""}, nil, "a hundredth of a card is the least"},
		{"negative", "gpu-memory=-1", []string{""}, nil, "a whole number of MiB above 0"},
		{"both annotations", "gpu-fraction=0.5 gpu-memory=100", []string{""}, nil, "a share is told in one way"},
		{"a number alone", "gpu-fraction-num-devices=2", []string{""}, nil, "needs gpu-fraction or gpu-memory beside it"},
		{"both kinds", "gpu-fraction=0.5", []string{"gpu=1"}, nil, "container a asks for nvidia.com/gpu, and the pod's annotations for a part of a GPU"},
		{"both kinds in another container", "gpu-fraction=0.5", []string{"", "mig-1g.5gb=1"}, nil, "container b asks for nvidia.com/mig-1g.5gb"},
		{"no such container", "gpu-fraction=0.5 gpu-fraction-container-name=x", []string{""}, nil, `the pod has no container "x"`},
	} {
		p := podOf(tc.annotations, tc.containers...)
		_, err := Normalize(p)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err != nil {
			continue
		}
		for i, want := range tc.want {
			r := p.Spec.Containers[i].Resources
			if w := limits(want); len(w) != len(r.Limits) || !holds(r.Limits, w) || !holds(r.Requests, w) {
				t.Errorf("%s: container %d has %v", tc.name, i, r)
			}
		}
		if changed, err := Normalize(p); changed || err != nil {
			t.Errorf("%s: doing it again changes it: %v", tc.name, err)
		}
	}
}

// TestAnotherSchedulersAnnotations: a cluster may have KAI's own scheduler, which would count
// our limits beside its annotations.
func TestAnotherSchedulersAnnotations(t *testing.T) {
	p := podOf("gpu-fraction=0.5", "")
	p.Spec.SchedulerName = "kai-scheduler"
	if changed, err := Normalize(p); changed || err != nil || len(p.Spec.Containers[0].Resources.Limits) > 0 {
		t.Errorf("%v %v %v", changed, err, p.Spec.Containers[0].Resources)
	}
}

// TestSharesDoNotUseCardsUp: two users of one card would not fit a node that has one.
func TestSharesDoNotUseCardsUp(t *testing.T) {
	for _, tc := range []struct {
		containers []string
		want       string
	}{
		{[]string{"gpu=1 gpumem=100"}, "gpumem=100"},
		{[]string{"gpu=1 gpumem=100", "gpu=2"}, "gpumem=100 gpu=2"},
		{[]string{"gpu=2"}, "gpu=2"},
	} {
		p := podOf("", tc.containers...)
		sum := core.ResourceList{}
		for _, c := range p.Spec.Containers {
			for name, q := range c.Resources.Requests {
				s := sum[name]
				s.Add(q)
				sum[name] = s
			}
		}
		got, want := Counted(p, sum), limits(tc.want)
		if len(got) != len(want) || !holds(got, want) {
			t.Errorf("%v counts for %v", tc.containers, got)
		}
	}
}

func TestOn(t *testing.T) {
	if a := (Request{MemoryPercent: 50, CorePercent: 50}).On(81559); a != (Amount{40779, 50}) || a.String() != "40779 MiB and 50 % of the multiprocessors" {
		t.Error(a)
	}
	if a := (Request{MemoryMiB: 3000}).On(81559); a.String() != "3000 MiB" {
		t.Error(a)
	}
}

func TestLevels(t *testing.T) {
	for _, tc := range []struct {
		means Means
		want  Level
	}{
		{Means{}, ByNothing}, {Means{Watchdog: true}, ByWatchdog}, {Means{MPS: true, Watchdog: true}, ByMPS},
		{Means{Driver: true, MPS: true, Watchdog: true}, ByDriver}, {Means{MIG: true}, ByMIG},
	} {
		if got := tc.means.Best(); got != tc.want {
			t.Errorf("%+v: %s", tc.means, got)
		}
	}
	if Weaker(ByMIG, ByWatchdog) != ByWatchdog || Weaker("", ByMPS) != ByMPS || Weaker(ByNothing, ByMIG) != ByNothing {
		t.Error("the weaker one is another")
	}
	if s := ByWatchdog.Keeps(Amount{CorePercent: 10}); !strings.Contains(s, "is ended; the multiprocessors are counted") {
		t.Error(s)
	}
}
