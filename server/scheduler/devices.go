package scheduler

import (
	"context"
	"fmt"
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
	s.review = s.review || len(s.waiting) > 0
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
	switch {
	case o.bound:
		return wake
	case o.waits && s.assumed[o.UID]: // it may have gone meanwhile
		s.waiting[o.UID], s.review = o.attempt, true
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

// bindReady goes on with the pods whose devices are ready, and ends the wait of those whose
// devices will not be.
func (s *Scheduler) bindReady(ctx context.Context, now time.Time) {
	if !s.review && (s.due.IsZero() || s.due.After(now)) {
		return
	}
	s.review, s.due = false, time.Time{}
	for uid, a := range s.waiting {
		ready, until, err := s.ready(a, now)
		if !ready && err == nil {
			if s.due.IsZero() || until.Before(s.due) {
				s.due = until
			}
			continue
		}
		delete(s.waiting, uid)
		a.hopeless = err
		s.write(func() { s.inbox.ended(s.bind(ctx, a)) })
	}
}

// ready looks at all claims of a pod that waits.
func (s *Scheduler) ready(a attempt, now time.Time) (all bool, until time.Time, err error) {
	all = true
	for _, c := range a.reserved.all {
		o := s.cluster.Devices.Claim(types.NamespacedName{Namespace: c.Namespace, Name: c.Name})
		if o == nil {
			return false, until, fmt.Errorf("claim %s/%s is gone", c.Namespace, c.Name)
		}
		ready, end, err := devices.Ready(o, now)
		if err != nil {
			return false, until, err
		}
		if all = all && ready; !ready && (until.IsZero() || end.Before(until)) {
			until = end
		}
	}
	return all, until, nil
}

func revision(o *resource.ResourceClaim) int64 {
	n, _ := strconv.ParseInt(o.ResourceVersion, 10, 64) // objects of the API always have one
	return n
}
