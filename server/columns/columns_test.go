package columns

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	flowcontrol "k8s.io/api/flowcontrol/v1"
	resource "k8s.io/api/resource/v1"
	migration "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

func cells[T any](c []Column[T], o *T) []any {
	var out []any
	for _, c := range c {
		out = append(out, c.Cell(o, now))
	}
	return out
}

func running(name string, ready bool, restarts int32) core.ContainerStatus {
	return core.ContainerStatus{Name: name, Ready: ready, Started: new(true), RestartCount: restarts, State: core.ContainerState{Running: &core.ContainerStateRunning{}}}
}

func waiting(name, reason string, restarts int32, last time.Duration) core.ContainerStatus {
	return core.ContainerStatus{Name: name, RestartCount: restarts, State: core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: reason}},
		LastTerminationState: core.ContainerState{Terminated: &core.ContainerStateTerminated{FinishedAt: ago(last)}}}
}

func ended(name string, code int32, reason string) core.ContainerStatus {
	return core.ContainerStatus{Name: name, State: core.ContainerState{Terminated: &core.ContainerStateTerminated{ExitCode: code, Reason: reason}}}
}

func TestPodCells(t *testing.T) {
	sidecar := core.Container{Name: "side", RestartPolicy: new(core.ContainerRestartPolicyAlways)}
	two := core.PodSpec{InitContainers: []core.Container{{Name: "init"}}, Containers: []core.Container{{Name: "a"}, {Name: "b"}}}
	for _, c := range []struct {
		name   string
		spec   core.PodSpec
		status core.PodStatus
		gone   bool
		want   []any // ready, status, restarts
	}{
		{"pending", two, core.PodStatus{Phase: core.PodPending}, false, []any{"0/2", "Pending", "0"}},
		{"gated", two, core.PodStatus{Phase: core.PodPending, Conditions: []core.PodCondition{{Type: core.PodScheduled, Status: core.ConditionFalse, Reason: "SchedulingGated"}}}, false, []any{"0/2", "SchedulingGated", "0"}},
		{"initializing", two, core.PodStatus{Phase: core.PodPending, InitContainerStatuses: []core.ContainerStatus{running("init", false, 0)}}, false, []any{"0/2", "Init:0/1", "0"}},
		{"init failed", two, core.PodStatus{Phase: core.PodPending, InitContainerStatuses: []core.ContainerStatus{ended("init", 3, "Error")}}, false, []any{"0/2", "Init:Error", "0"}},
		{"init exit code", two, core.PodStatus{Phase: core.PodPending, InitContainerStatuses: []core.ContainerStatus{ended("init", 3, "")}}, false, []any{"0/2", "Init:ExitCode:3", "0"}},
		{"running", two, core.PodStatus{Phase: core.PodRunning, InitContainerStatuses: []core.ContainerStatus{ended("init", 0, "Completed")}, ContainerStatuses: []core.ContainerStatus{running("a", true, 0), running("b", true, 0)}}, false, []any{"2/2", "Running", "0"}},
		{"crashing", two, core.PodStatus{Phase: core.PodRunning, InitContainerStatuses: []core.ContainerStatus{ended("init", 0, "")}, ContainerStatuses: []core.ContainerStatus{waiting("a", "CrashLoopBackOff", 4, 5*time.Second), running("b", true, 1)}}, false, []any{"1/2", "CrashLoopBackOff", "5 (5s ago)"}},
		{"one done", two, core.PodStatus{Phase: core.PodRunning, ContainerStatuses: []core.ContainerStatus{ended("a", 0, "Completed"), running("b", true, 0)}}, false, []any{"1/2", "NotReady", "0"}},
		{"done", two, core.PodStatus{Phase: core.PodSucceeded, ContainerStatuses: []core.ContainerStatus{ended("a", 0, "Completed"), ended("b", 0, "Completed")}}, false, []any{"0/2", "Completed", "0"}},
		{"evicted", two, core.PodStatus{Phase: core.PodFailed, Reason: "Evicted"}, false, []any{"0/2", "Evicted", "0"}},
		{"terminating", two, core.PodStatus{Phase: core.PodRunning}, true, []any{"0/2", "Terminating", "0"}},
		{"lost", two, core.PodStatus{Phase: core.PodRunning, Reason: "NodeLost"}, true, []any{"0/2", "Unknown", "0"}},
		{"sidecar", core.PodSpec{InitContainers: []core.Container{sidecar}, Containers: []core.Container{{Name: "a"}}},
			core.PodStatus{Phase: core.PodRunning, InitContainerStatuses: []core.ContainerStatus{running("side", true, 2)}, ContainerStatuses: []core.ContainerStatus{running("a", true, 0)}}, false, []any{"2/2", "Running", "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: ago(90 * time.Second)}, Spec: c.spec, Status: c.status}
			if c.gone {
				o.DeletionTimestamp = new(ago(0))
			}
			got := cells(Pod(), o)
			if diff := cmp.Diff(append(append([]any{"p"}, c.want...), "90s", none, none, none, none), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestServiceExternalIP(t *testing.T) {
	for _, c := range []struct {
		name string
		o    core.Service
		want string
	}{
		{"none", core.Service{Spec: core.ServiceSpec{Type: core.ServiceTypeClusterIP}}, none},
		{"pending", core.Service{Spec: core.ServiceSpec{Type: core.ServiceTypeLoadBalancer}}, "<pending>"},
		{"balanced", core.Service{Spec: core.ServiceSpec{Type: core.ServiceTypeLoadBalancer, ExternalIPs: []string{"9.9.9.9"}},
			Status: core.ServiceStatus{LoadBalancer: core.LoadBalancerStatus{Ingress: []core.LoadBalancerIngress{{IP: "2.2.2.2"}, {IP: "1.1.1.1"}}}}}, "1.1.1.1,2.2.2.2,9.9.9.9"},
		{"name", core.Service{Spec: core.ServiceSpec{Type: core.ServiceTypeExternalName, ExternalName: "x.org"}}, "x.org"},
	} {
		if got := externalIP(&c.o); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	s := &core.Service{Spec: core.ServiceSpec{Ports: []core.ServicePort{{Port: 80, Protocol: "TCP", NodePort: 30080}, {Port: 53, Protocol: "UDP"}}}}
	if got := servicePorts(s); got != "80:30080/TCP,53/UDP" {
		t.Errorf("ports %q", got)
	}
}

func TestWorkloadCells(t *testing.T) {
	d := &apps.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: apps.DeploymentSpec{Replicas: new(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
		Template: core.PodTemplateSpec{Spec: core.PodSpec{Containers: []core.Container{{Name: "x", Image: "i:1"}, {Name: "y", Image: "i:2"}}}}},
		Status: apps.DeploymentStatus{ReadyReplicas: 1, UpdatedReplicas: 2, AvailableReplicas: 1}}
	if diff := cmp.Diff([]any{"d", "1/3", int64(2), int64(1), unknown, "x,y", "i:1,i:2", "a=b"}, cells(Deployment(), d)); diff != "" {
		t.Error(diff)
	}
	h := &autoscaling.HorizontalPodAutoscaler{Spec: autoscaling.HorizontalPodAutoscalerSpec{Metrics: []autoscaling.MetricSpec{
		{Type: autoscaling.ResourceMetricSourceType, Resource: &autoscaling.ResourceMetricSource{Name: "cpu", Target: autoscaling.MetricTarget{AverageUtilization: new(int32(80))}}}}}}
	if got := metricTargets(h); got != "cpu: <unknown>/80%" {
		t.Errorf("targets %q", got)
	}
}

// TestCellsOfQuietKinds: cells that upstream's printers of 1.37 had and ours had not.
func TestCellsOfQuietKinds(t *testing.T) {
	n := &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: core.NodeStatus{NodeInfo: core.NodeSystemInfo{KernelVersion: "6.1", Architecture: "arm64"}}}
	rule := &resource.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r", CreationTimestamp: ago(time.Hour)},
		Spec: resource.DeviceTaintRuleSpec{Taint: resource.DeviceTaint{Key: "k", Value: "v", Effect: resource.DeviceTaintEffectNoExecute, TimeAdded: new(ago(time.Minute))}}}
	move := &migration.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: migration.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "apps", Resource: "deployments"}},
		Status: migration.StorageVersionMigrationStatus{Conditions: []metav1.Condition{{Type: "Running", Status: metav1.ConditionFalse}, {Type: "Succeeded", Status: metav1.ConditionTrue}}}}
	exempt := &flowcontrol.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "e"}, Spec: flowcontrol.PriorityLevelConfigurationSpec{Type: "Exempt", Exempt: &flowcontrol.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: new(int32(0))}}}
	limited := &flowcontrol.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: flowcontrol.PriorityLevelConfigurationSpec{Type: "Limited", Limited: &flowcontrol.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: new(int32(5)),
		LimitResponse: flowcontrol.LimitResponse{Queuing: &flowcontrol.QueuingConfiguration{Queues: 64, HandSize: 6, QueueLengthLimit: 50}}}}}
	for name, c := range map[string]struct{ got, want []any }{
		"node":       {cells(Node(), n)[8:9], []any{"6.1 (arm64)"}},
		"taint rule": {cells(DeviceTaintRule(), rule), []any{"r", "k", "v", "NoExecute", "60s", "60m"}},
		"migration":  {cells(StorageVersionMigration(), move), []any{"m", "deployments.apps", "Succeeded"}},
		"exempt":     {cells(PriorityLevelConfiguration(), exempt), []any{"e", "Exempt", none, none, none, none, unknown}},
		"limited":    {cells(PriorityLevelConfiguration(), limited), []any{"l", "Limited", int64(5), int64(64), int64(6), int64(50), unknown}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Error(name, diff)
		}
	}
}

func TestFirstFew(t *testing.T) {
	o := &core.Endpoints{Subsets: []core.EndpointSubset{{Addresses: []core.EndpointAddress{{IP: "1.1.1.1"}, {IP: "1.1.1.2"}, {IP: "1.1.1.3"}, {IP: "::1"}}, Ports: []core.EndpointPort{{Port: 80}}}}}
	if got, want := cells(Endpoints(), o)[1], "1.1.1.1:80,1.1.1.2:80,1.1.1.3:80 + 1 more..."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
