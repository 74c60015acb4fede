// Package quota keeps namespaces within their ResourceQuotas. Guard decides at
// admission: it counts what the caches hold plus what it has just let through, so
// that parallel writes cannot pass together. Spec writes the counts into the
// quotas' status, for people to see; no decision reads them.
//
// usage.go is pure: what an object uses. Start reading at Guard.Admit.
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
)

// pendingFor is how long something let through counts without showing up: longer
// than any write takes.
const pendingFor = 60 * time.Second

// Guard admits writes. It is safe for parallel use.
type Guard struct {
	cache client.Cache
	now   func() time.Time

	mu sync.Mutex
	// pending are writes let through that the cache does not show yet.
	pending map[pendingKey]pending
}

type pendingKey struct {
	kind            *api.Facts
	namespace, name string
	uid             types.UID
}

type pending struct {
	object api.Object
	// over is the resourceVersion that the write replaces, empty for a create.
	over  string
	until time.Time
}

// NewGuard makes a Guard over the registry's cache.
func NewGuard(c client.Cache, now func() time.Time) *Guard {
	return &Guard{cache: c, now: now, pending: map[pendingKey]pending{}}
}

// Admit says why o (replacing before, nil on create) does not fit; nil if it does,
// and then it counts from now on unless dry.
func (g *Guard) Admit(f *api.Facts, o, before api.Object, dry bool) error {
	quotas := client.CachedList(g.cache, api.ResourceQuotas, o.GetNamespace(), nil)
	if len(quotas) == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	usage := Usage(f, o, now)
	concerned := false
	for _, q := range quotas {
		hit, err := g.fitsLocked(q, f, o, before, usage)
		if err != nil {
			return err
		}
		concerned = concerned || hit
	}
	if concerned && !dry {
		p := pending{object: o.DeepCopyObject().(api.Object), until: now.Add(pendingFor)}
		if before != nil {
			p.over = before.GetResourceVersion()
		}
		g.pending[keyOf(f, o)] = p
	}
	return nil
}

func keyOf(f *api.Facts, o api.Object) pendingKey {
	return pendingKey{f, o.GetNamespace(), o.GetName(), o.GetUID()}
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
		for k, v := range mask(Usage(f, before, g.now()), q.Spec.Hard) {
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
	used := g.usedLocked(q, f)
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
// pending writes in their place. It forgets pending writes that are overtaken.
func (g *Guard) usedLocked(q *core.ResourceQuota, f *api.Facts) core.ResourceList {
	now := g.now()
	used := core.ResourceList{}
	for k := range q.Spec.Hard {
		used[k] = *newZero()
	}
	count := func(o api.Object) {
		if Matches(q, o) {
			addTo(used, mask(Usage(f, o, now), q.Spec.Hard))
		}
	}
	g.cache.Each(f, q.Namespace, func(o api.Object) bool {
		k := keyOf(f, o)
		if p, ok := g.pending[k]; ok {
			if p.over != "" && p.over == o.GetResourceVersion() && now.Before(p.until) {
				count(p.object)
				return true
			}
			delete(g.pending, k)
		}
		count(o)
		return true
	})
	for k, p := range g.pending {
		if !now.Before(p.until) {
			delete(g.pending, k)
			continue
		}
		if k.kind == f && k.namespace == q.Namespace && p.over == "" {
			count(p.object)
		}
	}
	return used
}
