package registry

import (
	"maps"
	"strconv"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
	"orch/server/validate"
)

func appsRows() []Resource {
	return []Resource{
		Row(api.Deployments, Hooks[apps.Deployment]{
			Validate: validate.Deployment, ValidateUpdate: validate.DeploymentUpdate, ValidateStatus: validate.DeploymentStatus, Warn: validate.DeploymentWarnings,
			Default: defaults.Deployment, Columns: columns.Deployment(), Scale: deploymentScale()}),
		Row(api.ReplicaSets, Hooks[apps.ReplicaSet]{
			Validate: validate.ReplicaSet, ValidateUpdate: validate.ReplicaSetUpdate, ValidateStatus: validate.ReplicaSetStatus, Warn: validate.ReplicaSetWarnings,
			Default: defaults.ReplicaSet, Columns: columns.ReplicaSet(), Scale: replicaSetScale(),
			FieldNames: []string{"status.replicas"},
			Fields: func(o *apps.ReplicaSet) fields.Set {
				return fields.Set{"status.replicas": strconv.Itoa(int(o.Status.Replicas))}
			},
		}),
		Row(api.StatefulSets, Hooks[apps.StatefulSet]{
			Validate: validate.StatefulSet, ValidateUpdate: validate.StatefulSetUpdate, ValidateStatus: validate.StatefulSetStatus, Warn: validate.StatefulSetWarnings,
			Default: defaults.StatefulSet, Loaded: defaults.ClaimTemplateTypes, Columns: columns.StatefulSet(), Scale: statefulSetScale()}),
		Row(api.DaemonSets, Hooks[apps.DaemonSet]{
			Validate: validate.DaemonSet, ValidateUpdate: validate.DaemonSetUpdate, ValidateStatus: validate.DaemonSetStatus, Warn: validate.DaemonSetWarnings,
			Default: defaults.DaemonSet, Columns: columns.DaemonSet(),
			PrepareCreate: func(o *apps.DaemonSet) { setTemplateGeneration(o, 1) },
			PrepareUpdate: countTemplate,
		}),
		Row(api.ControllerRevisions, Hooks[apps.ControllerRevision]{
			Validate: validate.ControllerRevision, ValidateUpdate: validate.ControllerRevisionUpdate,
			Columns: columns.ControllerRevision()}),
		Row(api.Jobs, Hooks[batch.Job]{
			Validate: validate.Job, ValidateUpdate: validate.JobUpdate, ValidateStatus: validate.JobStatus, Warn: validate.JobWarnings,
			Default: defaults.Job, Columns: columns.Job(), OrphanByDefault: true,
			PrepareCreate: newJob,
			FieldNames:    []string{"status.successful"},
			Fields: func(o *batch.Job) fields.Set {
				return fields.Set{"status.successful": strconv.Itoa(int(o.Status.Succeeded))}
			},
		}),
		Row(api.CronJobs, Hooks[batch.CronJob]{
			Validate: validate.CronJob, ValidateUpdate: validate.CronJobUpdate, Warn: validate.CronJobWarnings,
			Default: defaults.CronJob, Columns: columns.CronJob()}),
		hpaRow(), hpaV1Row(),
	}
}

// setTemplateGeneration notes in an annotation how often the pod template of a
// daemon set changed; old kubectl versions and upstream's controller read it.
func setTemplateGeneration(o *apps.DaemonSet, n int64) {
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	o.Annotations[apps.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

func countTemplate(o, old *apps.DaemonSet) {
	n, err := strconv.ParseInt(old.Annotations[apps.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		n = 1
	}
	if !equality.Semantic.DeepEqual(o.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(o, n)
}

// newJob makes the selector of a job and the labels that its pods carry, unless
// the client says that it chose them itself (upstream: generateSelector).
func newJob(o *batch.Job) {
	if o.Spec.ManualSelector != nil && *o.Spec.ManualSelector {
		return
	}
	uid := string(o.UID)
	t := &o.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	for key, value := range map[string]string{
		"job-name": o.Name, batch.JobNameLabel: o.Name,
		"controller-uid": uid, batch.ControllerUidLabel: uid,
	} {
		if _, has := t.Labels[key]; !has {
			t.Labels[key] = value // one that is there and wrong is refused by validation
		}
	}
	if o.Spec.Selector == nil {
		o.Spec.Selector = &metav1.LabelSelector{}
	}
	if o.Spec.Selector.MatchLabels == nil {
		o.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, has := o.Spec.Selector.MatchLabels[batch.ControllerUidLabel]; !has {
		o.Spec.Selector.MatchLabels[batch.ControllerUidLabel] = uid
	}
	if len(o.Labels) == 0 {
		o.Labels = maps.Clone(t.Labels) // where upstream's defaulting puts them at the next read
	}
}

func deploymentScale() *ScaleHooks[apps.Deployment] {
	type d = apps.Deployment
	return &ScaleHooks[d]{
		Spec:     func(o *d) int32 { return *orZero(o.Spec.Replicas) },
		SetSpec:  func(o *d, n int32) { o.Spec.Replicas = &n },
		Status:   func(o *d) int32 { return o.Status.Replicas },
		Selector: func(o *d) string { return selectorText(o.Spec.Selector) },
	}
}

func replicaSetScale() *ScaleHooks[apps.ReplicaSet] {
	type r = apps.ReplicaSet
	return &ScaleHooks[r]{
		Spec:     func(o *r) int32 { return *orZero(o.Spec.Replicas) },
		SetSpec:  func(o *r, n int32) { o.Spec.Replicas = &n },
		Status:   func(o *r) int32 { return o.Status.Replicas },
		Selector: func(o *r) string { return selectorText(o.Spec.Selector) },
	}
}

func statefulSetScale() *ScaleHooks[apps.StatefulSet] {
	type s = apps.StatefulSet
	return &ScaleHooks[s]{
		Spec:     func(o *s) int32 { return *orZero(o.Spec.Replicas) },
		SetSpec:  func(o *s, n int32) { o.Spec.Replicas = &n },
		Status:   func(o *s) int32 { return o.Status.Replicas },
		Selector: func(o *s) string { return selectorText(o.Spec.Selector) },
	}
}

func replicationControllerScale() *ScaleHooks[core.ReplicationController] {
	type r = core.ReplicationController
	return &ScaleHooks[r]{
		Spec:     func(o *r) int32 { return *orZero(o.Spec.Replicas) },
		SetSpec:  func(o *r, n int32) { o.Spec.Replicas = &n },
		Status:   func(o *r) int32 { return o.Status.Replicas },
		Selector: func(o *r) string { return labels.Set(o.Spec.Selector).AsSelector().String() },
	}
}

func orZero[T any](p *T) *T {
	if p == nil {
		return new(T)
	}
	return p
}

func selectorText(s *metav1.LabelSelector) string {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return "" // validation refuses such a selector
	}
	return sel.String()
}
