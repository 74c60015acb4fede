package spec

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
)

// Limits of glibc's resolver, as upstream enforces them.
const (
	maxNameservers = 3
	maxSearches    = 32
)

// Hostname is what the pod calls itself, and its domain if it has one.
func Hostname(pod *core.Pod, domain string) (host, fqdn string) {
	host = pod.Name
	if o := pod.Spec.HostnameOverride; o != nil {
		return *o, ""
	}
	if pod.Spec.Hostname != "" {
		host = pod.Spec.Hostname
	}
	if len(host) > 63 {
		host = strings.TrimRight(host[:63], "-.")
	}
	if pod.Spec.Subdomain != "" {
		fqdn = fmt.Sprintf("%s.%s.%s.svc.%s", host, pod.Spec.Subdomain, pod.Namespace, domain)
	}
	return host, fqdn
}

// UTSName is the kernel host name of the pod's UTS namespace.
func UTSName(pod *core.Pod, domain string) string {
	host, fqdn := Hostname(pod, domain)
	if fqdn != "" && pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN {
		return fqdn
	}
	return host
}

// HostsFile is the pod's /etc/hosts. For pods on the host's network base is the
// host's own file.
func HostsFile(pod *core.Pod, ips []string, domain, base string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n" + base)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		host, fqdn := Hostname(pod, domain)
		for _, ip := range ips {
			if fqdn != "" {
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, fqdn, host)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, host)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

// Resolver is the content of a resolv.conf.
type Resolver struct{ Nameservers, Searches, Options []string }

// ParseResolver reads a resolv.conf.
func ParseResolver(text string) Resolver {
	var r Resolver
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		switch w[0] {
		case "nameserver":
			r.Nameservers = append(r.Nameservers, w[1])
		case "search":
			r.Searches = w[1:]
		case "options":
			r.Options = w[1:]
		}
	}
	return r
}

// String is the file.
func (r Resolver) String() string {
	var b strings.Builder
	if len(r.Searches) > 0 {
		b.WriteString("search " + strings.Join(r.Searches, " ") + "\n")
	}
	for _, n := range r.Nameservers {
		b.WriteString("nameserver " + n + "\n")
	}
	if len(r.Options) > 0 {
		b.WriteString("options " + strings.Join(r.Options, " ") + "\n")
	}
	return b.String()
}

// DNS is what pods of this cluster resolve with.
type DNS struct {
	// Servers are the cluster's; empty: none, ClusterFirst then means Default.
	Servers []string
	Domain  string
	Host    Resolver
}

// ResolverFor applies dnsPolicy and dnsConfig.
func ResolverFor(pod *core.Pod, d DNS) Resolver {
	var r Resolver
	policy := pod.Spec.DNSPolicy
	if policy == core.DNSClusterFirst && pod.Spec.HostNetwork || len(d.Servers) == 0 && policy != core.DNSNone {
		policy = core.DNSDefault
	}
	switch policy {
	case core.DNSNone:
	case core.DNSDefault:
		r = Resolver{slices.Clone(d.Host.Nameservers), slices.Clone(d.Host.Searches), slices.Clone(d.Host.Options)}
	default:
		r.Nameservers = slices.Clone(d.Servers)
		r.Searches = append([]string{pod.Namespace + ".svc." + d.Domain, "svc." + d.Domain, d.Domain}, d.Host.Searches...)
		r.Options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.Nameservers = append(r.Nameservers, c.Nameservers...)
		r.Searches = append(r.Searches, c.Searches...)
		r.Options = mergeOptions(r.Options, c.Options)
	}
	r.Nameservers = unique(r.Nameservers, maxNameservers)
	r.Searches = unique(r.Searches, maxSearches)
	return r
}

func mergeOptions(have []string, more []core.PodDNSConfigOption) []string {
	for _, o := range more {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		have = slices.DeleteFunc(have, func(h string) bool {
			name, _, _ := strings.Cut(h, ":")
			return name == o.Name
		})
		have = append(have, text)
	}
	return have
}

func unique(list []string, limit int) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) && len(out) < limit {
			out = append(out, s)
		}
	}
	return out
}
