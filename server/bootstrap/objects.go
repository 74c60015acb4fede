package bootstrap

import (
	"fmt"
	"net/netip"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	node "k8s.io/api/node/v1"
	scheduling "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orch/api"
)

const (
	authenticationConfigMap = "extension-apiserver-authentication"
	clusterInfoConfigMap    = "cluster-info"
)

func namespaces() []*core.Namespace {
	var out []*core.Namespace
	for _, n := range []string{api.NamespaceDefault, api.NamespaceSystem, api.NamespacePublic, api.NamespaceNodeLease} {
		out = append(out, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}})
	}
	return out
}

func priorityClasses() []*scheduling.PriorityClass {
	class := func(name string, value int32, what string) *scheduling.PriorityClass {
		return &scheduling.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, PreemptionPolicy: new(core.PreemptLowerPriority),
			Description: "Used for system critical pods that must " + what,
		}
	}
	return []*scheduling.PriorityClass{
		class("system-cluster-critical", 2000000000, "run in the cluster, but can be moved to another node if necessary."),
		class("system-node-critical", 2000001000, "not be moved from their current node."),
	}
}

// runtimeClasses are those that charts for NVIDIA's stack name. A node gives GPUs to
// containers by their requests, under any class.
func runtimeClasses() []*node.RuntimeClass {
	var out []*node.RuntimeClass
	for _, n := range []string{"nvidia", "nvidia-cdi", "nvidia-legacy"} {
		out = append(out, &node.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: n}, Handler: n})
	}
	return out
}

// kubernetesService is how pods find the API.
func (c Config) kubernetesService() *core.Service {
	return &core.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: api.NamespaceDefault, Name: api.KubernetesService,
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: core.ServiceSpec{
			Type: core.ServiceTypeClusterIP, ClusterIP: c.ServiceIP.String(), ClusterIPs: []string{c.ServiceIP.String()},
			IPFamilies: []core.IPFamily{family(c.ServiceIP)}, IPFamilyPolicy: new(core.IPFamilyPolicySingleStack),
			SessionAffinity: core.ServiceAffinityNone,
			Ports:           []core.ServicePort{{Name: "https", Protocol: core.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(c.Port)}},
		},
	}
}

func (c Config) dnsService() *core.Service {
	return &core.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: api.NamespaceSystem, Name: "kube-dns",
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "orch-dns"},
		},
		Spec: core.ServiceSpec{
			Type: core.ServiceTypeClusterIP, ClusterIP: c.DNS.String(), ClusterIPs: []string{c.DNS.String()},
			IPFamilies: []core.IPFamily{family(c.DNS)}, IPFamilyPolicy: new(core.IPFamilyPolicySingleStack),
			SessionAffinity: core.ServiceAffinityNone,
			Ports: []core.ServicePort{
				{Name: "dns", Protocol: core.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Protocol: core.ProtocolTCP, Port: 53, TargetPort: intstr.FromInt32(53)},
			},
		},
	}
}

func family(ip netip.Addr) core.IPFamily {
	if ip.Is6() && !ip.Is4In6() {
		return core.IPv6Protocol
	}
	return core.IPv4Protocol
}

func (c Config) endpoints() *core.Endpoints {
	return &core.Endpoints{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: api.NamespaceDefault, Name: api.KubernetesService,
			Labels: map[string]string{discovery.LabelSkipMirror: "true"},
		},
		Subsets: []core.EndpointSubset{{
			Addresses: []core.EndpointAddress{{IP: c.Address.String()}},
			Ports:     []core.EndpointPort{{Name: "https", Port: c.Port, Protocol: core.ProtocolTCP}},
		}},
	}
}

func (c Config) endpointSlice() *discovery.EndpointSlice {
	kind := discovery.AddressTypeIPv4
	if family(c.Address) == core.IPv6Protocol {
		kind = discovery.AddressTypeIPv6
	}
	return &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: api.NamespaceDefault, Name: api.KubernetesService,
			Labels: map[string]string{discovery.LabelServiceName: api.KubernetesService},
		},
		AddressType: kind,
		Endpoints:   []discovery.Endpoint{{Addresses: []string{c.Address.String()}, Conditions: discovery.EndpointConditions{Ready: new(true)}}},
		Ports:       []discovery.EndpointPort{{Name: new("https"), Port: new(c.Port), Protocol: new(core.ProtocolTCP)}},
	}
}

// configMaps tell extension servers whom to trust, and joiners where the API is.
func (c Config) configMaps() []*core.ConfigMap {
	return []*core.ConfigMap{
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: api.NamespaceSystem, Name: authenticationConfigMap},
			Data:       c.authentication(),
		},
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: api.NamespacePublic, Name: clusterInfoConfigMap},
			Data:       map[string]string{"kubeconfig": clusterInfo(c.ServerCA, c.Address, c.Port)},
		},
	}
}

// authentication says whom the API server trusts: clients by their certificates, and
// front proxies, which say whom a request is from.
func (c Config) authentication() map[string]string {
	data := map[string]string{"client-ca-file": string(c.ClientCA)}
	if len(c.FrontProxyCA) == 0 {
		return data
	}
	data["requestheader-client-ca-file"] = string(c.FrontProxyCA)
	data["requestheader-allowed-names"] = fmt.Sprintf("[%q]", c.FrontProxy)
	data["requestheader-username-headers"] = `["X-Remote-User"]`
	data["requestheader-uid-headers"] = `["X-Remote-Uid"]`
	data["requestheader-group-headers"] = `["X-Remote-Group"]`
	data["requestheader-extra-headers-prefix"] = `["X-Remote-Extra-"]`
	return data
}

func clusterInfo(ca []byte, at netip.Addr, port int32) string {
	return fmt.Sprintf("apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: %s\n    server: https://%s\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {}\nusers: null\n",
		base64Text(ca), netip.AddrPortFrom(at, uint16(port)))
}

func (c Config) serviceCIDR() *networking.ServiceCIDR {
	return &networking.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networking.ServiceCIDRSpec{CIDRs: []string{c.ServiceCIDR.String()}},
	}
}
