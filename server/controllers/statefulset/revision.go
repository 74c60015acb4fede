package statefulset

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/controllers/history"
	"orch/server/controllers/workpod"
)

// revisionHashLabel holds the hash that a revision's name ends in.
const revisionHashLabel = "controller.kubernetes.io/hash"

// collisionTries bounds how many names are tried for one revision.
const collisionTries = 8

// revisions are the saved templates of a set.
type revisions struct {
	all             []*apps.ControllerRevision
	current, update revision
	collisions      int32
}

// revisions finds the revision that the set has, and finds, renumbers or makes the one it is to have.
func (c *controller) revisions(ctx context.Context, s *apps.StatefulSet, sel labels.Selector) (r revisions, err error) {
	claim := workpod.ClaimOf(s, sel, client.CachedList(c.Client, api.ControllerRevisions, s.Namespace, nil))
	if r.all, err = claim.Apply(ctx, c.Client, api.ControllerRevisions, api.StatefulSets.Facts, s); err != nil {
		return r, err
	}
	if s.Status.CollisionCount != nil {
		r.collisions = *s.Status.CollisionCount
	}
	data, err := history.Data(&s.Spec.Template)
	if err != nil {
		return r, reconcile.Terminal(err)
	}
	history.Sort(r.all)
	var update *apps.ControllerRevision
	for _, old := range r.all { // the newest of those that are the same
		if history.Matches(old, &s.Spec.Template, data) {
			update = old
		}
	}
	newest := history.Newest(r.all)
	switch {
	case update == nil && s.DeletionTimestamp != nil: // nothing is made any more, only counted
		r.current, r.update = revision{s.Status.CurrentRevision, &s.Spec.Template}, revision{s.Status.UpdateRevision, &s.Spec.Template}
		return r, nil
	case update == nil:
		update, err = c.snapshot(ctx, s, data, newest+1, &r.collisions)
	case update != r.all[len(r.all)-1]:
		update, err = c.history.Renumber(ctx, update, newest+1)
	}
	if err != nil {
		return r, err
	}
	r.update = revision{update.Name, &s.Spec.Template}
	r.current = r.update
	for _, old := range r.all {
		if old.Name == s.Status.CurrentRevision && old.Name != update.Name {
			t, err := history.Template(old)
			if err != nil {
				return r, reconcile.Terminal(err)
			}
			r.current = revision{old.Name, t}
		}
	}
	return r, nil
}

// snapshot saves the template under the first name that is free.
func (c *controller) snapshot(ctx context.Context, s *apps.StatefulSet, data []byte, number int64, collisions *int32) (*apps.ControllerRevision, error) {
	for range collisionTries {
		hash := hashOf(data, *collisions)
		l := maps.Clone(s.Spec.Template.Labels)
		if l == nil {
			l = map[string]string{}
		}
		l[revisionHashLabel] = hash
		made, collision, err := c.history.Create(ctx, &apps.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name[:min(len(s.Name), 223)] + "-" + hash, Labels: l, Annotations: maps.Clone(s.Annotations),
				OwnerReferences: []metav1.OwnerReference{workpod.OwnerRef(api.StatefulSets.Facts, s)}},
			Data: runtime.RawExtension{Raw: data}, Revision: number,
		})
		if err != nil || !collision {
			return made, err
		}
		*collisions++
	}
	return nil, fmt.Errorf("creating a revision of set %s: every name is taken", s.Name)
}

// hashOf is upstream's HashControllerRevision.
func hashOf(data []byte, collisions int32) string {
	h := fnv.New32()
	h.Write(data)
	h.Write([]byte(strconv.FormatInt(int64(collisions), 10)))
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// forget removes revisions beyond the limit that nothing is of.
func (c *controller) forget(ctx context.Context, s *apps.StatefulSet, r revisions, pods []*core.Pod) error {
	if s.Spec.RevisionHistoryLimit == nil || *s.Spec.RevisionHistoryLimit < 0 || s.DeletionTimestamp != nil {
		return nil
	}
	live := map[string]bool{r.current.name: true, r.update.name: true}
	for _, p := range pods {
		live[revisionOf(p)] = true
	}
	return c.history.Delete(ctx, history.Surplus(r.all, int(*s.Spec.RevisionHistoryLimit), func(o *apps.ControllerRevision) bool { return live[o.Name] }))
}
