package limits

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(pairs ...string) core.ResourceList {
	l := core.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[core.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func pod(requests, limits core.ResourceList) *core.Pod {
	return &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Resources: core.ResourceRequirements{Requests: requests, Limits: limits}}}}}
}

func TestCheckPod(t *testing.T) {
	for _, tc := range []struct {
		name string
		item core.LimitRangeItem
		pod  *core.Pod
		says string
	}{
		{"inside", core.LimitRangeItem{Type: "Container", Max: list("cpu", "2"), Min: list("cpu", "100m")}, pod(list("cpu", "1"), list("cpu", "1")), ""},
		{"below, request", core.LimitRangeItem{Type: "Container", Min: list("cpu", "100m")}, pod(list("cpu", "50m"), nil), "minimum cpu usage per Container is 100m, but request is 50m"},
		{"below, nothing said", core.LimitRangeItem{Type: "Container", Min: list("cpu", "100m")}, pod(nil, nil), "minimum cpu usage per Container is 100m.  No request is specified"},
		{"above", core.LimitRangeItem{Type: "Container", Max: list("cpu", "1")}, pod(nil, list("cpu", "2")), "maximum cpu usage per Container is 1, but limit is 2"},
		{"above, nothing said", core.LimitRangeItem{Type: "Container", Max: list("cpu", "1")}, pod(nil, nil), "maximum cpu usage per Container is 1.  No limit is specified"},
		{"pod as a whole", core.LimitRangeItem{Type: "Pod", Max: list("cpu", "1")}, pod(list("cpu", "2"), list("cpu", "2")), "maximum cpu usage per Pod is 1, but limit is 2"},
		{"ratio", core.LimitRangeItem{Type: "Container", MaxLimitRequestRatio: list("cpu", "2")}, pod(list("cpu", "1"), list("cpu", "3")), "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := CheckPod(tc.pod, &core.LimitRange{Spec: core.LimitRangeSpec{Limits: []core.LimitRangeItem{tc.item}}})
			if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDefault(t *testing.T) {
	p := pod(list("cpu", "1"), nil)
	r := &core.LimitRange{Spec: core.LimitRangeSpec{Limits: []core.LimitRangeItem{{Type: "Container", Default: list("memory", "1Gi"), DefaultRequest: list("cpu", "2", "memory", "64Mi")}}}}
	Default(p, r)
	c := p.Spec.Containers[0].Resources
	if q := c.Requests["cpu"]; q.String() != "1" {
		t.Error("what the pod says was overwritten")
	}
	if q, m := c.Requests["memory"], c.Limits["memory"]; q.String() != "64Mi" || m.String() != "1Gi" {
		t.Errorf("%v", c)
	}
	if got := p.Annotations["kubernetes.io/limit-ranger"]; got != "LimitRanger plugin set: memory request for container c; memory limit for container c" {
		t.Error(got)
	}
}
