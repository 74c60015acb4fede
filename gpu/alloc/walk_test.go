package alloc

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
		if err != nil || strings.Join(text, " ") != tc.want || tc.needs > 0 && !reflect.DeepEqual(needs, []Want{{"nvidia.com/gpu", tc.needs}}) || tc.needs == 0 && needs != nil {
			t.Errorf("%s: %v %v %v, want %s", tc.name, text, needs, err, tc.want)
		}
	}
	no := errors.New("no")
	if got, err := Walk(Asks(asking("1"), func(string) bool { return true }), func(Ask, Want, []string) ([]string, error) { return nil, no }); err != no || got != nil {
		t.Error(got, err)
	}
}
