package aggregator

import (
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	discoveryapi "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"orch/server/backend"
)

// condition is what Available says.
type condition struct {
	status          apireg.ConditionStatus
	reason, message string
}

const passed = "Passed"

// judge says what can be told of a remote APIService from objects alone: passed means
// that its server is to be asked.
func judge(o *apireg.APIService, s *core.Service, endpoints []*discoveryapi.EndpointSlice) condition {
	to := o.Spec.Service
	no := func(reason, format string, args ...any) condition {
		return condition{apireg.ConditionFalse, reason, fmt.Sprintf(format, args...)}
	}
	if s == nil {
		return no("ServiceNotFound", "service/%s in %q is not present", to.Name, to.Namespace)
	}
	if s.Spec.Type == core.ServiceTypeClusterIP {
		at := slices.IndexFunc(s.Spec.Ports, func(p core.ServicePort) bool { return p.Port == *to.Port })
		switch {
		case at < 0:
			return no("ServicePortError", "service/%s in %q is not listening on port %d", to.Name, to.Namespace, *to.Port)
		case len(endpoints) == 0:
			return no("EndpointsNotFound", "cannot find endpointslices for service/%s in %q", to.Name, to.Namespace)
		}
		port := s.Spec.Ports[at].Name
		if !slices.ContainsFunc(endpoints, func(e *discoveryapi.EndpointSlice) bool { return len(backend.Ready(e, port)) > 0 }) {
			return no("MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", to.Name, to.Namespace, port)
		}
	}
	return condition{apireg.ConditionTrue, passed, "all checks passed"}
}

// setIn writes the condition; the time moves with the status only.
func (c condition) setIn(o *apireg.APIService, now metav1.Time) {
	next := apireg.APIServiceCondition{Type: apireg.Available, Status: c.status, LastTransitionTime: now, Reason: c.reason, Message: c.message}
	list := o.Status.Conditions
	at := slices.IndexFunc(list, func(c apireg.APIServiceCondition) bool { return c.Type == apireg.Available })
	if at < 0 {
		o.Status.Conditions = append(list, next)
		return
	}
	if list[at].Status == c.status {
		next.LastTransitionTime = list[at].LastTransitionTime
	}
	list[at] = next
}

// since is when the condition last changed its mind; the APIService's beginning if never.
func since(o *apireg.APIService) time.Time {
	for _, c := range o.Status.Conditions {
		if c.Type == apireg.Available {
			return c.LastTransitionTime.Time
		}
	}
	return o.CreationTimestamp.Time
}
