// Package quota keeps namespaces within their ResourceQuotas. Guard decides at
// admission: it counts what the caches hold plus what it has just let through, so
// that parallel writes cannot pass together. Spec writes the counts into the
// quotas' status, for people to see; no decision reads them.
//
// usage.go and scope.go are pure: what an object uses, and which quotas that concerns.
// Start reading at Guard.Admit.
package quota

import (
	"fmt"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/server/admission/settings"
)

// Guard admits writes. It is safe for parallel use.
type Guard struct {
	cache client.Cache
	meter meter
	// limited may be used only where a quota covers them.
	limited []settings.Limited

	mu sync.Mutex
	// pending are writes let through that have not ended: the cache may not show them yet. There
	// are as many as there are writes under way.
	pending map[pendingKey][]*pending
}

// pendingKey is an object; kind is where the store keeps it, as several kinds may show it.
type pendingKey struct {
	kind, namespace, name string
	uid                   types.UID
}

type pending struct {
	object api.Object
	// over is the resourceVersion that the write replaces, empty for a create.
	over string
}

// NewGuard makes a Guard over the registry's cache.
func NewGuard(c client.Cache, now func() time.Time, limited []settings.Limited) *Guard {
	return &Guard{cache: c, meter: meter{c, now}, limited: limited, pending: map[pendingKey][]*pending{}}
}

// Admit says why o (replacing before, nil on create) does not fit; nil if it does,
// and then it counts from now on unless dry. over is not nil where it does: call it when the
// write has ended, and the cache shows what came of it.
func (g *Guard) Admit(f *api.Facts, o, before api.Object, dry bool) (over func(), err error) {
	quotas := client.CachedList(g.cache, api.ResourceQuotas, o.GetNamespace(), nil)
	if len(quotas) == 0 && len(g.limited) == 0 {
		return nil, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	usage := g.meter.usage(f, o)
	if len(g.limited) > 0 {
		had := core.ResourceList{}
		if before != nil {
			had = g.meter.usage(f, before)
		}
		if grows(usage, had) {
			if err := uncovered(g.limited, quotas, f, o, usage); err != nil {
				return nil, err
			}
		}
	}
	concerned := false
	for _, q := range quotas {
		hit, err := g.fitsLocked(q, f, o, before, usage)
		if err != nil {
			return nil, err
		}
		concerned = concerned || hit
	}
	if !concerned || dry {
		return nil, nil
	}
	k, p := keyOf(f, o), &pending{object: o.DeepCopyObject().(api.Object)}
	if before != nil {
		p.over = before.GetResourceVersion()
	}
	g.pending[k] = append(g.pending[k], p)
	return func() { g.over(k, p) }, nil
}

// over forgets a write that has ended.
func (g *Guard) over(k pendingKey, p *pending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rest := slices.DeleteFunc(g.pending[k], func(o *pending) bool { return o == p })
	if len(rest) == 0 {
		delete(g.pending, k)
	} else {
		g.pending[k] = rest
	}
}

func keyOf(f *api.Facts, o api.Object) pendingKey {
	return pendingKey{f.Prefix(), o.GetNamespace(), o.GetName(), o.GetUID()}
}

// fitsLocked checks one quota; hit tells whether it concerns the object at all.
func (g *Guard) fitsLocked(q *core.ResourceQuota, f *api.Facts, o, before api.Object, usage core.ResourceList) (hit bool, err error) {
	if !Matches(q, o) {
		return false, nil
	}
	if p, ok := o.(*core.Pod); ok && before == nil {
		if err := missing(p, q.Spec.Hard); err != nil {
			return true, fmt.Errorf("failed quota: %s: %w", q.Name, err)
		}
	}
	wants := mask(usage, q.Spec.Hard)
	if before != nil && Matches(q, before) {
		for k, v := range mask(g.meter.usage(f, before), q.Spec.Hard) {
			n := wants[k]
			n.Sub(v)
			wants[k] = n
		}
	}
	var more []core.ResourceName
	for k, v := range wants {
		if v.Sign() > 0 {
			more = append(more, k)
		}
	}
	if len(more) == 0 {
		return false, nil
	}
	used := core.ResourceList{}
	for k := range q.Spec.Hard {
		used[k] = *newZero()
	}
	for _, kind := range kindsOf(mask(q.Spec.Hard, wants), []*api.Facts{f}) { // an extended resource is used by pods and claims
		addTo(used, g.usedLocked(q, kind))
	}
	var over []core.ResourceName
	for _, k := range more {
		sum, limit := used[k].DeepCopy(), q.Spec.Hard[k]
		sum.Add(wants[k])
		if sum.Cmp(limit) > 0 {
			over = append(over, k)
		}
	}
	if len(over) == 0 {
		return true, nil
	}
	slices.Sort(over)
	return true, fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name, text(wants, over), text(used, over), text(q.Spec.Hard, over))
}

// usedLocked sums what objects of the kind use of the quota: what is stored, with
// pending writes in their place. Of several that are about to replace one object only
// one can win: the largest counts.
func (g *Guard) usedLocked(q *core.ResourceQuota, f *api.Facts) core.ResourceList {
	used := core.ResourceList{}
	of := func(o api.Object) core.ResourceList {
		if !Matches(q, o) {
			return nil
		}
		return mask(g.meter.usage(f, o), q.Spec.Hard)
	}
	shown := map[pendingKey]bool{}
	g.cache.Each(f, q.Namespace, func(o api.Object) bool {
		sum := of(o)
		if len(g.pending) > 0 {
			k := keyOf(f, o)
			for _, p := range g.pending[k] {
				shown[k] = true
				if p.over == o.GetResourceVersion() {
					sum = largest(sum, of(p.object))
				}
			}
		}
		addTo(used, sum)
		return true
	})
	for k, list := range g.pending {
		if k.kind != f.Prefix() || k.namespace != q.Namespace || shown[k] {
			continue
		}
		for _, p := range list {
			if p.over == "" { // an update of what is gone will fail
				addTo(used, of(p.object))
			}
		}
	}
	return used
}

// largest takes the larger of each resource.
func largest(a, b core.ResourceList) core.ResourceList {
	out := a.DeepCopy()
	for k, v := range b {
		if have, ok := out[k]; !ok || v.Cmp(have) > 0 {
			if out == nil {
				out = core.ResourceList{}
			}
			out[k] = v
		}
	}
	return out
}
