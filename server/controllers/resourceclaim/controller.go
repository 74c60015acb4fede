// Package resourceclaim makes the ResourceClaims that pods ask for by template, and takes
// claims back: a reservation ends with its pod, an allocation with the last reservation,
// a claim that was made for a pod with that pod. It refuses to allocate anything: that is
// the scheduler's; it only reserves for pods that came to their node without one.
// Claims for extended resources, made by the scheduler, are taken back the same way.
//
//	template --pods.go--> claim --scheduler--> allocated, reserved --claims.go--> released --> deleted
//
// Two loops share the work: one over pods (pods.go), one over claims (claims.go). What
// they decide is in plan.go. Start reading at Specs.
package resourceclaim

import (
	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
)

// component speaks in the events, as upstream's controller does.
const component = "resource_claim"

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Events *events.Recorder
}

type controller struct {
	client *client.Client
	events *events.Recorder
	index  *index
}

// Specs are the two loops.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{client: d.Client, events: d.Events.As(component), index: newIndex()}
	return []reconcile.Spec{
		{Name: "resourceclaim-pods", Workers: 10, Do: c.doPod, Watches: []reconcile.Watch{
			reconcile.Map(api.Pods, c.podsOfPod), reconcile.Map(api.ResourceClaims, c.podsOfClaim), reconcile.Map(api.ResourceClaimTemplates, c.podsOfTemplate)}},
		{Name: "resourceclaim", Workers: 10, Do: c.doClaim, Watches: []reconcile.Watch{
			reconcile.Map(api.ResourceClaims, claimItself), reconcile.Map(api.Pods, claimsLetGo)}},
	}
}

func (c *controller) podsOfPod(was, is *core.Pod) []reconcile.Key {
	c.index.pod(was, is)
	if is == nil || len(is.Spec.ResourceClaims) == 0 || is.DeletionTimestamp != nil || done(is) {
		return nil
	}
	return []reconcile.Key{{Namespace: is.Namespace, Name: is.Name}}
}

// podsOfClaim: a claim that went may have to be made again, one that was allocated may
// have to be reserved.
func (c *controller) podsOfClaim(was, is *resource.ResourceClaim) []reconcile.Key {
	c.index.claim(was, is)
	if is == nil {
		is = was
	}
	return c.index.users(is)
}

func (c *controller) podsOfTemplate(_, is *resource.ResourceClaimTemplate) []reconcile.Key {
	if is == nil {
		return nil
	}
	return c.index.waiting(is)
}

// claimItself is every claim at the start, to find pods that went meanwhile, and every
// one that changed, as it may be reserved for a pod that is gone already.
func claimItself(_, is *resource.ResourceClaim) []reconcile.Key {
	if is == nil {
		return nil
	}
	return []reconcile.Key{{Namespace: is.Namespace, Name: is.Name}}
}

// claimsLetGo are the claims of a pod that will not need them any more.
func claimsLetGo(was, is *core.Pod) []reconcile.Key {
	p := is
	if p == nil {
		p = was
	} else if !done(p) {
		return nil
	}
	var keys []reconcile.Key
	for name := range resourceclaim.PodClaims(p) {
		keys = append(keys, reconcile.Key{Namespace: p.Namespace, Name: name})
	}
	return keys
}
