package defaults

import (
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Pod fills a pod: first what every pod template gets, then what upstream
// gives to pods only (requests from limits, service links, host ports).
func Pod(o *core.Pod) {
	if g := o.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		o.Spec.TerminationGracePeriodSeconds = new(int64(1))
	}
	podSpec(&o.Spec)
	requestsFromLimits(o.Spec.Containers)
	requestsFromLimits(o.Spec.InitContainers)
	podLevelResources(o)
	point(&o.Spec.EnableServiceLinks, core.DefaultEnableServiceLinks)
}

// PodTemplate fills the template of a workload.
func PodTemplate(t *core.PodTemplateSpec) { podSpec(&t.Spec) }

// StoredPodTemplate fills the kind PodTemplate.
func StoredPodTemplate(o *core.PodTemplate) { PodTemplate(&o.Template) }

func podSpec(s *core.PodSpec) {
	fill(&s.DNSPolicy, core.DNSClusterFirst)
	fill(&s.RestartPolicy, core.RestartPolicyAlways)
	point(&s.SecurityContext, core.PodSecurityContext{})
	point(&s.TerminationGracePeriodSeconds, int64(core.DefaultTerminationGracePeriodSeconds))
	fill(&s.SchedulerName, core.DefaultSchedulerName)
	// The two names of one field follow each other, the new one wins.
	fill(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	roundUp(s.Overhead)
	for i := range s.Volumes {
		volume(&s.Volumes[i])
	}
	for i := range s.InitContainers {
		container(&s.InitContainers[i], s.HostNetwork)
	}
	for i := range s.Containers {
		container(&s.Containers[i], s.HostNetwork)
	}
	for i := range s.EphemeralContainers {
		c := core.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		container(&c, false)
		s.EphemeralContainers[i].EphemeralContainerCommon = core.EphemeralContainerCommon(c)
	}
	if s.Resources != nil {
		roundUp(s.Resources.Limits)
		roundUp(s.Resources.Requests)
	}
}

func container(c *core.Container, hostNetwork bool) {
	fill(&c.ImagePullPolicy, pullPolicy(c.Image))
	fill(&c.TerminationMessagePath, core.TerminationMessagePathDefault)
	fill(&c.TerminationMessagePolicy, core.TerminationMessageReadFile)
	for i := range c.Ports {
		p := &c.Ports[i]
		fill(&p.Protocol, core.ProtocolTCP)
		if hostNetwork {
			fill(&p.HostPort, p.ContainerPort)
		}
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			if from.FieldRef != nil {
				fill(&from.FieldRef.APIVersion, "v1")
			}
			if from.FileKeyRef != nil {
				point(&from.FileKeyRef.Optional, false)
			}
		}
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	for _, p := range []*core.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		probe(p)
	}
	if l := c.Lifecycle; l != nil {
		for _, h := range []*core.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				httpGet(h.HTTPGet)
			}
		}
	}
}

func probe(p *core.Probe) {
	if p == nil {
		return
	}
	fill(&p.TimeoutSeconds, 1)
	fill(&p.PeriodSeconds, 10)
	fill(&p.SuccessThreshold, 1)
	fill(&p.FailureThreshold, 3)
	httpGet(p.HTTPGet)
	if p.GRPC != nil {
		point(&p.GRPC.Service, "")
	}
}

func httpGet(g *core.HTTPGetAction) {
	if g == nil {
		return
	}
	fill(&g.Path, "/")
	fill(&g.Scheme, core.URISchemeHTTP)
}

// roundUp brings every quantity to whole thousandths, as upstream stores them.
func roundUp(l core.ResourceList) {
	for name, q := range l {
		q.RoundUp(resource.Milli)
		l[name] = q
	}
}

func requestsFromLimits(containers []core.Container) {
	for i := range containers {
		r := &containers[i].Resources
		if r.Limits == nil {
			continue
		}
		if r.Requests == nil {
			r.Requests = core.ResourceList{}
		}
		inherit(r.Requests, r.Limits)
	}
}

// inherit copies what only from has.
func inherit(to, from core.ResourceList) {
	for name, q := range from {
		if _, has := to[name]; !has {
			to[name] = q.DeepCopy()
		}
	}
}
