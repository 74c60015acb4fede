package rule

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestDiff(t *testing.T) {
	was := core.PodSpec{NodeName: "a", Containers: []core.Container{{Name: "c", Image: "one",
		Resources: core.ResourceRequirements{Limits: core.ResourceList{"cpu": resource.MustParse("1")}}}}}
	is := was.DeepCopy()
	if d := Diff(was, *is); d != "" {
		t.Errorf("equal values differ: %s", d)
	}
	is.NodeName = "b"
	is.Containers[0].Image = "two"
	is.Containers[0].Resources.Limits["cpu"] = resource.MustParse("2")
	is.Containers[0].SecurityContext = &core.SecurityContext{Privileged: new(true)}
	is.Containers = append(is.Containers, core.Container{Name: "d"})
	is.NodeSelector = map[string]string{"disk": "ssd"}
	want := `  containers[0].image:
- 	"one"
+ 	"two"
  containers[0].resources.limits[cpu]:
- 	"1"
+ 	"2"
  containers[0].securityContext:
- 	null
+ 	{"privileged":true}
  containers[1]:
+ 	{"name":"d","resources":{}}
  nodeSelector[disk]:
+ 	"ssd"
  nodeName:
- 	"a"
+ 	"b"
`
	if d := cmp.Diff(want, Diff(was, *is)); d != "" {
		t.Error(d)
	}
}
