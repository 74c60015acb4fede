// Package controllers is the list of what runs in the control plane: one folder
// per controller, each given exactly what it needs. Nothing else starts one.
// Controllers talk to each other through objects only. Start reading at Specs.
package controllers

import (
	"errors"
	"time"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
	"orch/server/controllers/cronjob"
	"orch/server/controllers/daemonset"
	"orch/server/controllers/deployment"
	"orch/server/controllers/deviceclass"
	"orch/server/controllers/devicetaint"
	"orch/server/controllers/disruption"
	"orch/server/controllers/endpoints"
	"orch/server/controllers/endpointslice"
	"orch/server/controllers/eventttl"
	"orch/server/controllers/garbage"
	"orch/server/controllers/gputaint"
	"orch/server/controllers/job"
	"orch/server/controllers/migplanner"
	"orch/server/controllers/namespace"
	"orch/server/controllers/nodeipam"
	"orch/server/controllers/nodelife"
	"orch/server/controllers/podgc"
	"orch/server/controllers/replicaset"
	"orch/server/controllers/resourceclaim"
	"orch/server/controllers/rootca"
	"orch/server/controllers/serviceaccount"
	"orch/server/controllers/servicecidr"
	"orch/server/controllers/statefulset"
	"orch/server/controllers/storagemigration"
	"orch/server/controllers/ttlafterfinished"
	"orch/server/controllers/volumeprotection"
)

// Deps is what the controllers need.
type Deps struct {
	// Client acts as api.ControllerUser; its cache holds every kind.
	Client *client.Client
	// Events records what the controllers do; nil for none.
	Events *events.Recorder
	// ClusterCIDR is what the nodes' pod ranges are cut from: one range, or one of
	// each family with a comma between.
	ClusterCIDR string
	// RootCA is the PEM that pods check the API server with.
	RootCA []byte
	// Kinds lists every kind that is served now, those of custom resources too.
	// Changed returns a channel that closes when the list changes next; nil if it
	// never does.
	Kinds   func() []*api.Facts
	Changed func() <-chan struct{}
	// Others hold the objects of further kinds, Owned as the garbage collector sees them,
	// Migrated as the storage version migrator does; nil for none.
	Others   namespace.Others
	Owned    garbage.Others
	Migrated storagemigration.Others
	// GPUTaint has nodes with GPUs tainted, MIGPlanner idle GPUs partitioned for pods that wait.
	GPUTaint, MIGPlanner bool
	// Now is the clock; nil means the real one.
	Now func() time.Time
}

// Specs lists the controllers.
func Specs(d Deps) ([]reconcile.Spec, error) {
	if d.Client == nil || d.Kinds == nil || len(d.RootCA) == 0 {
		return nil, errors.New("listing controllers: client, kinds or root CA is missing")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	c, rec, now := d.Client, d.Events, d.Now
	cidrs, err := nodeipam.Specs(c, rec, d.ClusterCIDR)
	if err != nil {
		return nil, err
	}
	var all []reconcile.Spec
	for _, specs := range [][]reconcile.Spec{
		// Workloads.
		deployment.Specs(deployment.Deps{Client: c, Events: rec, Now: now}),
		replicaset.Specs(replicaset.Deps{Client: c, Events: rec, Now: now}),
		daemonset.Specs(daemonset.Deps{Client: c, Events: rec, Now: now}),
		statefulset.Specs(statefulset.Deps{Client: c, Events: rec, Now: now}),
		job.Specs(job.Deps{Client: c, Events: rec, Now: now}),
		cronjob.Specs(cronjob.Deps{Client: c, Events: rec, Now: now}),
		ttlafterfinished.Specs(ttlafterfinished.Deps{Client: c, Now: now}),
		disruption.Specs(disruption.Deps{Client: c, Events: rec, Kinds: d.Kinds, Now: now}),
		// Services.
		endpointslice.Specs(c),
		endpoints.Specs(c),
		servicecidr.Specs(servicecidr.Deps{Client: c, Now: now}),
		// Nodes and their pods.
		cidrs,
		nodelife.Specs(nodelife.Deps{Client: c, Events: rec, Now: now}),
		podgc.Specs(podgc.Deps{Client: c, Now: now}),
		eventttl.Specs(eventttl.Deps{Client: c, Now: now}),
		// Storage and devices.
		volumeprotection.Specs(c),
		resourceclaim.Specs(resourceclaim.Deps{Client: c, Events: rec}),
		storagemigration.Specs(storagemigration.Deps{Client: c, Kinds: d.Kinds, Changed: d.Changed, Others: d.Migrated, Now: now}),
		gputaint.Specs(c, d.GPUTaint),
		migplanner.Specs(c, d.MIGPlanner),
		deviceclass.Specs(c),
		devicetaint.Specs(devicetaint.Deps{Client: c, Events: rec, Now: now}),
		// Namespaces and what is in them.
		serviceaccount.Specs(c),
		rootca.Specs(c, d.RootCA),
		namespace.Specs(namespace.Deps{Client: c, Kinds: d.Kinds, Others: d.Others, Now: now}),
		garbage.Specs(garbage.Deps{Client: c, Events: rec, Kinds: d.Kinds, Changed: d.Changed, Others: d.Owned}),
	} {
		all = append(all, specs...)
	}
	return all, nil
}
