package columns

import (
	"fmt"
	"net"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Service shows addresses and ports.
func Service() []Column[core.Service] {
	type s = core.Service
	spec := core.ServiceSpec{}.SwaggerDoc()
	return list(
		name[s](),
		text("Type", spec["type"], func(o *s) string { return string(o.Spec.Type) }),
		text("Cluster-IP", spec["clusterIP"], func(o *s) string { return or(o.Spec.ClusterIP, none) }),
		text("External-IP", spec["externalIPs"], externalIP),
		text("Port(s)", spec["ports"], servicePorts),
		age[s](),
		wide(text("Selector", spec["selector"], func(o *s) string { return labels.FormatLabels(o.Spec.Selector) })),
	)
}

func externalIP(o *core.Service) string {
	given := strings.Join(o.Spec.ExternalIPs, ",")
	switch o.Spec.Type {
	case core.ServiceTypeClusterIP, core.ServiceTypeNodePort:
		return or(given, none)
	case core.ServiceTypeLoadBalancer:
		var ips []string
		for _, in := range o.Status.LoadBalancer.Ingress {
			ips = append(ips, or(in.IP, in.Hostname))
		}
		got := joinSorted(ips)
		if got != "" && given != "" {
			return got + "," + given
		}
		return or(got+given, "<pending>")
	case core.ServiceTypeExternalName:
		return o.Spec.ExternalName
	}
	return unknown
}

// joinSorted joins a set of non-empty words.
func joinSorted(words []string) string {
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "" })
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ",")
}

func servicePorts(o *core.Service) string {
	words := make([]string, len(o.Spec.Ports))
	for i, p := range o.Spec.Ports {
		words[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			words[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return or(strings.Join(words, ","), none)
}

// Endpoints shows the first addresses.
func Endpoints() []Column[core.Endpoints] {
	return list(
		name[core.Endpoints](),
		text("Endpoints", core.Endpoints{}.SwaggerDoc()["subsets"], func(o *core.Endpoints) string {
			if len(o.Subsets) == 0 {
				return none
			}
			var words []string
			for _, s := range o.Subsets {
				words = append(words, subsetWords(&s)...)
			}
			return firstFew(words, "")
		}),
		age[core.Endpoints](),
	)
}

func subsetWords(s *core.EndpointSubset) []string {
	var words []string
	if len(s.Ports) == 0 {
		for _, a := range s.Addresses {
			words = append(words, a.IP)
		}
	}
	for _, p := range s.Ports {
		for _, a := range s.Addresses {
			words = append(words, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
		}
	}
	return words
}

// Node shows status, roles and versions.
func Node() []Column[core.Node] {
	type n = core.Node
	info, status := core.NodeSystemInfo{}.SwaggerDoc(), core.NodeStatus{}.SwaggerDoc()
	return list(
		name[n](),
		text("Status", "The status of the node", nodeStatus),
		text("Roles", "The roles of the node", nodeRoles),
		age[n](),
		text("Version", info["kubeletVersion"], func(o *n) string { return o.Status.NodeInfo.KubeletVersion }),
		wide(text("Internal-IP", status["addresses"], func(o *n) string { return nodeAddress(o, core.NodeInternalIP) })),
		wide(text("External-IP", status["addresses"], func(o *n) string { return nodeAddress(o, core.NodeExternalIP) })),
		wide(text("OS-Image", info["osImage"], func(o *n) string { return or(o.Status.NodeInfo.OSImage, unknown) })),
		wide(text("Kernel-Version", info["kernelVersion"], nodeKernel)),
		wide(text("Container-Runtime", info["containerRuntimeVersion"], func(o *n) string { return or(o.Status.NodeInfo.ContainerRuntimeVersion, unknown) })),
	)
}

// nodeKernel is the kernel, and for which machine it is.
func nodeKernel(o *core.Node) string {
	kernel := or(o.Status.NodeInfo.KernelVersion, unknown)
	if arch := o.Status.NodeInfo.Architecture; arch != "" {
		kernel += " (" + arch + ")"
	}
	return kernel
}

func nodeStatus(o *core.Node) string {
	word := "Unknown"
	for _, c := range o.Status.Conditions {
		if c.Type == core.NodeReady {
			word = "NotReady"
			if c.Status == core.ConditionTrue {
				word = "Ready"
			}
		}
	}
	if o.Spec.Unschedulable {
		word += ",SchedulingDisabled"
	}
	return word
}

func nodeRoles(o *core.Node) string {
	var roles []string
	for k, v := range o.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok {
			roles = append(roles, role)
		} else if k == "kubernetes.io/role" {
			roles = append(roles, v)
		}
	}
	return or(joinSorted(roles), none)
}

func nodeAddress(o *core.Node, kind core.NodeAddressType) string {
	for _, a := range o.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return none
}

// Namespace shows the phase.
func Namespace() []Column[core.Namespace] {
	return list(name[core.Namespace](),
		text("Status", "The status of the namespace", func(o *core.Namespace) string { return string(o.Status.Phase) }),
		age[core.Namespace]())
}

// ConfigMap counts its entries.
func ConfigMap() []Column[core.ConfigMap] {
	return list(name[core.ConfigMap](),
		asText(number("Data", core.ConfigMap{}.SwaggerDoc()["data"], func(o *core.ConfigMap) int { return len(o.Data) + len(o.BinaryData) })),
		age[core.ConfigMap]())
}

// Secret counts its entries.
func Secret() []Column[core.Secret] {
	doc := core.Secret{}.SwaggerDoc()
	return list(name[core.Secret](),
		text("Type", doc["type"], func(o *core.Secret) string { return string(o.Type) }),
		asText(number("Data", doc["data"], func(o *core.Secret) int { return len(o.Data) })),
		age[core.Secret]())
}

// LimitRange shows when it was made.
func LimitRange() []Column[core.LimitRange] {
	return list(name[core.LimitRange](), createdAt[core.LimitRange]())
}

// ResourceQuota shows used/hard of requests and of limits.
func ResourceQuota() []Column[core.ResourceQuota] {
	type q = core.ResourceQuota
	return list(
		name[q](),
		text("Request", "Request represents a minimum amount of cpu/memory that a container may consume.", func(o *q) string { return quotaCell(o, false) }),
		text("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.", func(o *q) string { return quotaCell(o, true) }),
		age[q](),
	)
}

func quotaCell(o *core.ResourceQuota, limits bool) string {
	var names []string
	for n := range o.Status.Hard {
		if strings.HasPrefix(string(n), "limits.") == limits {
			names = append(names, string(n))
		}
	}
	sort.Strings(names)
	for i, n := range names {
		used, hard := o.Status.Used[core.ResourceName(n)], o.Status.Hard[core.ResourceName(n)]
		names[i] = fmt.Sprintf("%s: %s/%s", n, used.String(), hard.String())
	}
	return strings.Join(names, ", ")
}

// ComponentStatus shows health.
func ComponentStatus() []Column[core.ComponentStatus] {
	type s = core.ComponentStatus
	healthy := func(o *s) core.ComponentCondition {
		for _, c := range o.Conditions {
			if c.Type == core.ComponentHealthy {
				return c
			}
		}
		return core.ComponentCondition{}
	}
	return list(
		name[s](),
		text("Status", "Status of the component conditions", func(o *s) string {
			switch c := healthy(o); c.Status {
			case "":
				return "Unknown"
			case core.ConditionTrue:
				return "Healthy"
			}
			return "Unhealthy"
		}),
		text("Message", "Message of the component conditions", func(o *s) string { return healthy(o).Message }),
		text("Error", "Error of the component conditions", func(o *s) string { return healthy(o).Error }),
	)
}

// Event shows what happened to which object, newest time first.
func Event() []Column[core.Event] {
	type e = core.Event
	doc, ref := core.Event{}.SwaggerDoc(), core.ObjectReference{}.SwaggerDoc()
	return list(
		timed("Last Seen", doc["lastTimestamp"], func(o *e, now time.Time) string { return since(lastSeen(o), now) }),
		text("Type", doc["type"], func(o *e) string { return o.Type }),
		text("Reason", doc["reason"], func(o *e) string { return o.Reason }),
		text("Object", doc["involvedObject"], func(o *e) string {
			kind := strings.ToLower(o.InvolvedObject.Kind)
			if o.InvolvedObject.Name == "" {
				return kind
			}
			return kind + "/" + o.InvolvedObject.Name
		}),
		wide(text("Subobject", ref["fieldPath"], func(o *e) string { return o.InvolvedObject.FieldPath })),
		wide(text("Source", doc["source"], eventSource)),
		text("Message", doc["message"], func(o *e) string { return strings.TrimSpace(o.Message) }),
		wide(timed("First Seen", doc["firstTimestamp"], func(o *e, now time.Time) string { return since(firstSeen(o), now) })),
		wide(asText(number("Count", doc["count"], eventCount))),
		wide(name[e]()),
	)
}

func firstSeen(o *core.Event) time.Time {
	if o.FirstTimestamp.IsZero() {
		return o.EventTime.Time
	}
	return o.FirstTimestamp.Time
}

func lastSeen(o *core.Event) time.Time {
	switch {
	case o.Series != nil:
		return o.Series.LastObservedTime.Time
	case o.LastTimestamp.IsZero():
		return firstSeen(o)
	}
	return o.LastTimestamp.Time
}

func eventCount(o *core.Event) int {
	switch {
	case o.Series != nil:
		return int(o.Series.Count)
	case o.Count == 0:
		return 1
	}
	return int(o.Count)
}

func eventSource(o *core.Event) string {
	component := or(o.Source.Component, o.ReportingController)
	if host := or(o.Source.Host, o.ReportingInstance); host != "" {
		return component + ", " + host
	}
	return component
}
