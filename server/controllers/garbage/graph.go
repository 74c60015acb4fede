package garbage

import (
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
)

// identity names one object.
type identity struct {
	kind            *api.Facts
	namespace, name string
	uid             types.UID
}

// node is an object that has owners. Objects without owners have no node, so a
// cluster full of ConfigMaps costs nothing here.
type node struct {
	identity
	owners []metav1.OwnerReference
	// deleting is set once the object is being deleted; waits when it then waits
	// for its own dependents (foreground).
	deleting, waits bool
}

// graph knows who depends on whom, by UID. It is fed by the caches of all kinds
// at once; everything is guarded by mu.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
	// dependents of an owner, whether the owner exists or not.
	dependents map[types.UID]map[types.UID]bool
	// finishing are objects that are being deleted and hold a finalizer of ours
	// (foregroundDeletion, orphan); they need not have owners.
	finishing map[types.UID]identity
}

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, dependents: map[types.UID]map[types.UID]bool{}, finishing: map[types.UID]identity{}}
}

// observe takes up a change and returns the UIDs of what should be looked at.
func (g *graph) observe(f *api.Facts, c client.Change) []types.UID {
	if c.New == nil && c.Old == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.New == nil {
		return g.removeLocked(c.Old.GetUID())
	}
	var look []types.UID
	if c.Old != nil && c.Old.GetUID() != c.New.GetUID() {
		look = g.removeLocked(c.Old.GetUID()) // deleted and made anew in one step
	}
	return append(look, g.upsertLocked(f, c.New)...)
}

func (g *graph) upsertLocked(f *api.Facts, o api.Object) []types.UID {
	id := identity{f, o.GetNamespace(), o.GetName(), o.GetUID()}
	var look []types.UID
	deleting := o.GetDeletionTimestamp() != nil
	waits := deleting && slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents)
	if waits || (deleting && slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents)) {
		g.finishing[id.uid] = id
		look = append(look, id.uid)
		for d := range g.dependents[id.uid] {
			look = append(look, d)
		}
	} else {
		delete(g.finishing, id.uid)
	}
	owners := o.GetOwnerReferences()
	was := g.nodes[id.uid]
	if was != nil && sameOwners(was.owners, owners) {
		if was.deleting != deleting || was.waits != waits {
			was.deleting, was.waits = deleting, waits
			look = append(look, id.uid)
		}
		return look
	}
	look = append(look, g.unlinkLocked(was)...)
	if len(owners) == 0 {
		return look
	}
	g.nodes[id.uid] = &node{id, owners, deleting, waits}
	for _, ref := range owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]bool{}
		}
		g.dependents[ref.UID][id.uid] = true
	}
	return append(look, id.uid)
}

// removeLocked forgets an object; its dependents, and owners that wait for it, are looked at.
func (g *graph) removeLocked(uid types.UID) []types.UID {
	delete(g.finishing, uid)
	look := g.unlinkLocked(g.nodes[uid])
	for d := range g.dependents[uid] {
		look = append(look, d)
	}
	return look
}

// unlinkLocked takes a node out and returns the owners that wait for it.
func (g *graph) unlinkLocked(n *node) []types.UID {
	if n == nil {
		return nil
	}
	var look []types.UID
	for _, ref := range n.owners {
		delete(g.dependents[ref.UID], n.uid)
		if len(g.dependents[ref.UID]) == 0 {
			delete(g.dependents, ref.UID)
		}
		if _, waits := g.finishing[ref.UID]; waits {
			look = append(look, ref.UID)
		}
	}
	delete(g.nodes, n.uid)
	return look
}

func sameOwners(a, b []metav1.OwnerReference) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.OwnerReference) bool {
		return x.UID == y.UID && x.Name == y.Name && x.Kind == y.Kind && x.APIVersion == y.APIVersion && blocks(x) == blocks(y)
	})
}

func blocks(r metav1.OwnerReference) bool {
	return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
}

// find returns what is known of a UID: the node (nil if it has no owners), and
// whether it waits with a finalizer of ours.
func (g *graph) find(uid types.UID) (n *node, finishing identity, isFinishing bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known := g.nodes[uid]; known != nil {
		c := *known
		n = &c
	}
	finishing, isFinishing = g.finishing[uid]
	return n, finishing, isFinishing
}

// dependentsOf returns copies of the nodes that have uid as an owner.
func (g *graph) dependentsOf(uid types.UID) []node {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []node
	for d := range g.dependents[uid] {
		out = append(out, *g.nodes[d])
	}
	return out
}

// forget drops every object of a kind that is served no longer.
func (g *graph) forget(f *api.Facts) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.nodes {
		if n.kind == f {
			g.unlinkLocked(n)
		}
	}
	for uid, id := range g.finishing {
		if id.kind == f {
			delete(g.finishing, uid)
		}
	}
}

// retain drops the objects of a kind that are not in there, and returns what is to be looked at.
func (g *graph) retain(f *api.Facts, there map[types.UID]bool) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	var gone []types.UID
	for uid, n := range g.nodes {
		if n.kind == f && !there[uid] {
			gone = append(gone, uid)
		}
	}
	for uid, id := range g.finishing {
		if id.kind == f && !there[uid] {
			gone = append(gone, uid)
		}
	}
	var look []types.UID
	for _, uid := range gone {
		look = append(look, g.removeLocked(uid)...)
	}
	return look
}

// dependentsOfKind lists the objects that have an owner of a kind.
func (g *graph) dependentsOfKind(gk schema.GroupKind) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []types.UID
	for uid, n := range g.nodes {
		if slices.ContainsFunc(n.owners, func(r metav1.OwnerReference) bool { return groupKind(r) == gk }) {
			list = append(list, uid)
		}
	}
	return list
}

// groupKind is that of an owner.
func groupKind(r metav1.OwnerReference) schema.GroupKind {
	group, _, ok := strings.Cut(r.APIVersion, "/")
	if !ok {
		group = ""
	}
	return schema.GroupKind{Group: group, Kind: r.Kind}
}
