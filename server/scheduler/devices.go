package scheduler

import (
	"strconv"
	"time"

	resource "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/server/placement/devices"
)

// updateDevices brings a slice, class or taint rule up to the cache, and reports who may
// fit now.
func (s *Scheduler) updateDevices(n name) concern {
	state, changed := s.cluster.Devices, false
	switch n.kind {
	case api.ResourceSlices.Facts:
		if o := client.Cached(s.cfg.Client, api.ResourceSlices, "", n.name); o != nil {
			changed = state.SetSlice(o)
		} else {
			state.RemoveSlice(n.name)
			changed = true // what is left may be a whole pool now
		}
	case api.DeviceClasses.Facts:
		if o := client.Cached(s.cfg.Client, api.DeviceClasses, "", n.name); o != nil {
			changed = state.SetClass(o)
		} else {
			state.RemoveClass(n.name)
		}
	case api.DeviceTaintRules.Facts:
		if o := client.Cached(s.cfg.Client, api.DeviceTaintRules, "", n.name); o != nil {
			changed = state.SetRule(o)
		} else {
			state.RemoveRule(n.name)
			changed = true
		}
	}
	if changed {
		return deviceful
	}
	return nobody
}

// updateClaim reports who may fit now. Pods that name the claim are woken here: most
// changes of claims matter to nobody else.
func (s *Scheduler) updateClaim(key types.NamespacedName, now time.Time) concern {
	old := s.cluster.Devices.Claim(key)
	o := client.Cached(s.cfg.Client, api.ResourceClaims, key.Namespace, key.Name)
	var freed bool
	if o != nil {
		freed = s.cluster.Devices.SetClaim(o)
	} else {
		freed = s.cluster.Devices.RemoveClaim(key) || old != nil && devices.IsExtended(old) // its pod waits for that
	}
	switch {
	case freed:
		return deviceful
	case o != nil && (old == nil || !apiequality.Semantic.DeepEqual(old.Status, o.Status)):
		s.queue.wakeUsers(now, key)
	}
	return nobody
}

// ended settles how a binding ended: what was only assumed is now known.
func (s *Scheduler) ended(o outcome, now time.Time) (wake concern) {
	for _, c := range o.written {
		// What the cache does not show yet counts as it was written; else the cache is right,
		// which may have seen more since.
		if s.cfg.Client.Revision(api.ResourceClaims.Facts) >= revision(c) {
			wake |= s.updateClaim(types.NamespacedName{Namespace: c.Namespace, Name: c.Name}, now)
		} else if s.cluster.Devices.SetClaim(c) {
			wake |= deviceful
		}
	}
	s.cluster.Devices.Forget(o.UID, o.decision.Grant)
	if o.bound {
		return wake
	}
	if o.retry {
		delete(s.assumed, o.UID)
		s.cluster.RemovePod(o.UID)
		if p := o.pending; s.queue.pods[p.UID] == p && p.state == idle {
			s.queue.retry(p, now.Add(backoff(p.attempts)))
		}
	}
	return everybody // its room is free
}

func revision(o *resource.ResourceClaim) int64 {
	n, _ := strconv.ParseInt(o.ResourceVersion, 10, 64) // objects of the API always have one
	return n
}
