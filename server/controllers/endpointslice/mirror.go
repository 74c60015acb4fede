package endpointslice

import (
	"context"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

const (
	// leaderAnnotation marks Endpoints that were only a lock for leader election.
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
	// mirrorLimit is how many addresses of one subset are mirrored.
	mirrorLimit = 1000
)

func (c *controller) doMirror(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	s := client.Cached(c.client, api.Services, key.Namespace, key.Name)
	e := client.Cached(c.client, api.Endpoints, key.Namespace, key.Name)
	existing := c.existing(key.Namespace, key.Name)
	if !mirrored(s, e) {
		return reconcile.Result{}, c.act(ctx, plan{remove: existing})
	}
	f := c.frame(e, api.Endpoints.Facts, e.Labels)
	f.meta.Annotations = mirrorAnnotations(e.Annotations)
	return reconcile.Result{}, c.act(ctx, makePlan(f, fromEndpoints(e), existing))
}

// mirrorAnnotations are all but those that speak of the Endpoints as such.
func mirrorAnnotations(from map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range from {
		if k != core.EndpointsLastChangeTriggerTime && k != core.LastAppliedConfigAnnotation {
			out[k] = v
		}
	}
	return out
}

// mirrored tells whether the Endpoints are a user's, for a service without a selector.
func mirrored(s *core.Service, e *core.Endpoints) bool {
	if s == nil || e == nil || len(s.Spec.Selector) > 0 || s.DeletionTimestamp != nil || e.DeletionTimestamp != nil {
		return false
	}
	_, leader := e.Annotations[leaderAnnotation]
	return !leader && e.Labels[discovery.LabelSkipMirror] != "true"
}

// fromEndpoints turns the subsets into groups.
func fromEndpoints(e *core.Endpoints) []group {
	var groups []group
	for _, subset := range e.Subsets {
		ports := mirrorPorts(subset.Ports)
		for i, list := range [][]core.EndpointAddress{subset.Addresses, subset.NotReadyAddresses} {
			for _, a := range list[:min(len(list), mirrorLimit)] {
				ready := i == 0
				point := discovery.Endpoint{
					Addresses:  []string{a.IP},
					Conditions: discovery.EndpointConditions{Ready: &ready},
					TargetRef:  a.TargetRef, NodeName: a.NodeName,
				}
				if a.Hostname != "" {
					point.Hostname = new(a.Hostname)
				}
				groups = put(groups, familyOf(a.IP), ports, point)
			}
		}
	}
	return groups
}

func mirrorPorts(in []core.EndpointPort) []discovery.EndpointPort {
	out := make([]discovery.EndpointPort, len(in))
	for i := range in {
		out[i] = discovery.EndpointPort{Name: &in[i].Name, Port: &in[i].Port, Protocol: &in[i].Protocol, AppProtocol: in[i].AppProtocol}
	}
	return out
}
