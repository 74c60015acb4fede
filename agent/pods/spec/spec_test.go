package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"orch/agent/host"
	"orch/runtime/engine"
)

// store holds what environments refer to.
type store struct {
	maps    map[string]map[string]string
	secrets map[string]map[string][]byte
}

func (s store) ConfigMap(_, name string) (*core.ConfigMap, error) {
	if d, ok := s.maps[name]; ok {
		return &core.ConfigMap{Data: d}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (s store) Secret(_, name string) (*core.Secret, error) {
	if d, ok := s.secrets[name]; ok {
		return &core.Secret{Data: d}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func input(t *testing.T, text string) Input {
	t.Helper()
	pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1", Labels: map[string]string{"app": "x"}}}
	if err := yaml.UnmarshalStrict([]byte(text), &pod.Spec); err != nil {
		t.Fatal(err)
	}
	return Input{
		Pod: pod, Container: &pod.Spec.Containers[0], PodIPs: []string{"10.42.0.2", "fd00::2"}, HostIPs: []string{"192.0.2.1"},
		Objects:     store{map[string]map[string]string{"c": {"K": "cv", "L": "lv"}}, map[string]map[string][]byte{"s": {"S": []byte("sv")}}},
		Allocatable: core.ResourceList{core.ResourceCPU: resource.MustParse("4"), core.ResourceMemory: resource.MustParse("8Gi")},
	}
}

func TestEnv(t *testing.T) {
	no := "{enableServiceLinks: false, containers: [{name: a, "
	for _, tt := range []struct {
		name, spec string
		want       []string
		err        string
	}{
		{"values and references", no + `env: [{name: A, value: "1"}, {name: B, value: "$(A)$$(A) $(NO) $x"}]}]}`, []string{"A=1", "B=1$(A) $(NO) $x"}, ""},
		{"envFrom with prefix, env wins", no + `envFrom: [{prefix: P_, configMapRef: {name: c}}, {secretRef: {name: s}}], env: [{name: P_K, value: mine}]}]}`, []string{"P_K=mine", "P_L=lv", "S=sv"}, ""},
		{"keys", no + `env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: K}}}, {name: B, valueFrom: {secretKeyRef: {name: s, key: S}}}]}]}`, []string{"A=cv", "B=sv"}, ""},
		{"missing map", no + `envFrom: [{configMapRef: {name: gone}}]}]}`, nil, `configmap "gone" not found`},
		{"missing secret", no + `env: [{name: A, valueFrom: {secretKeyRef: {name: gone, key: S}}}]}]}`, nil, `secret "gone" not found`},
		{"missing key", no + `env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: gone}}}]}]}`, nil, `couldn't find key gone in ConfigMap ns/c`},
		{"optional", no + `envFrom: [{configMapRef: {name: gone, optional: true}}], env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: gone, optional: true}}}]}]}`, nil, ""},
		{"fields", no + `env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}, {name: B, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}, {name: C, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]}]}`,
			[]string{"A=10.42.0.2,fd00::2", "B=x", "C=u1"}, ""},
		{"resources", no + `resources: {limits: {cpu: 250m}, requests: {memory: 64Mi}}, env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}, {name: B, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}, {name: C, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Gi}}}]}]}`,
			[]string{"A=1", "B=64", "C=8"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vars, err := Env(input(t, tt.spec))
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, vars.List(), cmp.Transformer("nil", func(s []string) []string { return append([]string{}, s...) })); d != "" && len(tt.want)+len(vars.List()) > 0 {
				t.Error(d)
			}
		})
	}
}

func TestServiceVariables(t *testing.T) {
	service := func(ns, name, ip string, ports ...core.ServicePort) *core.Service {
		return &core.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: core.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	in := input(t, "{containers: [{name: a}]}")
	in.Services = []*core.Service{
		service("default", "kubernetes", "10.43.0.1", core.ServicePort{Name: "https", Port: 443, Protocol: core.ProtocolTCP}),
		service("ns", "my-db", "10.43.0.5", core.ServicePort{Port: 5432, Protocol: core.ProtocolTCP}),
		service("ns", "headless", core.ClusterIPNone, core.ServicePort{Port: 1}),
	}
	vars, err := Env(in)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.43.0.1:443",
		"MY_DB_SERVICE_HOST": "10.43.0.5", "MY_DB_PORT_5432_TCP_ADDR": "10.43.0.5", "MY_DB_PORT_5432_TCP": "tcp://10.43.0.5:5432", "MY_DB_PORT_5432_TCP_PROTO": "tcp",
	} {
		if got, _ := vars.Lookup(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if _, ok := vars.Lookup("HEADLESS_SERVICE_HOST"); ok {
		t.Error("a headless service has variables")
	}
	in.Pod.Spec.EnableServiceLinks = new(false)
	if vars, err = Env(in); err != nil {
		t.Fatal(err)
	}
	if _, ok := vars.Lookup("MY_DB_SERVICE_HOST"); ok || len(vars.List()) == 0 {
		t.Error("without links only the cluster's own service is named")
	}
}

func TestSecurity(t *testing.T) {
	root, user := engine.Image{UID: new(int64(0))}, engine.Image{UID: new(int64(5))}
	for _, tt := range []struct {
		name, spec string
		image      engine.Image
		want       engine.Security
		user       engine.User
		err        string
	}{
		{"nothing", `{containers: [{name: a}]}`, root, engine.Security{Seccomp: "Unconfined"}, engine.User{}, ""},
		{"container wins", `{securityContext: {runAsUser: 1, runAsGroup: 2, fsGroup: 3, supplementalGroups: [4], seccompProfile: {type: RuntimeDefault}}, containers: [{name: a, securityContext: {runAsUser: 9, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {add: [CAP_NET_ADMIN], drop: [ALL]}}}]}`, root,
			engine.Security{NoNewPrivileges: true, ReadOnlyRoot: true, AddCaps: []string{"NET_ADMIN"}, DropCaps: []string{"ALL"}, Seccomp: "RuntimeDefault"},
			engine.User{UID: new(int64(9)), GID: new(int64(2)), Groups: []int64{4, 3}}, ""},
		{"privileged", `{securityContext: {seccompProfile: {type: RuntimeDefault}}, containers: [{name: a, securityContext: {privileged: true}}]}`, root, engine.Security{Privileged: true, Seccomp: "Unconfined"}, engine.User{}, ""},
		{"local seccomp", `{containers: [{name: a, securityContext: {seccompProfile: {type: Localhost, localhostProfile: x/y.json}}}]}`, root, engine.Security{Seccomp: "/sec/x/y.json"}, engine.User{}, ""},
		{"non-root image", `{securityContext: {runAsNonRoot: true}, containers: [{name: a}]}`, user, engine.Security{Seccomp: "Unconfined"}, engine.User{}, ""},
		{"root image", `{securityContext: {runAsNonRoot: true}, containers: [{name: a}]}`, root, engine.Security{}, engine.User{}, "container has runAsNonRoot and image will run as root (pod: \"p_ns(u1)\", container: a)"},
		{"named user", `{securityContext: {runAsNonRoot: true}, containers: [{name: a}]}`, engine.Image{Username: "web"}, engine.Security{}, engine.User{}, "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: \"p_ns(u1)\", container: a)"},
		{"root asked for", `{securityContext: {runAsNonRoot: true}, containers: [{name: a, securityContext: {runAsUser: 0}}]}`, user, engine.Security{}, engine.User{}, "container's runAsUser breaks non-root policy (pod: \"p_ns(u1)\", container: a)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t, tt.spec)
			in.Image, in.SeccompDir = tt.image, "/sec"
			got, u, err := security(in)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got) + cmp.Diff(tt.user, u); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestResources(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		want       engine.Resources
	}{
		{"besteffort", `{containers: [{name: a}]}`, engine.Resources{CPUShares: 2, OOMScoreAdj: new(1000)}},
		{"burstable", `{containers: [{name: a, resources: {requests: {cpu: 500m, memory: 2Gi}, limits: {memory: 4Gi}}}]}`, engine.Resources{CPUShares: 512, MemoryBytes: 4 << 30, OOMScoreAdj: new(750)}},
		{"guaranteed, floor", `{containers: [{name: a, resources: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 1, memory: 1Gi, hugepages-2Mi: 4Mi}}}]}`,
			engine.Resources{CPUShares: 1024, CPUQuotaUs: 100000, CPUPeriodUs: 100000, MemoryBytes: 1 << 30, OOMScoreAdj: new(-5), Hugepages: map[string]uint64{"2MB": 4 << 20}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t, tt.spec)
			in.MemoryCapacity, in.OOMFloor = 8<<30, -5
			if d := cmp.Diff(tt.want, resources(in)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestResolver(t *testing.T) {
	d := DNS{Servers: []string{"10.43.0.10"}, Domain: "cluster.local", Host: Resolver{[]string{"9.9.9.9"}, []string{"lan"}, []string{"rotate"}}}
	cluster := "search ns.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\noptions ndots:5\n"
	hosts := "search lan\nnameserver 9.9.9.9\noptions rotate\n"
	for _, tt := range []struct{ name, spec, want string }{
		{"cluster first", `{dnsPolicy: ClusterFirst, containers: [{name: a}]}`, cluster},
		{"host network", `{dnsPolicy: ClusterFirst, hostNetwork: true, containers: [{name: a}]}`, hosts},
		{"host network with cluster", `{dnsPolicy: ClusterFirstWithHostNet, hostNetwork: true, containers: [{name: a}]}`, cluster},
		{"default", `{dnsPolicy: Default, containers: [{name: a}]}`, hosts},
		{"none", `{dnsPolicy: None, dnsConfig: {nameservers: [1.1.1.1], searches: [x.y], options: [{name: ndots, value: "2"}, {name: edns0}]}, containers: [{name: a}]}`, "search x.y\nnameserver 1.1.1.1\noptions ndots:2 edns0\n"},
		{"config adds", `{dnsPolicy: ClusterFirst, dnsConfig: {nameservers: [1.1.1.1, 2.2.2.2, 3.3.3.3], options: [{name: ndots, value: "1"}]}, containers: [{name: a}]}`,
			"search ns.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\nnameserver 1.1.1.1\nnameserver 2.2.2.2\noptions ndots:1\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ResolverFor(input(t, tt.spec).Pod, d).String()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if diff := cmp.Diff(d.Host, ParseResolver("# c\nsearch lan\nnameserver 9.9.9.9\noptions rotate\n")); diff != "" {
		t.Error(diff)
	}
}

func TestHostname(t *testing.T) {
	for _, tt := range []struct{ name, spec, uts, hosts string }{
		{"name", `{containers: [{name: a}]}`, "p", "10.0.0.1\tp\n"},
		{"hostname", `{hostname: h, containers: [{name: a}]}`, "h", "10.0.0.1\th\n"},
		{"subdomain", `{hostname: h, subdomain: s, containers: [{name: a}]}`, "h", "10.0.0.1\th.s.ns.svc.cluster.local\th\n"},
		{"fqdn", `{hostname: h, subdomain: s, setHostnameAsFQDN: true, containers: [{name: a}]}`, "h.s.ns.svc.cluster.local", "h.s.ns.svc.cluster.local\th\n"},
		{"aliases", `{hostAliases: [{ip: 1.2.3.4, hostnames: [x, z]}], containers: [{name: a}]}`, "p", "1.2.3.4\tx\tz\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := input(t, tt.spec).Pod
			if got := UTSName(pod, "cluster.local"); got != tt.uts {
				t.Errorf("uts: got %s, want %s", got, tt.uts)
			}
			if got := HostsFile(pod, []string{"10.0.0.1"}, "cluster.local", ""); !strings.Contains(got, tt.hosts) {
				t.Errorf("no %q in %q", tt.hosts, got)
			}
		})
	}
}

func TestBuild(t *testing.T) {
	in := input(t, `
shareProcessNamespace: false
terminationGracePeriodSeconds: 5
securityContext: {sysctls: [{name: net/core/somaxconn, value: "1"}]}
containers:
- name: a
  image: x
  command: ["$(A)"]
  args: ["b", "$$(A)"]
  env: [{name: A, value: run}]
  lifecycle: {stopSignal: SIGUSR1}
  volumeMounts:
  - {name: v, mountPath: data, readOnly: true, mountPropagation: HostToContainer}
  - {name: v, mountPath: /etc/hosts, subPath: h}
  volumeDevices: [{name: v, devicePath: /dev/x}]
volumes: [{name: v, emptyDir: {}}]`)
	in.ID, in.Image, in.CgroupPath = "id", engine.Image{ID: "sha256:1"}, "/kubepods/podu1"
	in.Volumes = map[string]host.Mounted{"v": {Path: "/vol/v", Options: []string{"noexec"}}}
	in.SubPaths = map[int]string{1: "/vol/v/h"}
	in.Files = []engine.Mount{{Source: "/f/hosts", Target: "/etc/hosts"}, {Source: "/f/resolv", Target: "/etc/resolv.conf"}}
	in.Sandbox = host.Sandbox{NetNS: "/ns/net", Hostname: "p"}
	got, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	want := engine.Spec{
		ID: "id", Pod: "u1", Image: "sha256:1", Command: []string{"run"}, Args: []string{"b", "$(A)"}, Env: []string{"A=run"}, Hostname: "p", StopSignal: "SIGUSR1",
		Labels: map[string]string{LabelPodName: "p", LabelPodNamespace: "ns", LabelPodUID: "u1", LabelContainer: "a", LabelAttempt: "0", LabelHash: got.Labels[LabelHash],
			LabelGrace: "5", LabelMessagePath: "/dev/termination-log", LabelKind: "container"},
		Security: engine.Security{Seccomp: "Unconfined"},
		Mounts: []engine.Mount{
			{Type: "bind", Source: "/vol/v", Target: "/data", ReadOnly: true, Propagation: "rslave", Options: []string{"noexec"}},
			{Type: "bind", Source: "/vol/v/h", Target: "/etc/hosts", Options: []string{"noexec"}},
			{Source: "/f/resolv", Target: "/etc/resolv.conf"},
		},
		Devices:    []engine.Device{{Host: "/vol/v", Target: "/dev/x", Permissions: "mrw"}},
		Sysctls:    map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647", "net.core.somaxconn": "1"},
		Namespaces: engine.Namespaces{Network: "/ns/net", IPC: "host", UTS: "host"},
		CgroupPath: "/kubepods/podu1/id", Resources: engine.Resources{CPUShares: 2, OOMScoreAdj: new(1000)},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
