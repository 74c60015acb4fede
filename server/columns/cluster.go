package columns

import (
	"strconv"
	"strings"
	"time"

	certificates "k8s.io/api/certificates/v1"
	coordination "k8s.io/api/coordination/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	node "k8s.io/api/node/v1"
	policy "k8s.io/api/policy/v1"
	scheduling "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Ingress shows hosts and addresses.
func Ingress() []Column[networking.Ingress] {
	type i = networking.Ingress
	return list(
		name[i](),
		text("Class", "The name of the IngressClass resource that should be used for additional configuration", func(o *i) string { return or(value(o.Spec.IngressClassName), none) }),
		text("Hosts", "Hosts that incoming requests are matched against before the ingress rule", func(o *i) string {
			var hosts []string
			for _, r := range o.Spec.Rules {
				if r.Host != "" {
					hosts = append(hosts, r.Host)
				}
			}
			return firstFew(hosts, "*")
		}),
		text("Address", "Address is a list containing ingress points for the load-balancer", func(o *i) string {
			var ips []string
			for _, in := range o.Status.LoadBalancer.Ingress {
				ips = append(ips, or(in.IP, in.Hostname))
			}
			return joinSorted(ips)
		}),
		text("Ports", "Ports of TLS configurations that open", func(o *i) string {
			if len(o.Spec.TLS) > 0 {
				return "80, 443"
			}
			return "80"
		}),
		age[i](),
	)
}

// IngressClass shows the controller.
func IngressClass() []Column[networking.IngressClass] {
	type i = networking.IngressClass
	doc := networking.IngressClassSpec{}.SwaggerDoc()
	return list(
		name[i](),
		text("Controller", "Controller that is responsible for handling this class", func(o *i) string { return o.Spec.Controller }),
		text("Parameters", doc["parameters"], func(o *i) string {
			p := o.Spec.Parameters
			if p == nil {
				return none
			}
			kind := p.Kind
			if p.APIGroup != nil {
				kind += "." + *p.APIGroup
			}
			return kind + "/" + p.Name
		}),
		age[i](),
	)
}

// NetworkPolicy shows which pods it is about.
func NetworkPolicy() []Column[networking.NetworkPolicy] {
	type n = networking.NetworkPolicy
	return list(name[n](),
		text("Pod-Selector", networking.NetworkPolicySpec{}.SwaggerDoc()["podSelector"], func(o *n) string { return metav1.FormatLabelSelector(&o.Spec.PodSelector) }),
		age[n]())
}

// IPAddress shows whose it is.
func IPAddress() []Column[networking.IPAddress] {
	type i = networking.IPAddress
	return list(name[i](),
		text("ParentRef", networking.IPAddressSpec{}.SwaggerDoc()["parentRef"], func(o *i) string {
			r := o.Spec.ParentRef
			if r == nil {
				return none
			}
			words := []string{r.Resource}
			if r.Group != "" {
				words[0] += "." + r.Group
			}
			if r.Namespace != "" {
				words = append(words, r.Namespace)
			}
			return strings.Join(append(words, r.Name), "/")
		}),
		age[i]())
}

// ServiceCIDR shows the ranges.
func ServiceCIDR() []Column[networking.ServiceCIDR] {
	type s = networking.ServiceCIDR
	return list(name[s](),
		text("CIDRs", networking.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"], func(o *s) string { return strings.Join(o.Spec.CIDRs, ",") }),
		age[s]())
}

// EndpointSlice shows the first ports and addresses.
func EndpointSlice() []Column[discovery.EndpointSlice] {
	type e = discovery.EndpointSlice
	doc := discovery.EndpointSlice{}.SwaggerDoc()
	return list(
		name[e](),
		text("AddressType", doc["addressType"], func(o *e) string { return string(o.AddressType) }),
		text("Ports", doc["ports"], func(o *e) string {
			var words []string
			for _, p := range o.Ports {
				switch {
				case p.Port != nil:
					words = append(words, strconv.Itoa(int(*p.Port)))
				case value(p.Name) != "":
					words = append(words, *p.Name)
				default:
					words = append(words, "*")
				}
			}
			return firstFew(words, unset)
		}),
		text("Endpoints", doc["endpoints"], func(o *e) string {
			var words []string
			for _, ep := range o.Endpoints {
				words = append(words, ep.Addresses...)
			}
			return firstFew(words, unset)
		}),
		age[e](),
	)
}

// PodDisruptionBudget shows bounds and room.
func PodDisruptionBudget() []Column[policy.PodDisruptionBudget] {
	type p = policy.PodDisruptionBudget
	bound := func(v *intstr.IntOrString) string {
		if v == nil {
			return "N/A"
		}
		return v.String()
	}
	return list(
		name[p](),
		text("Min Available", "The minimum number of pods that must be available.", func(o *p) string { return bound(o.Spec.MinAvailable) }),
		text("Max Unavailable", "The maximum number of pods that may be unavailable.", func(o *p) string { return bound(o.Spec.MaxUnavailable) }),
		number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time.", func(o *p) int { return int(o.Status.DisruptionsAllowed) }),
		age[p](),
	)
}

// Lease shows the holder.
func Lease() []Column[coordination.Lease] {
	type l = coordination.Lease
	return list(name[l](),
		text("Holder", coordination.LeaseSpec{}.SwaggerDoc()["holderIdentity"], func(o *l) string { return value(o.Spec.HolderIdentity) }),
		age[l]())
}

// PriorityClass shows the value.
func PriorityClass() []Column[scheduling.PriorityClass] {
	type p = scheduling.PriorityClass
	doc := scheduling.PriorityClass{}.SwaggerDoc()
	return list(
		name[p](),
		number("Value", doc["value"], func(o *p) int { return int(o.Value) }),
		truth("Global-Default", doc["globalDefault"], func(o *p) bool { return o.GlobalDefault }),
		age[p](),
		text("PreemptionPolicy", doc["preemptionPolicy"], func(o *p) string { return string(value(o.PreemptionPolicy)) }),
	)
}

// RuntimeClass shows the handler.
func RuntimeClass() []Column[node.RuntimeClass] {
	type r = node.RuntimeClass
	return list(name[r](),
		text("Handler", node.RuntimeClass{}.SwaggerDoc()["handler"], func(o *r) string { return o.Handler }),
		age[r]())
}

// CertificateSigningRequest shows who asked and what became of it.
func CertificateSigningRequest() []Column[certificates.CertificateSigningRequest] {
	type c = certificates.CertificateSigningRequest
	spec := certificates.CertificateSigningRequestSpec{}.SwaggerDoc()
	return list(
		name[c](),
		age[c](),
		text("SignerName", spec["signerName"], func(o *c) string { return o.Spec.SignerName }),
		text("Requestor", spec["username"], func(o *c) string { return o.Spec.Username }),
		text("RequestedDuration", spec["expirationSeconds"], func(o *c) string {
			if o.Spec.ExpirationSeconds == nil {
				return none
			}
			return duration.HumanDuration(time.Duration(*o.Spec.ExpirationSeconds) * time.Second)
		}),
		text("Condition", certificates.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"], csrCondition),
	)
}

func csrCondition(o *certificates.CertificateSigningRequest) string {
	is := map[certificates.RequestConditionType]bool{}
	for _, c := range o.Status.Conditions {
		is[c.Type] = true
	}
	word := "Pending"
	switch {
	case is[certificates.CertificateDenied]:
		word = "Denied"
	case is[certificates.CertificateApproved]:
		word = "Approved"
	}
	if is[certificates.CertificateFailed] {
		word += ",Failed"
	}
	if len(o.Status.Certificate) > 0 {
		word += ",Issued"
	}
	return word
}
