package defaults

import (
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const historyLimit int32 = 10

// Deployment fills a deployment: one replica, rolling by quarters.
func Deployment(o *apps.Deployment) {
	s := &o.Spec
	PodTemplate(&s.Template)
	point(&s.Replicas, 1)
	fill(&s.Strategy.Type, apps.RollingUpdateDeploymentStrategyType)
	if s.Strategy.Type == apps.RollingUpdateDeploymentStrategyType {
		point(&s.Strategy.RollingUpdate, apps.RollingUpdateDeployment{})
		point(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		point(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	point(&s.RevisionHistoryLimit, historyLimit)
	point(&s.ProgressDeadlineSeconds, 600)
}

// ReplicaSet fills a replica set.
func ReplicaSet(o *apps.ReplicaSet) {
	PodTemplate(&o.Spec.Template)
	point(&o.Spec.Replicas, 1)
}

// DaemonSet fills a daemon set.
func DaemonSet(o *apps.DaemonSet) {
	s := &o.Spec
	PodTemplate(&s.Template)
	fill(&s.UpdateStrategy.Type, apps.RollingUpdateDaemonSetStrategyType)
	if s.UpdateStrategy.Type == apps.RollingUpdateDaemonSetStrategyType {
		point(&s.UpdateStrategy.RollingUpdate, apps.RollingUpdateDaemonSet{})
		point(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		point(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	point(&s.RevisionHistoryLimit, historyLimit)
}

// StatefulSet fills a stateful set and its claim templates.
func StatefulSet(o *apps.StatefulSet) {
	s := &o.Spec
	PodTemplate(&s.Template)
	fill(&s.PodManagementPolicy, apps.OrderedReadyPodManagement)
	fill(&s.UpdateStrategy.Type, apps.RollingUpdateStatefulSetStrategyType)
	if s.UpdateStrategy.Type == apps.RollingUpdateStatefulSetStrategyType {
		point(&s.UpdateStrategy.RollingUpdate, apps.RollingUpdateStatefulSetStrategy{})
		point(&s.UpdateStrategy.RollingUpdate.Partition, 0)
		point(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	point(&s.PersistentVolumeClaimRetentionPolicy, apps.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	fill(&s.PersistentVolumeClaimRetentionPolicy.WhenDeleted, apps.RetainPersistentVolumeClaimRetentionPolicyType)
	fill(&s.PersistentVolumeClaimRetentionPolicy.WhenScaled, apps.RetainPersistentVolumeClaimRetentionPolicyType)
	point(&s.Replicas, 1)
	point(&s.RevisionHistoryLimit, historyLimit)
	for i := range s.VolumeClaimTemplates {
		PersistentVolumeClaim(&s.VolumeClaimTemplates[i])
	}
	ClaimTemplateTypes(o)
}

// ClaimTemplateTypes says in the templates of claims that they are such, as upstream's
// Convert_apps_StatefulSetSpec_To_v1_StatefulSetSpec does: the store's encoding has no place for the
// type of an inner object.
func ClaimTemplateTypes(o *apps.StatefulSet) {
	for i := range o.Spec.VolumeClaimTemplates {
		o.Spec.VolumeClaimTemplates[i].SetGroupVersionKind(core.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))
	}
}
