// Package podspec validates what stands in every pod and pod template: containers,
// volumes, probes, resources, security, scheduling. Paths, error types and words
// are upstream's (ValidatePodSpec and below). Metadata, status and updates of pods
// are in server/validate. Start reading at Spec.
package podspec

import (
	"fmt"
	"math"
	"strings"

	core "k8s.io/api/core/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// spec carries what the checks of one pod spec share.
type spec struct {
	rule.Errors
	*core.PodSpec
	// pod is the metadata of a real pod, nil for a template.
	pod       *metav1.ObjectMeta
	volumes   map[string]*core.VolumeSource
	claims    rule.Unique
	hostUsers bool
}

// Spec checks a pod spec; pod is nil where it stands in a template.
func Spec(s *core.PodSpec, pod *metav1.ObjectMeta, p *field.Path) field.ErrorList {
	c := &spec{PodSpec: s, pod: pod, volumes: map[string]*core.VolumeSource{}, claims: rule.Unique{}, hostUsers: s.HostUsers == nil || *s.HostUsers}
	if s.TerminationGracePeriodSeconds == nil {
		c.Required(p.Child("terminationGracePeriodSeconds"), "")
	}
	c.checkVolumes(p.Child("volumes"))
	c.checkClaims(p.Child("resourceClaims"))
	c.checkContainers(p.Child("containers"))
	c.checkInitContainers(p.Child("initContainers"))
	c.checkEphemeralContainers(p.Child("ephemeralContainers"))
	c.checkPodResources(p)
	c.checkHostNetworkPorts(p.Child("containers"))
	c.checkChoices(p)
	c.checkPodSecurity(p)
	c.checkPlacement(p)
	c.checkNames(p)
	c.checkDNS(p.Child("dnsConfig"))
	c.checkOS(p)
	return c.List()
}

// Template checks the template of a workload.
func Template(t *core.PodTemplateSpec, p *field.Path) field.ErrorList {
	var e rule.Errors
	e.Labels(p.Child("labels"), t.Labels)
	e.Join(apimachinery.ValidateAnnotations(t.Annotations, p.Child("annotations")))
	e.Join(Annotations(t.Annotations, &t.Spec, p.Child("annotations")))
	e.Join(Spec(&t.Spec, nil, p.Child("spec")))
	if len(t.Spec.EphemeralContainers) > 0 {
		e.Forbidden(p.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
	return e.List()
}

func (c *spec) checkChoices(p *field.Path) {
	e := &c.Errors
	switch c.RestartPolicy {
	case core.RestartPolicyAlways, core.RestartPolicyOnFailure, core.RestartPolicyNever:
	case "":
		e.Required(p.Child("restartPolicy"), "")
	default:
		e.Add(field.NotSupported(p.Child("restartPolicy"), c.RestartPolicy, []core.RestartPolicy{core.RestartPolicyAlways, core.RestartPolicyOnFailure, core.RestartPolicyNever}))
	}
	dns := []core.DNSPolicy{core.DNSClusterFirstWithHostNet, core.DNSClusterFirst, core.DNSDefault, core.DNSNone}
	switch c.DNSPolicy {
	case dns[0], dns[1], dns[2], dns[3]:
	case "":
		e.Required(p.Child("dnsPolicy"), "")
	default:
		e.Add(field.NotSupported(p.Child("dnsPolicy"), c.DNSPolicy, dns))
	}
	if c.PreemptionPolicy != nil {
		rule.OneOf(e, p.Child("preemptionPolicy"), *c.PreemptionPolicy, core.PreemptLowerPriority, core.PreemptNever)
	}
	if d := c.ActiveDeadlineSeconds; d != nil {
		e.Range(p.Child("activeDeadlineSeconds"), *d, 1, math.MaxInt32)
	}
	if c.Overhead != nil {
		e.Join(resources(&core.ResourceRequirements{Limits: c.Overhead}, nil, p.Child("overhead")))
	}
}

func (c *spec) checkNames(p *field.Path) {
	e := &c.Errors
	named := func(field, name string) {
		if name != "" {
			e.ObjectName(p.Child(field), name)
		}
	}
	named("serviceAccountName", c.ServiceAccountName)
	named("nodeName", c.NodeName)
	named("priorityClassName", c.PriorityClassName)
	if c.RuntimeClassName != nil {
		e.ObjectName(p.Child("runtimeClassName"), *c.RuntimeClassName)
	}
	if c.Hostname != "" {
		e.DNSLabel(p.Child("hostname"), c.Hostname)
	}
	if c.Subdomain != "" {
		e.DNSLabel(p.Child("subdomain"), c.Subdomain)
	}
	if h := c.HostnameOverride; h != nil {
		at := p.Child("hostnameOverride")
		if c.SetHostnameAsFQDN != nil && *c.SetHostnameAsFQDN {
			e.Forbidden(at, "may not be specified when setHostnameAsFQDN is true")
		}
		if c.HostNetwork {
			e.Forbidden(at, "may not be specified when hostNetwork is true")
		}
		if len(*h) > longestHostname {
			e.Add(field.TooLong(at, "", longestHostname))
		}
		e.DNSSubdomain(at, *h)
	}
	for i, alias := range c.HostAliases {
		at := p.Child("hostAliases").Index(i)
		e.IP(at.Child("ip"), alias.IP)
		for j, name := range alias.Hostnames {
			e.DNSSubdomain(at.Child("hostnames").Index(j), name)
		}
	}
	for i, gate := range c.ReadinessGates {
		e.Qualified(p.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType))
	}
	seen := rule.Unique{}
	for i, gate := range c.SchedulingGates {
		at := p.Child("schedulingGates").Index(i)
		e.Qualified(at, gate.Name)
		if seen.Again(gate.Name) {
			e.Duplicate(at, gate.Name)
		}
	}
}

// longestHostname is the kernel's limit.
const longestHostname = 64

func (c *spec) checkDNS(p *field.Path) {
	const servers, searches, characters = 3, 32, 2048
	e, d := &c.Errors, c.DNSConfig
	if c.DNSPolicy == core.DNSNone {
		switch {
		case d == nil:
			e.Required(p, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", core.DNSNone))
		case len(d.Nameservers) == 0:
			e.Required(p.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", core.DNSNone))
		}
	}
	if d == nil {
		return
	}
	if len(d.Nameservers) > servers {
		e.Invalid(p.Child("nameservers"), d.Nameservers, fmt.Sprintf("must not have more than %v nameservers", servers))
	}
	for i, s := range d.Nameservers {
		e.IP(p.Child("nameservers").Index(i), s)
	}
	if len(d.Searches) > searches {
		e.Invalid(p.Child("searches"), d.Searches, fmt.Sprintf("must not have more than %v search paths", searches))
	}
	if len(strings.Join(d.Searches, " ")) > characters {
		e.Invalid(p.Child("searches"), d.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", characters))
	}
	for i, s := range d.Searches {
		// A lone dot and underscores are fine since upstream relaxed this rule.
		if s = strings.TrimSuffix(s, "."); s != "" {
			e.Each(p.Child("searches").Index(i), s, validation.IsDNS1123SubdomainWithUnderscore(s))
		}
	}
	for i, o := range d.Options {
		if o.Name == "" {
			e.Required(p.Child("options").Index(i), "must not be empty")
		}
	}
}

func (c *spec) checkHostNetworkPorts(p *field.Path) {
	if !c.HostNetwork {
		return
	}
	for i := range c.Containers {
		for j, port := range c.Containers[i].Ports {
			if (c.pod != nil || port.HostPort != 0) && port.HostPort != port.ContainerPort {
				c.Invalid(p.Index(i).Child("ports").Index(j).Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

func (c *spec) checkClaims(p *field.Path) {
	e := &c.Errors
	for i := range c.ResourceClaims {
		claim, at := &c.ResourceClaims[i], p.Index(i)
		switch {
		case claim.Name == "":
			e.Required(at.Child("name"), "")
		case c.claims.Again(claim.Name):
			e.Duplicate(at.Child("name"), claim.Name)
		default:
			e.DNSLabel(at.Child("name"), claim.Name)
		}
		direct, template := claim.ResourceClaimName, claim.ResourceClaimTemplateName
		switch {
		case direct != nil && template != nil:
			e.Invalid(at, *claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		case direct == nil && template == nil:
			e.Invalid(at, *claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if direct != nil {
			e.ObjectName(at.Child("resourceClaimName"), *direct)
		}
		if template != nil {
			e.ObjectName(at.Child("resourceClaimTemplateName"), *template)
		}
	}
}
