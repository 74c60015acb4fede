package alloc

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/gpu/share"
)

func asking(counts ...string) *core.Pod {
	p := &core.Pod{}
	for i, c := range counts {
		kind, number, ok := strings.Cut(c, ":")
		if !ok {
			kind, number = "", c
		}
		box := core.Container{Name: fmt.Sprintf("c%d", i)}
		box.Resources.Limits = core.ResourceList{"nvidia.com/gpu": resource.MustParse(number), core.ResourceCPU: resource.MustParse("1")}
		switch kind {
		case "init":
			p.Spec.InitContainers = append(p.Spec.InitContainers, box)
		case "sidecar":
			box.RestartPolicy = new(core.ContainerRestartPolicyAlways)
			p.Spec.InitContainers = append(p.Spec.InitContainers, box)
		default:
			p.Spec.Containers = append(p.Spec.Containers, box)
		}
	}
	return p
}

// TestWalk: devices go from init containers to those after them as with upstream's kubelet.
func TestWalk(t *testing.T) {
	for _, tc := range []struct {
		name  string
		asks  []string
		want  string
		needs int
	}{
		{"none", []string{"0"}, "", 0},
		{"one each", []string{"1", "2"}, "c0=0 c1=1+2", 3},
		{"init containers pass on", []string{"init:2", "init:1", "2", "1"}, "c0=0+1 c1=0 c2=0+1 c3=2", 3},
		{"sidecars keep", []string{"sidecar:1", "init:1", "1"}, "c0=0 c1=1 c2=1", 2},
		{"a sidecar takes over", []string{"init:2", "sidecar:1", "2"}, "c0=0+1 c1=0 c2=1+2", 3},
		{"init containers that want more", []string{"init:1", "init:3", "2"}, "c0=0 c1=0+1+2 c2=0+1", 3},
	} {
		asks := Asks(asking(tc.asks...), func(name string) bool { return name == "nvidia.com/gpu" })
		next := 0
		got, err := Walk(asks, func(_ Ask, w Want, _ []string) (ids []string, err error) {
			for range w.Count {
				ids = append(ids, fmt.Sprint(next))
				next++
			}
			return ids, nil
		})
		var text []string
		for i := range tc.asks {
			if ids := got[fmt.Sprintf("c%d", i)]["nvidia.com/gpu"]; len(ids) > 0 {
				text = append(text, fmt.Sprintf("c%d=%s", i, strings.Join(ids, "+")))
			}
		}
		needs := Needs(asks)
		if err != nil || strings.Join(text, " ") != tc.want || tc.needs > 0 && !reflect.DeepEqual(needs, []Want{{Resource: "nvidia.com/gpu", Count: tc.needs}}) || tc.needs == 0 && needs != nil {
			t.Errorf("%s: %v %v %v, want %s", tc.name, text, needs, err, tc.want)
		}
	}
	no := errors.New("no")
	if got, err := Walk(Asks(asking("1"), func(string) bool { return true }), func(Ask, Want, []string) ([]string, error) { return nil, no }); err != no || got != nil {
		t.Error(got, err)
	}
}

// TestWalkOfShares: a share takes the place of one that an init container had.
func TestWalkOfShares(t *testing.T) {
	p := asking("init:1", "1", "1")
	for i, mib := range []string{"60000", "70000", "9000"} {
		c := &p.Spec.Containers[max(i-1, 0)]
		if i == 0 {
			c = &p.Spec.InitContainers[0]
		}
		c.Resources.Limits[share.Memory] = resource.MustParse(mib)
	}
	m := box(80)
	units := without(m, "")
	asks := Asks(p, func(string) bool { return true })
	var held []string
	got, err := Walk(Asks(p, func(name string) bool { return strings.HasPrefix(name, share.Prefix) }), func(_ Ask, w Want, spare []string) ([]string, error) {
		ids, err := ChooseShares(m, ShareRequest{Want: w.Share, Free: units, All: units, Held: held, Spare: spare})
		if err == nil {
			err = CheckShares(ShareRequest{Want: w.Share, Free: units, Held: held, Spare: spare}, ids)
		}
		held = append(held, ids...)
		return ids, err
	})
	want := Given{"c0": {share.GPU: {"A::share-0.60000m.0c"}}, "c1": {share.GPU: {"A::share-0.70000m.0c"}}, "c2": {share.GPU: {"A::share-1.9000m.0c"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Error(got, err)
	}
	if used := Used(held)["A"]; used.MemoryMiB != 79000 {
		t.Error(used)
	}
	if n := Needs(asks); len(n) != 1 || n[0].Resource != "cpu" {
		t.Errorf("shares are counted as cards: %v", n)
	}
}

// TestCheckShares: what the scheduler chose is not taken on its word.
func TestCheckShares(t *testing.T) {
	units := without(box(80, 80), "")
	held := []string{"A::share-0.60000m.80c"}
	for id, says := range map[string]string{
		"A::share-1.10000m.10c": "",
		"B::share-0.10000m.10c": "",
		"A::share-0.10000m.10c": "A::share-0.10000m.10c is in use",
		"A::share-1.20000m.10c": "is not the share that is wanted, 10000 MiB and 10 % of the multiprocessors",
		"A::share-1.10000m.0c":  "is not the share that is wanted",
		"A":                     "is not the share that is wanted",
		"X::share-1.10000m.10c": "X cannot be given in parts now",
		"A::share-1.10000m.10c B::share-0.10000m.10c": "2 shares are chosen where 1 are wanted",
	} {
		err := CheckShares(ShareRequest{Want: share.Request{Cards: 1, MemoryMiB: 10000, CorePercent: 10}, Free: units, Held: held}, strings.Fields(id))
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", id, err)
		}
	}
	twice := []string{"B::share-0.10000m.0c", "B::share-1.10000m.0c"}
	if err := CheckShares(ShareRequest{Want: share.Request{Cards: 2, MemoryMiB: 10000}, Free: units}, twice); err == nil {
		t.Error("two parts of one card are two cards")
	}
	if err := CheckShares(ShareRequest{Want: share.Request{Cards: 1, MemoryMiB: 30000}, Free: units, Held: held}, []string{"A::share-1.30000m.0c"}); err == nil || !strings.Contains(err.Error(), "there is no room for 30000 MiB on A") {
		t.Error(err)
	}
}
