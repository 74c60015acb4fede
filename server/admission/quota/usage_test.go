package quota

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/api"
)

func print(l core.ResourceList) map[string]string {
	out := map[string]string{}
	for k, v := range l {
		out[string(k)] = v.String()
	}
	return out
}

func TestUsage(t *testing.T) {
	gib := core.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi"), "nvidia.com/gpu": resource.MustParse("2")}
	running := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Resources: core.ResourceRequirements{Requests: gib, Limits: gib}}}}}
	done := running.DeepCopy()
	done.Status.Phase = core.PodSucceeded
	for _, tc := range []struct {
		name string
		kind *api.Facts
		o    api.Object
		want map[string]string
	}{
		{"pod", api.Pods.Facts, running, map[string]string{
			"pods": "1", "count/pods": "1", "cpu": "1", "memory": "1Gi", "requests.cpu": "1", "requests.memory": "1Gi", "limits.cpu": "1", "limits.memory": "1Gi",
			"requests.nvidia.com/gpu": "2", "limits.nvidia.com/gpu": "2"}},
		{"pod that has ended", api.Pods.Facts, done, map[string]string{"count/pods": "1"}},
		{"node port service", api.Services.Facts, &core.Service{Spec: core.ServiceSpec{Type: core.ServiceTypeNodePort, Ports: make([]core.ServicePort, 2)}},
			map[string]string{"services": "1", "count/services": "1", "services.nodeports": "2"}},
		{"load balancer without node ports", api.Services.Facts, &core.Service{Spec: core.ServiceSpec{Type: core.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: new(false), Ports: make([]core.ServicePort, 2)}},
			map[string]string{"services": "1", "count/services": "1", "services.loadbalancers": "1"}},
		{"claim", api.PersistentVolumeClaims.Facts, &core.PersistentVolumeClaim{Spec: core.PersistentVolumeClaimSpec{StorageClassName: new("fast"),
			Resources: core.VolumeResourceRequirements{Requests: core.ResourceList{"storage": resource.MustParse("5Gi")}}}},
			map[string]string{"persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1", "requests.storage": "5Gi",
				"fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1", "fast.storageclass.storage.k8s.io/requests.storage": "5Gi"}},
		{"anything", api.Deployments.Facts, api.Deployments.New(), map[string]string{"count/deployments.apps": "1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, print(Usage(tc.kind, tc.o, time.Unix(0, 0)))); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestScopes(t *testing.T) {
	best := &core.Pod{Spec: core.PodSpec{PriorityClassName: "high", ActiveDeadlineSeconds: new(int64(5)), Containers: []core.Container{{}}}}
	for _, tc := range []struct {
		name string
		spec core.ResourceQuotaSpec
		want bool
	}{
		{"none", core.ResourceQuotaSpec{}, true},
		{"terminating", core.ResourceQuotaSpec{Scopes: []core.ResourceQuotaScope{core.ResourceQuotaScopeTerminating}}, true},
		{"not terminating", core.ResourceQuotaSpec{Scopes: []core.ResourceQuotaScope{core.ResourceQuotaScopeNotTerminating}}, false},
		{"best effort", core.ResourceQuotaSpec{Scopes: []core.ResourceQuotaScope{core.ResourceQuotaScopeBestEffort}}, true},
		{"one of two", core.ResourceQuotaSpec{Scopes: []core.ResourceQuotaScope{core.ResourceQuotaScopeBestEffort, core.ResourceQuotaScopeNotTerminating}}, false},
		{"priority in", core.ResourceQuotaSpec{ScopeSelector: &core.ScopeSelector{MatchExpressions: []core.ScopedResourceSelectorRequirement{{ScopeName: core.ResourceQuotaScopePriorityClass, Operator: core.ScopeSelectorOpIn, Values: []string{"high"}}}}}, true},
		{"priority not in", core.ResourceQuotaSpec{ScopeSelector: &core.ScopeSelector{MatchExpressions: []core.ScopedResourceSelectorRequirement{{ScopeName: core.ResourceQuotaScopePriorityClass, Operator: core.ScopeSelectorOpNotIn, Values: []string{"high"}}}}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Matches(&core.ResourceQuota{Spec: tc.spec}, best); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
