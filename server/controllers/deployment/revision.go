package deployment

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/server/controllers/workpod"
)

// hashLabel tells the pods of a deployment's sets apart.
const hashLabel = apps.DefaultDeploymentUniqueLabelKey

// historyLimit bounds the revision-history annotation, as upstream does.
const historyLimit = 2000

// sameTemplate compares templates but for the hash label.
func sameTemplate(a, b *core.PodTemplateSpec) bool {
	ma, mb := a.ObjectMeta, b.ObjectMeta
	ma.Labels, mb.Labels = without(ma.Labels, hashLabel), without(mb.Labels, hashLabel)
	return equality.Semantic.DeepEqual(ma, mb) && equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

func without(m map[string]string, key string) map[string]string {
	if _, ok := m[key]; !ok {
		return m
	}
	m = maps.Clone(m)
	delete(m, key)
	return m
}

// findNew is the oldest set with the deployment's template; sets must be sorted.
func findNew(d *apps.Deployment, sets []*apps.ReplicaSet) *apps.ReplicaSet {
	for _, s := range sets {
		if sameTemplate(&s.Spec.Template, &d.Spec.Template) {
			return s
		}
	}
	return nil
}

func revisionOf(o metav1.Object) int64 {
	n, err := strconv.ParseInt(o.GetAnnotations()[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is one above that of all old sets.
func (r *rollout) nextRevision() int64 {
	most := int64(0)
	for _, s := range r.old {
		most = max(most, revisionOf(s))
	}
	return most + 1
}

// ensureNew plans the new set if there is none (false: nothing else can be done
// now), else keeps its annotations right.
func (r *rollout) ensureNew() bool {
	if r.newSet != nil {
		r.adoptNew()
		return true
	}
	d := r.deployment
	revision := strconv.FormatInt(r.nextRevision(), 10)
	set := newSet(d)
	set.Annotations = map[string]string{revisionAnnotation: revision}
	maps.Copy(set.Annotations, sizeAnnotations(d))
	for k, v := range d.Annotations {
		if inherited(k) {
			set.Annotations[k] = v
		}
	}
	set.Spec.Replicas = new(newSize(d, r.sets, nil))
	r.create, r.revision = set, revision
	return false
}

// newSet makes the set of the deployment's template, without its size.
func newSet(d *apps.Deployment) *apps.ReplicaSet {
	hash := workpod.TemplateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = with(template.Labels, hashLabel, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = with(selector.MatchLabels, hashLabel, hash)
	return &apps.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{workpod.OwnerRef(api.Deployments.Facts, d)},
		},
		Spec: apps.ReplicaSetSpec{MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: template},
	}
}

func with(m map[string]string, key, value string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

// inherited annotations are copied from a deployment to its sets.
func inherited(key string) bool {
	switch key {
	case core.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation, apps.DeprecatedRollbackTo:
		return false
	}
	return true
}

// adoptNew keeps the existing new set's revision the highest, its annotations
// and minReadySeconds those of the deployment.
func (r *rollout) adoptNew() {
	if r.newSet == nil {
		return
	}
	d, s := r.deployment, r.newSet
	c := r.changeOf(s)
	c.minReady = d.Spec.MinReadySeconds
	for k, v := range d.Annotations {
		if inherited(k) && s.Annotations[k] != v {
			c.annotate(k, v)
		}
	}
	revision := revisionOf(s)
	if next := r.nextRevision(); revision < next {
		if old := s.Annotations[revisionAnnotation]; old != "" {
			c.annotate(historyAnnotation, history(s.Annotations[historyAnnotation], old))
		}
		c.annotate(revisionAnnotation, strconv.FormatInt(next, 10))
		revision = next
	}
	if revisionOf(d) != revision {
		r.revision = strconv.FormatInt(revision, 10)
	}
	if condition(&r.status, apps.DeploymentProgressing) == nil && hasDeadline(d) {
		r.setCondition(apps.DeploymentProgressing, core.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", s.Name))
	}
}

// history appends a revision, letting go of the oldest when it grows too long.
func history(list, revision string) string {
	if list == "" {
		return revision
	}
	list += "," + revision
	for len(list) > historyLimit {
		_, rest, found := strings.Cut(list, ",")
		if !found {
			break
		}
		list = rest
	}
	return list
}
