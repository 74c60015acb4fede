package admit

import (
	"testing"

	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func pod(t *testing.T, text string) *core.Pod {
	p := &core.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), &p.Spec); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCheck(t *testing.T) {
	node := &core.Node{}
	node.Labels = map[string]string{"zone": "a"}
	if err := yaml.Unmarshal([]byte(`{allocatable: {cpu: "2", memory: 1Gi, pods: "3", nvidia.com/gpu: 1, nvidia.com/gpumem: 8000}}`), &node.Status); err != nil {
		t.Fatal(err)
	}
	running := []*core.Pod{pod(t, `{containers: [{name: a, ports: [{containerPort: 80, hostPort: 80}], resources: {requests: {cpu: 500m, memory: 512Mi}}}]}`)}
	part := []*core.Pod{pod(t, `{containers: [{name: a, resources: {limits: {nvidia.com/gpu: 1, nvidia.com/gpumem: 3000}, requests: {nvidia.com/gpu: 1, nvidia.com/gpumem: 3000}}}]}`)}
	two := append(running, &core.Pod{}, &core.Pod{})
	for _, tt := range []struct {
		name, pod       string
		running         []*core.Pod
		reason, message string
	}{
		{"fits", `{containers: [{name: a, resources: {requests: {cpu: "1500m"}}}]}`, running, "", ""},
		{"cpu", `{containers: [{name: a, resources: {requests: {cpu: "1600m"}}}]}`, running, "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000"},
		{"memory", `{containers: [{name: a, resources: {requests: {memory: 513Mi}}}]}`, running, "OutOfmemory", "Pod was rejected: Node didn't have enough resource: memory, requested: 537919488, used: 536870912, capacity: 1073741824"},
		{"unknown resource", `{containers: [{name: a, resources: {requests: {x.io/gpu: 1}}}]}`, running, "OutOfx.io/gpu", "Pod was rejected: Node didn't have enough resource: x.io/gpu, requested: 1, used: 0, capacity: 0"},
		{"a part of a card that another one has a part of", `{containers: [{name: a, resources: {limits: {nvidia.com/gpu: 1, nvidia.com/gpumem: 3000}, requests: {nvidia.com/gpu: 1, nvidia.com/gpumem: 3000}}}]}`, part, "", ""},
		{"more parts than the node has", `{containers: [{name: a, resources: {limits: {nvidia.com/gpu: 1, nvidia.com/gpumem: 6000}, requests: {nvidia.com/gpu: 1, nvidia.com/gpumem: 6000}}}]}`, part, "OutOfnvidia.com/gpumem", "Pod was rejected: Node didn't have enough resource: nvidia.com/gpumem, requested: 6000, used: 3000, capacity: 8000"},
		{"pods", `{containers: [{name: a}]}`, two, "OutOfpods", "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"},
		{"selector", `{nodeSelector: {zone: b}, containers: [{name: a}]}`, running, "NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"host port", `{containers: [{name: a, ports: [{containerPort: 1, hostPort: 80, hostIP: 10.0.0.1}]}]}`, running, "NodePorts", "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		// All of these were started, and some then failed for ever.
		{"safe parameter", `{securityContext: {sysctls: [{name: kernel/shm_rmid_forced, value: "1"}]}}`, running, "", ""},
		{"safe parameter of the host", `{hostIPC: true, securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: "1"}]}}`, running, "SysctlForbidden", `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host IPC enabled`},
		{"unsafe parameter", `{securityContext: {sysctls: [{name: kernel.sem, value: "1"}]}}`, running, "SysctlForbidden", `forbidden sysctl: "kernel.sem" not allowlisted`},
		{"allowed parameter", `{securityContext: {sysctls: [{name: kernel.msgmax, value: "1"}, {name: net.core.somaxconn, value: "1"}]}}`, running, "", ""},
		{"other system", `{os: {name: windows}}`, running, "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"},
		{"other protocol", `{containers: [{name: a, ports: [{containerPort: 1, hostPort: 80, protocol: UDP}]}]}`, running, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := Check(pod(t, tt.pod), node, tt.running, []string{"kernel.msg*", "net.core.somaxconn"})
			if v == nil {
				if tt.reason != "" {
					t.Fatal("admitted")
				}
				return
			}
			if v.Reason != tt.reason || v.Message != tt.message {
				t.Errorf("got %s: %s", v.Reason, v.Message)
			}
		})
	}
}

// Upstream's tests of extended resources by DRA: such pods were turned away by every node, as none offers the resource itself.
func TestExtendedResourceThatAClaimStandsFor(t *testing.T) {
	node := &core.Node{}
	if err := yaml.Unmarshal([]byte(`{allocatable: {cpu: "2", pods: "9", x.io/gpu: 0, y.io/gpu: 1}}`), &node.Status); err != nil {
		t.Fatal(err)
	}
	p := pod(t, `{containers: [{name: a, resources: {requests: {cpu: "1", x.io/gpu: 2, deviceclass.resource.kubernetes.io/c: 1}}}]}`)
	p.Status.ExtendedResourceClaimStatus = &core.PodExtendedResourceClaimStatus{ResourceClaimName: "made", RequestMappings: []core.ContainerExtendedResourceRequest{
		{ContainerName: "a", ResourceName: "x.io/gpu", RequestName: "container-0-request-0"},
		{ContainerName: "a", ResourceName: "deviceclass.resource.kubernetes.io/c", RequestName: "container-0-request-1"},
	}}
	if v := Check(p, node, nil, nil); v != nil {
		t.Error(v.Message)
	}
	other := pod(t, `{containers: [{name: a, resources: {requests: {y.io/gpu: 1}}}]}`)
	beside := other.DeepCopy()
	beside.Status.ExtendedResourceClaimStatus = &core.PodExtendedResourceClaimStatus{ResourceClaimName: "made", RequestMappings: []core.ContainerExtendedResourceRequest{
		{ContainerName: "a", ResourceName: "y.io/gpu", RequestName: "container-0-request-0"},
	}}
	if v := Check(other, node, []*core.Pod{beside}, nil); v != nil {
		t.Error("a pod with devices by a claim takes those that the node offers:", v.Message)
	}
	p.Status.ExtendedResourceClaimStatus.RequestMappings = p.Status.ExtendedResourceClaimStatus.RequestMappings[:1]
	if v := Check(p, node, nil, nil); v == nil || v.Reason != "OutOfdeviceclass.resource.kubernetes.io/c" {
		t.Errorf("a resource that neither node nor claim has: %v", v)
	}
}
