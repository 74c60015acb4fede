package replicaset

import (
	"context"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

func (d Deps) replicaSet(namespace, name string) (api.Object, *apps.ReplicaSet) {
	rs := client.Cached(d.Client, api.ReplicaSets, namespace, name)
	if rs == nil {
		return nil, nil
	}
	return rs, rs
}

func (d Deps) writeReplicaSet(ctx context.Context, o api.Object, s apps.ReplicaSetStatus) error {
	was := o.(*apps.ReplicaSet)
	next := *was // shallow: only the status differs
	next.Status = s
	return client.WriteStatus(ctx, d.Client, api.ReplicaSets, was, &next)
}

// replicationController shows a ReplicationController as a ReplicaSet.
func (d Deps) replicationController(namespace, name string) (api.Object, *apps.ReplicaSet) {
	rc := client.Cached(d.Client, api.ReplicationControllers, namespace, name)
	if rc == nil {
		return nil, nil
	}
	rs := &apps.ReplicaSet{ObjectMeta: rc.ObjectMeta, Spec: apps.ReplicaSetSpec{
		Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
		Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
	}}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	rs.Status = apps.ReplicaSetStatus{
		Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
		AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, apps.ReplicaSetCondition{
			Type: apps.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rc, rs
}

func (d Deps) writeReplicationController(ctx context.Context, o api.Object, s apps.ReplicaSetStatus) error {
	was := o.(*core.ReplicationController)
	next := *was // shallow: only the status differs
	next.Status = core.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
		AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		next.Status.Conditions = append(next.Status.Conditions, core.ReplicationControllerCondition{
			Type: core.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return client.WriteStatus(ctx, d.Client, api.ReplicationControllers, was, &next)
}
