package api

import (
	apps "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
)

var appsV1, batchV1 = apps.SchemeGroupVersion, batch.SchemeGroupVersion

// Kinds of apps/v1.
var (
	Deployments         = kind[apps.Deployment, apps.DeploymentList](appsV1, "Deployment", Facts{Plural: "deployments", Short: words("deploy"), Categories: words("all"), Status: true, Scale: true})
	ReplicaSets         = kind[apps.ReplicaSet, apps.ReplicaSetList](appsV1, "ReplicaSet", Facts{Plural: "replicasets", Short: words("rs"), Categories: words("all"), Status: true, Scale: true})
	StatefulSets        = kind[apps.StatefulSet, apps.StatefulSetList](appsV1, "StatefulSet", Facts{Plural: "statefulsets", Short: words("sts"), Categories: words("all"), Status: true, Scale: true})
	DaemonSets          = kind[apps.DaemonSet, apps.DaemonSetList](appsV1, "DaemonSet", Facts{Plural: "daemonsets", Short: words("ds"), Categories: words("all"), Status: true})
	ControllerRevisions = kind[apps.ControllerRevision, apps.ControllerRevisionList](appsV1, "ControllerRevision", Facts{Plural: "controllerrevisions"})
)

// Kinds of batch/v1.
var (
	Jobs     = kind[batch.Job, batch.JobList](batchV1, "Job", Facts{Plural: "jobs", Categories: words("all"), Status: true})
	CronJobs = kind[batch.CronJob, batch.CronJobList](batchV1, "CronJob", Facts{Plural: "cronjobs", Short: words("cj"), Categories: words("all"), Status: true})
)

// Kinds of autoscaling/v2 and v1. Objects are stored as v2.
var (
	HorizontalPodAutoscalers = kind[autoscaling.HorizontalPodAutoscaler, autoscaling.HorizontalPodAutoscalerList](autoscaling.SchemeGroupVersion, "HorizontalPodAutoscaler",
		Facts{Plural: "horizontalpodautoscalers", Short: words("hpa"), Categories: words("all"), Status: true})
	HorizontalPodAutoscalersV1 = kind[autoscalingv1.HorizontalPodAutoscaler, autoscalingv1.HorizontalPodAutoscalerList](autoscalingv1.SchemeGroupVersion, "HorizontalPodAutoscaler",
		Facts{Plural: "horizontalpodautoscalers", Short: words("hpa"), Categories: words("all"), Status: true, SameAs: HorizontalPodAutoscalers.Facts})
)

var appsKinds = []*Facts{
	Deployments.Facts, ReplicaSets.Facts, StatefulSets.Facts, DaemonSets.Facts, ControllerRevisions.Facts, Jobs.Facts, CronJobs.Facts,
	HorizontalPodAutoscalers.Facts, HorizontalPodAutoscalersV1.Facts,
}
