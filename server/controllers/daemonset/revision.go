package daemonset

import (
	"context"
	"fmt"
	"maps"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/controllers/history"
	"orch/server/controllers/workpod"
)

const hashLabel = apps.DefaultDaemonSetUniqueLabelKey

// revisions finds or makes the revision of the set's template, and lists the others.
func (c *controller) revisions(ctx context.Context, d *apps.DaemonSet, sel labels.Selector, pods []*core.Pod) (current *apps.ControllerRevision, old []*apps.ControllerRevision, err error) {
	claim := workpod.ClaimOf(d, sel, client.CachedList(c.Client, api.ControllerRevisions, d.Namespace, nil))
	all, err := claim.Apply(ctx, c.Client, api.ControllerRevisions, api.DaemonSets.Facts, d)
	if err != nil {
		return nil, nil, err
	}
	data, err := history.Data(&d.Spec.Template)
	if err != nil {
		return nil, nil, reconcile.Terminal(err)
	}
	history.Sort(all)
	var same []*apps.ControllerRevision
	for _, r := range all {
		if r.Labels[hashLabel] == "" { // made by a version that did not label them
			if r, err = c.label(ctx, r); err != nil {
				return nil, nil, err
			}
		}
		if history.Matches(r, &d.Spec.Template, data) {
			same = append(same, r)
		} else {
			old = append(old, r)
		}
	}
	number := history.Newest(old) + 1
	if len(same) == 0 {
		current, err = c.snapshot(ctx, d, data, number)
		return current, old, err
	}
	current = same[len(same)-1]
	if err := c.merge(ctx, same[:len(same)-1], current, pods); err != nil {
		return nil, nil, err
	}
	if current.Revision < number {
		current, err = c.history.Renumber(ctx, current, number)
	}
	return current, old, err
}

func (c *controller) label(ctx context.Context, r *apps.ControllerRevision) (*apps.ControllerRevision, error) {
	body := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, hashLabel, r.Name)
	r, err := client.Patch(ctx, c.Client, api.ControllerRevisions, client.Target{Namespace: r.Namespace, Name: r.Name}, types.MergePatchType, body)
	if err != nil {
		return nil, fmt.Errorf("labelling revision: %w", err)
	}
	return r, nil
}

// merge makes one of several revisions of the same template: pods are counted to the
// newest, the others go.
func (c *controller) merge(ctx context.Context, doubles []*apps.ControllerRevision, keep *apps.ControllerRevision, pods []*core.Pod) error {
	if len(doubles) == 0 {
		return nil
	}
	for _, p := range pods {
		if p.Labels[hashLabel] == keep.Labels[hashLabel] {
			continue
		}
		body := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, hashLabel, keep.Labels[hashLabel])
		if _, err := client.Patch(ctx, c.Client, api.Pods, client.Target{Namespace: p.Namespace, Name: p.Name}, types.MergePatchType, body); err != nil {
			return fmt.Errorf("labelling pod %s: %w", p.Name, err)
		}
	}
	return c.history.Delete(ctx, doubles)
}

// snapshot saves the template. A taken name is a collision of hashes: counted in
// the status, which changes the next hash.
func (c *controller) snapshot(ctx context.Context, d *apps.DaemonSet, data []byte, number int64) (*apps.ControllerRevision, error) {
	hash := workpod.TemplateHash(&d.Spec.Template, d.Status.CollisionCount)
	l := maps.Clone(d.Spec.Template.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[hashLabel] = hash
	r := &apps.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: l, Annotations: maps.Clone(d.Annotations),
			OwnerReferences: []metav1.OwnerReference{workpod.OwnerRef(api.DaemonSets.Facts, d)}},
		Data: runtime.RawExtension{Raw: data}, Revision: number,
	}
	made, collision, err := c.history.Create(ctx, r)
	if err != nil || !collision {
		return made, err
	}
	status := *d.Status.DeepCopy()
	count := int32(1)
	if status.CollisionCount != nil {
		count += *status.CollisionCount
	}
	status.CollisionCount = &count
	if err := c.writeStatus(ctx, d, status); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("creating revision %s: the name is taken by another template", r.Name)
}

// forget removes revisions beyond the limit that no pod is of.
func (c *controller) forget(ctx context.Context, d *apps.DaemonSet, old []*apps.ControllerRevision, pods []*core.Pod) error {
	live := map[string]bool{}
	for _, p := range pods {
		live[p.Labels[hashLabel]] = true
	}
	limit := 10
	if d.Spec.RevisionHistoryLimit != nil {
		limit = int(*d.Spec.RevisionHistoryLimit)
	}
	// Live ones count to the limit: as many more are kept.
	spare := len(old) - limit
	if spare <= 0 {
		return nil
	}
	idle := history.Surplus(old, 0, func(r *apps.ControllerRevision) bool { return live[r.Labels[hashLabel]] })
	return c.history.Delete(ctx, idle[:min(spare, len(idle))])
}
