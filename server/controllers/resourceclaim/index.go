package resourceclaim

import (
	"slices"
	"strings"
	"sync"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/api/reconcile"
)

// index answers who uses what without a walk over all pods or claims. The cache's
// goroutines fill it, before they tell anybody of the change.
type index struct {
	mu sync.Mutex
	// All three are guarded by mu: the pods that name a claim, or that a claim was made
	// for; the pods that name a template; the claims that were made for a pod.
	byClaim, byTemplate multi[reconcile.Key]
	byOwner             multi[types.UID]
}

func newIndex() *index {
	return &index{byClaim: multi[reconcile.Key]{}, byTemplate: multi[reconcile.Key]{}, byOwner: multi[types.UID]{}}
}

func (x *index) pod(was, is *core.Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, step := range []struct {
		pod *core.Pod
		do  func(multi[reconcile.Key], reconcile.Key, reconcile.Key)
	}{{was, multi[reconcile.Key].remove}, {is, multi[reconcile.Key].add}} {
		if step.pod == nil {
			continue
		}
		key := reconcile.Key{Namespace: step.pod.Namespace, Name: step.pod.Name}
		for name := range resourceclaim.PodClaims(step.pod) {
			step.do(x.byClaim, reconcile.Key{Namespace: key.Namespace, Name: name}, key)
		}
		for _, r := range step.pod.Spec.ResourceClaims {
			if t := r.ResourceClaimTemplateName; t != nil {
				step.do(x.byTemplate, reconcile.Key{Namespace: key.Namespace, Name: *t}, key)
			}
		}
	}
}

func (x *index) claim(was, is *resource.ResourceClaim) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if was != nil && owner(was) != nil {
		x.byOwner.remove(owner(was).UID, reconcile.Key{Namespace: was.Namespace, Name: was.Name})
	}
	if is != nil && owner(is) != nil {
		x.byOwner.add(owner(is).UID, reconcile.Key{Namespace: is.Namespace, Name: is.Name})
	}
}

func (x *index) users(c *resource.ResourceClaim) []reconcile.Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.byClaim.list(reconcile.Key{Namespace: c.Namespace, Name: c.Name})
}

func (x *index) waiting(t *resource.ResourceClaimTemplate) []reconcile.Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.byTemplate.list(reconcile.Key{Namespace: t.Namespace, Name: t.Name})
}

func (x *index) madeFor(uid types.UID) []reconcile.Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.byOwner.list(uid)
}

// multi has several keys under one.
type multi[K comparable] map[K]map[reconcile.Key]struct{}

func (m multi[K]) add(k K, v reconcile.Key) {
	if m[k] == nil {
		m[k] = map[reconcile.Key]struct{}{}
	}
	m[k][v] = struct{}{}
}

func (m multi[K]) remove(k K, v reconcile.Key) {
	if delete(m[k], v); len(m[k]) == 0 {
		delete(m, k)
	}
}

// list is in order, so that the same claim is found each time.
func (m multi[K]) list(k K) []reconcile.Key {
	var out []reconcile.Key
	for v := range m[k] {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b reconcile.Key) int { return strings.Compare(a.Name, b.Name) })
	return out
}
