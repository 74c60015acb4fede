package podspec

import (
	"fmt"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// handler is an action of a probe or of a lifecycle hook.
type handler struct {
	exec *core.ExecAction
	http *core.HTTPGetAction
	tcp  *core.TCPSocketAction
	grpc *core.GRPCAction
	nap  *core.SleepAction
}

func (c *spec) handler(h handler, p *field.Path) {
	e, n := &c.Errors, 0
	one := func(name string, check func(p *field.Path)) {
		if n++; n > 1 {
			e.Forbidden(p.Child(name), "may not specify more than 1 handler type")
			return
		}
		check(p.Child(name))
	}
	if h.exec != nil {
		one("exec", func(p *field.Path) {
			if len(h.exec.Command) == 0 {
				e.Required(p.Child("command"), "")
			}
		})
	}
	if h.http != nil {
		one("httpGet", func(p *field.Path) {
			e.Need(p.Child("path"), h.http.Path)
			e.PortOrName(p.Child("port"), h.http.Port)
			rule.Among(e, p.Child("scheme"), h.http.Scheme, core.URISchemeHTTP, core.URISchemeHTTPS)
			for _, header := range h.http.HTTPHeaders {
				e.Each(p.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))
			}
		})
	}
	if h.tcp != nil {
		one("tcpSocket", func(p *field.Path) { e.PortOrName(p.Child("port"), h.tcp.Port) })
	}
	if h.grpc != nil {
		one("grpc", func(p *field.Path) { e.PortOrName(p.Child("port"), intstr.FromInt32(h.grpc.Port)) })
	}
	if h.nap != nil {
		one("sleep", func(p *field.Path) {
			if most := c.TerminationGracePeriodSeconds; most != nil && (h.nap.Seconds < 0 || h.nap.Seconds > *most) {
				e.Invalid(p, h.nap.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *most))
			}
		})
	}
	if n == 0 {
		e.Required(p, "must specify a handler type")
	}
}

func (c *spec) lifecycle(ctr *core.Container, p *field.Path) {
	l := ctr.Lifecycle
	if l == nil {
		return
	}
	p = p.Child("lifecycle")
	hook := func(h *core.LifecycleHandler, p *field.Path) {
		if h != nil {
			c.handler(handler{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, nap: h.Sleep}, p)
		}
	}
	hook(l.PostStart, p.Child("postStart"))
	hook(l.PreStop, p.Child("preStop"))
	if l.StopSignal != nil && c.OS == nil {
		c.Forbidden(p.Child("stopSignal"), "may not be set for containers with empty `spec.os.name`")
	}
}

func (c *spec) probes(ctr *core.Container, p *field.Path) {
	once := func(probe *core.Probe, p *field.Path) {
		if probe == nil {
			return
		}
		c.probe(probe, p)
		if probe.SuccessThreshold != 1 {
			c.Invalid(p.Child("successThreshold"), probe.SuccessThreshold, "must be 1")
		}
	}
	once(ctr.LivenessProbe, p.Child("livenessProbe"))
	if r, at := ctr.ReadinessProbe, p.Child("readinessProbe"); r != nil {
		c.probe(r, at)
		if r.TerminationGracePeriodSeconds != nil {
			c.Invalid(at.Child("terminationGracePeriodSeconds"), r.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
		}
	}
	once(ctr.StartupProbe, p.Child("startupProbe"))
}

func (c *spec) probe(probe *core.Probe, p *field.Path) {
	e := &c.Errors
	c.handler(handler{exec: probe.Exec, http: probe.HTTPGet, tcp: probe.TCPSocket, grpc: probe.GRPC}, p)
	e.NotNegative(p.Child("initialDelaySeconds"), int64(probe.InitialDelaySeconds))
	e.NotNegative(p.Child("timeoutSeconds"), int64(probe.TimeoutSeconds))
	e.NotNegative(p.Child("periodSeconds"), int64(probe.PeriodSeconds))
	e.NotNegative(p.Child("successThreshold"), int64(probe.SuccessThreshold))
	e.NotNegative(p.Child("failureThreshold"), int64(probe.FailureThreshold))
	if g := probe.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		e.Invalid(p.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0")
	}
}
