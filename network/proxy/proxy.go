// Package proxy decides, from Services and EndpointSlices, what the packet
// filter of one node shall be: ClusterIPs, node ports, external and load
// balancer addresses, host ports of pods, and masquerading of what leaves the
// pod network. Everything up to the Ruleset value is pure; the chains have the
// names and shapes of upstream's kube-proxy in iptables mode, because people
// and their tools know them. It refuses to touch the kernel: package iptables
// writes, package health answers load balancers.
//
// Start reading at Compute (all at once) and Tracker (change by change); both
// make one part per Service (part.go) and compose the parts (compose.go).
//
//	KUBE-SERVICES ─┬─ cluster IP ────────────────► KUBE-SVC / KUBE-SVL ─► KUBE-SEP ─► DNAT
//	               ├─ external, load balancer IP ► [KUBE-FW ►] KUBE-EXT ─► KUBE-SVC / KUBE-SVL
//	               └─ address of the node ───────► KUBE-NODEPORTS ─► KUBE-EXT
package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"strings"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"orch/network/rules"
)

// Config is what a node knows about itself and its cluster.
type Config struct {
	NodeName string
	Zone     string // topology.kubernetes.io/zone of the node, or empty
	NodeIPs  []netip.Addr
	// ClusterCIDR holds all pods, PodCIDR those of this node, ServiceCIDR the cluster IPs.
	ClusterCIDR, PodCIDR, ServiceCIDR netip.Prefix
	// SkipIPs are cluster IPs that somebody else answers (the node's own DNS server).
	SkipIPs []netip.Addr
}

// Input is everything that Compute looks at.
type Input struct {
	Config Config
	// Services, and their slices, in any order.
	Services []*core.Service
	Slices   []*discovery.EndpointSlice
	Pods     map[string]*rules.Pod
}

// masqueradeBit marks packets that KUBE-POSTROUTING masquerades (upstream's default, bit 14).
const masqueradeBit = 0x4000

// Chains of upstream.
const (
	chainServices    = "KUBE-SERVICES"
	chainExternal    = "KUBE-EXTERNAL-SERVICES"
	chainNodePorts   = "KUBE-NODEPORTS"
	chainPostrouting = "KUBE-POSTROUTING"
	chainMarkMasq    = "KUBE-MARK-MASQ"
	chainForward     = "KUBE-FORWARD"
	chainProxyFW     = "KUBE-PROXY-FIREWALL"
	chainFirewall    = "KUBE-FIREWALL"
)

// Chains of orch.
const (
	chainHostPorts  = "KUBE-HOSTPORTS"
	chainEgress     = "ORCH-POSTRTG"
	chainPodForward = "ORCH-FORWARD"
)

// Prefixes of the chains that come and go.
const (
	prefixCluster  = "KUBE-SVC-"
	prefixLocal    = "KUBE-SVL-"
	prefixExternal = "KUBE-EXT-"
	prefixFirewall = "KUBE-FW-"
	prefixEndpoint = "KUBE-SEP-"
	prefixHostPort = "KUBE-HP-"
)

// chainName is upstream's: prefix and 16 characters of a hash, 25 in all, which
// fits the kernel's limit of 28.
func chainName(prefix string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "")))
	return prefix + base32.StdEncoding.EncodeToString(sum[:])[:16]
}

// Compute makes the ruleset of one moment.
func Compute(in Input) *rules.Ruleset {
	t := NewTracker(in.Config)
	for _, s := range in.Services {
		t.OnService(nil, s)
	}
	for _, s := range in.Slices {
		t.OnEndpointSlice(nil, s)
	}
	for id, p := range in.Pods {
		t.SetPod(id, p)
	}
	return t.Compute().Rules
}

// Passing lists how the names of chains begin that come and go with Services
// and pods. A writer removes those that an earlier run left.
func Passing() []string {
	return []string{prefixCluster, prefixLocal, prefixExternal, prefixFirewall, prefixEndpoint, prefixHostPort}
}
