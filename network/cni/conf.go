package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/libcni"
	cnitypes "github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"orch/network/link"
	"orch/network/rules"
)

// NetworkName is the name of the built-in network.
const NetworkName = "orch"

// ownConfig is the configuration made from the node's pod range, as a user could
// write it.
func ownConfig(cfg Config) (*libcni.NetworkConfigList, error) {
	type m = map[string]any
	bridge := m{"type": "bridge", "bridge": cfg.Bridge, "isDefaultGateway": true, "hairpinMode": true,
		"ipam": m{"type": "host-local", "dataDir": cfg.IPAMDir, "ranges": [][]m{{{"subnet": cfg.PodCIDR.Masked().String()}}}}}
	if cfg.MTU > 0 {
		bridge["mtu"] = cfg.MTU
	}
	text, err := json.Marshal(m{"cniVersion": "1.0.0", "name": NetworkName, "plugins": []m{
		bridge,
		{"type": "portmap", "capabilities": m{"portMappings": true}},
		{"type": "bandwidth", "capabilities": m{"bandwidth": true}},
	}})
	if err != nil {
		return nil, fmt.Errorf("making the pod network's configuration: %w", err)
	}
	return libcni.NetworkConfFromBytes(text)
}

// current is the configuration for new pods: the first file of the directory by
// name, else our own.
func (n *Network) current() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(n.cfg.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", n.cfg.ConfDir, err)
	}
	slices.Sort(files)
	for _, file := range files {
		list, err := readConfFile(file)
		if err != nil {
			// Not skipped: pods on the wrong network are worse than pods that wait.
			return nil, fmt.Errorf("reading the network configuration %s: %w", file, err)
		}
		return list, nil
	}
	if n.own == nil {
		return nil, fmt.Errorf("no network configuration: the node has no pod range yet, and %s holds none", n.cfg.ConfDir)
	}
	return n.own, nil
}

// readConfFile reads a list, or a single plugin's configuration as a list of one.
func readConfFile(file string) (*libcni.NetworkConfigList, error) {
	if list, err := libcni.NetworkConfFromFile(file); err == nil && len(list.Plugins) > 0 {
		return list, nil
	}
	one, err := libcni.ConfFromFile(file)
	if err != nil {
		return nil, err
	}
	if one.Network.Type == "" {
		return nil, fmt.Errorf("it names no plugin type")
	}
	return libcni.ConfListFromConf(one)
}

// runtimeConf says to the plugins who the pod is.
func (n *Network) runtimeConf(p Pod) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: p.ID, NetNS: p.NetNS, IfName: ifName, CapabilityArgs: map[string]any{}, Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.Namespace}, {"K8S_POD_NAME", p.Name}, {"K8S_POD_INFRA_CONTAINER_ID", p.ID}, {"K8S_POD_UID", p.UID},
	}}
	if len(p.Ports) > 0 {
		rt.CapabilityArgs["portMappings"] = p.Ports
	}
	if p.IngressBits > 0 || p.EgressBits > 0 {
		rt.CapabilityArgs["bandwidth"] = bandwidthArgs(p.IngressBits, p.EgressBits)
	}
	if n.cfg.PodCIDR.IsValid() {
		rt.CapabilityArgs["ipRanges"] = [][]map[string]string{{{"subnet": n.cfg.PodCIDR.Masked().String()}}}
	}
	return rt
}

// maxBurst is what the ecosystem passes: as much as the plugin takes.
const maxBurst = 1<<31 - 1

func bandwidthArgs(ingress, egress int64) map[string]int64 {
	args := map[string]int64{}
	if ingress > 0 {
		args["ingressRate"], args["ingressBurst"] = ingress, maxBurst
	}
	if egress > 0 {
		args["egressRate"], args["egressBurst"] = egress, maxBurst
	}
	return args
}

// readResult takes what the pod's side of a result says.
func readResult(raw cnitypes.Result) (Result, error) {
	full, err := current.NewResultFromResult(raw)
	if err != nil {
		return Result{}, fmt.Errorf("reading the result of the network plugins: %w", err)
	}
	out := Result{Interface: ifName, Nameservers: full.DNS.Nameservers, Search: full.DNS.Search}
	for _, i := range full.Interfaces {
		if i.Name == ifName && i.Sandbox != "" {
			out.MAC = i.Mac
		}
	}
	for _, ip := range full.IPs {
		if ip.Interface != nil && *ip.Interface >= 0 && *ip.Interface < len(full.Interfaces) && full.Interfaces[*ip.Interface].Sandbox == "" {
			continue // an address of the node
		}
		if p, ok := link.Prefix(&ip.Address); ok {
			out.IPs = append(out.IPs, p.Addr())
		}
	}
	if len(out.IPs) == 0 {
		return Result{}, fmt.Errorf("reading the result of the network plugins: no address for the pod")
	}
	return out, nil
}

// podRules derives, from the configuration and the result, what the built-in
// plugins would have had to write themselves. Nil: nothing.
func podRules(list *libcni.NetworkConfigList, capabilities map[string]any, result Result) *rules.Pod {
	p := &rules.Pod{IPs: result.IPs}
	for _, plugin := range list.Plugins {
		switch plugin.Network.Type {
		case "portmap":
			if plugin.Network.Capabilities["portMappings"] {
				p.Ports = hostPorts(capabilities)
			}
		case "bridge":
			var conf bridgeConf
			if json.Unmarshal(plugin.Bytes, &conf) == nil && conf.IPMasq {
				p.Masquerade = conf.subnets()
			}
		}
	}
	if len(p.Ports) == 0 && p.Masquerade == nil {
		return nil
	}
	return p
}

// hostPorts reads port mappings, fresh ones and those from the disk alike.
func hostPorts(capabilities map[string]any) []rules.HostPort {
	text, err := json.Marshal(capabilities["portMappings"])
	if err != nil {
		return nil
	}
	var mappings []PortMapping
	if json.Unmarshal(text, &mappings) != nil {
		return nil
	}
	var out []rules.HostPort
	for _, m := range mappings {
		proto, ok := protocols[m.Protocol]
		if !ok || m.HostPort <= 0 || m.HostPort > 65535 || m.ContainerPort <= 0 || m.ContainerPort > 65535 {
			continue
		}
		hp := rules.HostPort{HostPort: uint16(m.HostPort), Port: uint16(m.ContainerPort), Proto: proto}
		hp.HostIP, _ = netip.ParseAddr(m.HostIP) // none: every address
		out = append(out, hp)
	}
	return out
}
