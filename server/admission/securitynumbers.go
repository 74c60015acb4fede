package admission

import (
	"strings"

	core "k8s.io/api/core/v1"
	psa "k8s.io/pod-security-admission/api"

	"github.com/prometheus/client_golang/prometheus"

	"orch/server/registry"
)

// securityNumbers are upstream's numbers about pod security.
type securityNumbers struct{ evaluations, exemptions, errors *prometheus.CounterVec }

func newSecurityNumbers() *securityNumbers {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pod_security_" + name, Help: help}, append(labels, "request_operation", "resource", "subresource"))
	}
	return &securityNumbers{
		evaluations: counter("evaluations_total", "Pods and templates that were held against a policy.", "decision", "policy_level", "policy_version", "mode"),
		exemptions:  counter("exemptions_total", "Requests that are exempt from pod security."),
		errors:      counter("errors_total", "Requests whose policy could not be made out as written.", "fatal"),
	}
}

// place is what all of them say of a request.
func place(a *registry.Attributes) []string {
	kind := "controller"
	if _, ok := a.Object.(*core.Pod); ok {
		kind = "pod"
	}
	return []string{strings.ToLower(string(a.Operation)), kind, a.Subresource}
}

func (n *securityNumbers) evaluated(a *registry.Attributes, v psa.LevelVersion, mode string, allowed bool) {
	decision, version := "deny", v.Version.String()
	if allowed {
		decision = "allow"
	}
	if v.Level == psa.LevelPrivileged { // it is the same in every version
		version = "latest"
	}
	n.evaluations.WithLabelValues(append([]string{decision, string(v.Level), version, mode}, place(a)...)...).Inc()
}

func (n *securityNumbers) exempted(a *registry.Attributes) {
	n.exemptions.WithLabelValues(place(a)...).Inc()
}

func (n *securityNumbers) failed(a *registry.Attributes) {
	n.errors.WithLabelValues(append([]string{"false"}, place(a)...)...).Inc()
}

func (n *securityNumbers) Describe(out chan<- *prometheus.Desc) {
	n.evaluations.Describe(out)
	n.exemptions.Describe(out)
	n.errors.Describe(out)
}

func (n *securityNumbers) Collect(out chan<- prometheus.Metric) {
	n.evaluations.Collect(out)
	n.exemptions.Collect(out)
	n.errors.Collect(out)
}
