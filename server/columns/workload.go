package columns

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	apps "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
)

// template is the wide tail of workloads: containers, images and selector.
func template[P any](spec func(P) *core.PodSpec) []Of[P] {
	each := func(o P, word func(*core.Container) string) string {
		s := spec(o)
		if s == nil {
			return ""
		}
		words := make([]string, len(s.Containers))
		for i := range s.Containers {
			words[i] = word(&s.Containers[i])
		}
		return strings.Join(words, ",")
	}
	return list(
		wide(text("Containers", "Names of each container in the template.", func(o P) string {
			return each(o, func(c *core.Container) string { return c.Name })
		})),
		wide(text("Images", "Images referenced by each container in the template.", func(o P) string {
			return each(o, func(c *core.Container) string { return c.Image })
		})),
	)
}

func selector[P any](about string, of func(P) *metav1.LabelSelector) Of[P] {
	return wide(text("Selector", about, func(o P) string { return metav1.FormatLabelSelector(of(o)) }))
}

// Deployment shows ready, updated and available replicas.
func Deployment() []Column[apps.Deployment] {
	type d = apps.Deployment
	spec, status := apps.DeploymentSpec{}.SwaggerDoc(), apps.DeploymentStatus{}.SwaggerDoc()
	c := list(
		name[d](),
		text("Ready", "Number of the pod with ready state", func(o *d) string {
			return fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, value(o.Spec.Replicas))
		}),
		asText(number("Up-to-date", status["updatedReplicas"], func(o *d) int { return int(o.Status.UpdatedReplicas) })),
		asText(number("Available", status["availableReplicas"], func(o *d) int { return int(o.Status.AvailableReplicas) })),
		age[d](),
	)
	c = append(c, template(func(o *d) *core.PodSpec { return &o.Spec.Template.Spec })...)
	return append(c, selector(spec["selector"], func(o *d) *metav1.LabelSelector { return o.Spec.Selector }))
}

// ReplicaSet shows wanted, current and ready replicas.
func ReplicaSet() []Column[apps.ReplicaSet] {
	type r = apps.ReplicaSet
	spec, status := apps.ReplicaSetSpec{}.SwaggerDoc(), apps.ReplicaSetStatus{}.SwaggerDoc()
	c := list(
		name[r](),
		number("Desired", spec["replicas"], func(o *r) int { return int(value(o.Spec.Replicas)) }),
		number("Current", status["replicas"], func(o *r) int { return int(o.Status.Replicas) }),
		number("Ready", status["readyReplicas"], func(o *r) int { return int(o.Status.ReadyReplicas) }),
		age[r](),
	)
	c = append(c, template(func(o *r) *core.PodSpec { return &o.Spec.Template.Spec })...)
	return append(c, selector(spec["selector"], func(o *r) *metav1.LabelSelector { return o.Spec.Selector }))
}

// ReplicationController shows wanted, current and ready replicas.
func ReplicationController() []Column[core.ReplicationController] {
	type r = core.ReplicationController
	spec, status := core.ReplicationControllerSpec{}.SwaggerDoc(), core.ReplicationControllerStatus{}.SwaggerDoc()
	c := list(
		name[r](),
		number("Desired", spec["replicas"], func(o *r) int { return int(value(o.Spec.Replicas)) }),
		number("Current", status["replicas"], func(o *r) int { return int(o.Status.Replicas) }),
		number("Ready", status["readyReplicas"], func(o *r) int { return int(o.Status.ReadyReplicas) }),
		age[r](),
	)
	c = append(c, template(func(o *r) *core.PodSpec {
		if o.Spec.Template == nil {
			return nil
		}
		return &o.Spec.Template.Spec
	})...)
	return append(c, wide(text("Selector", spec["selector"], func(o *r) string { return labels.FormatLabels(o.Spec.Selector) })))
}

// StatefulSet shows ready replicas.
func StatefulSet() []Column[apps.StatefulSet] {
	type s = apps.StatefulSet
	c := list(
		name[s](),
		text("Ready", "Number of the pod with ready state", func(o *s) string {
			return fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, value(o.Spec.Replicas))
		}),
		age[s](),
	)
	return append(c, template(func(o *s) *core.PodSpec { return &o.Spec.Template.Spec })...)
}

// DaemonSet shows its counts of nodes.
func DaemonSet() []Column[apps.DaemonSet] {
	type d = apps.DaemonSet
	status := apps.DaemonSetStatus{}.SwaggerDoc()
	c := list(
		name[d](),
		number("Desired", status["desiredNumberScheduled"], func(o *d) int { return int(o.Status.DesiredNumberScheduled) }),
		number("Current", status["currentNumberScheduled"], func(o *d) int { return int(o.Status.CurrentNumberScheduled) }),
		number("Ready", status["numberReady"], func(o *d) int { return int(o.Status.NumberReady) }),
		number("Up-to-date", status["updatedNumberScheduled"], func(o *d) int { return int(o.Status.UpdatedNumberScheduled) }),
		number("Available", status["numberAvailable"], func(o *d) int { return int(o.Status.NumberAvailable) }),
		text("Node Selector", core.PodSpec{}.SwaggerDoc()["nodeSelector"], func(o *d) string { return labels.FormatLabels(o.Spec.Template.Spec.NodeSelector) }),
		age[d](),
	)
	c = append(c, template(func(o *d) *core.PodSpec { return &o.Spec.Template.Spec })...)
	return append(c, selector(apps.DaemonSetSpec{}.SwaggerDoc()["selector"], func(o *d) *metav1.LabelSelector { return o.Spec.Selector }))
}

// ControllerRevision shows whose history it is.
func ControllerRevision() []Column[apps.ControllerRevision] {
	type r = apps.ControllerRevision
	return list(
		name[r](),
		text("Controller", "Controller of the object", controllerOf),
		asText(number("Revision", apps.ControllerRevision{}.SwaggerDoc()["revision"], func(o *r) int { return int(o.Revision) })),
		age[r](),
	)
}

func controllerOf(o *apps.ControllerRevision) string {
	ref := metav1.GetControllerOf(o)
	if ref == nil {
		return none
	}
	kind := strings.ToLower(ref.Kind)
	if group, _, grouped := strings.Cut(ref.APIVersion, "/"); grouped {
		kind += "." + group
	}
	return kind + "/" + ref.Name
}

// PodTemplate shows the template's containers.
func PodTemplate() []Column[core.PodTemplate] {
	type p = core.PodTemplate
	c := list(name[p]())
	for _, t := range template(func(o *p) *core.PodSpec { return &o.Template.Spec }) {
		t.Wide = false
		c = append(c, t)
	}
	return append(c, text("Pod Labels", "The labels for the pod template.", func(o *p) string { return labels.FormatLabels(o.Template.Labels) }))
}

// Job shows status, completions and duration.
func Job() []Column[batch.Job] {
	type j = batch.Job
	spec, status := batch.JobSpec{}.SwaggerDoc(), batch.JobStatus{}.SwaggerDoc()
	c := list(
		name[j](),
		text("Status", "Status of the job.", jobStatus),
		text("Completions", status["succeeded"], completions),
		timed("Duration", "Time required to complete the job.", func(o *j, now time.Time) string {
			switch {
			case o.Status.StartTime == nil:
				return ""
			case o.Status.CompletionTime == nil:
				return duration.HumanDuration(now.Sub(o.Status.StartTime.Time))
			}
			return duration.HumanDuration(o.Status.CompletionTime.Sub(o.Status.StartTime.Time))
		}),
		age[j](),
	)
	c = append(c, template(func(o *j) *core.PodSpec { return &o.Spec.Template.Spec })...)
	return append(c, selector(spec["selector"], func(o *j) *metav1.LabelSelector { return o.Spec.Selector }))
}

func jobStatus(o *batch.Job) string {
	is := map[batch.JobConditionType]bool{}
	for _, c := range o.Status.Conditions {
		is[c.Type] = c.Status == core.ConditionTrue
	}
	switch {
	case is[batch.JobComplete]:
		return "Complete"
	case is[batch.JobFailed]:
		return "Failed"
	case o.DeletionTimestamp != nil:
		return "Terminating"
	case is[batch.JobSuspended]:
		return "Suspended"
	case is[batch.JobFailureTarget]:
		return "FailureTarget"
	case is[batch.JobSuccessCriteriaMet]:
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(o *batch.Job) string {
	switch parallel := value(o.Spec.Parallelism); {
	case o.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", o.Status.Succeeded, *o.Spec.Completions)
	case parallel > 1:
		return fmt.Sprintf("%d/1 of %d", o.Status.Succeeded, parallel)
	}
	return fmt.Sprintf("%d/1", o.Status.Succeeded)
}

// CronJob shows schedule and last run.
func CronJob() []Column[batch.CronJob] {
	type j = batch.CronJob
	spec, status := batch.CronJobSpec{}.SwaggerDoc(), batch.CronJobStatus{}.SwaggerDoc()
	c := list(
		name[j](),
		text("Schedule", spec["schedule"], func(o *j) string { return o.Spec.Schedule }),
		text("Timezone", spec["timeZone"], func(o *j) string { return or(value(o.Spec.TimeZone), none) }),
		text("Suspend", spec["suspend"], func(o *j) string { return switched(o.Spec.Suspend) }),
		number("Active", status["active"], func(o *j) int { return len(o.Status.Active) }),
		timed("Last Schedule", status["lastScheduleTime"], func(o *j, now time.Time) string {
			if o.Status.LastScheduleTime == nil {
				return none
			}
			return since(o.Status.LastScheduleTime.Time, now)
		}),
		age[j](),
	)
	c[3].Type = "boolean"
	c = append(c, template(func(o *j) *core.PodSpec { return &o.Spec.JobTemplate.Spec.Template.Spec })...)
	return append(c, selector(batch.JobSpec{}.SwaggerDoc()["selector"], func(o *j) *metav1.LabelSelector { return o.Spec.JobTemplate.Spec.Selector }))
}

// HorizontalPodAutoscaler shows target and bounds.
func HorizontalPodAutoscaler() []Column[autoscaling.HorizontalPodAutoscaler] {
	type h = autoscaling.HorizontalPodAutoscaler
	spec, status := autoscaling.HorizontalPodAutoscalerSpec{}.SwaggerDoc(), autoscaling.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
	return list(
		name[h](),
		text("Reference", spec["scaleTargetRef"], func(o *h) string { return o.Spec.ScaleTargetRef.Kind + "/" + o.Spec.ScaleTargetRef.Name }),
		text("Targets", spec["metrics"], metricTargets),
		text("MinPods", spec["minReplicas"], func(o *h) string {
			if o.Spec.MinReplicas == nil {
				return unset
			}
			return strconv.Itoa(int(*o.Spec.MinReplicas))
		}),
		asText(number("MaxPods", spec["maxReplicas"], func(o *h) int { return int(o.Spec.MaxReplicas) })),
		asText(number("Replicas", status["currentReplicas"], func(o *h) int { return int(o.Status.CurrentReplicas) })),
		age[h](),
	)
}

// metricTargets shows the first two metrics as now/wanted.
func metricTargets(o *autoscaling.HorizontalPodAutoscaler) string {
	const limit = 2
	specs := o.Spec.Metrics
	if len(specs) == 0 {
		return none
	}
	var words []string
	for i := range specs[:min(limit, len(specs))] {
		var now autoscaling.MetricStatus
		if i < len(o.Status.CurrentMetrics) {
			now = o.Status.CurrentMetrics[i]
		}
		words = append(words, metricTarget(&specs[i], &now))
	}
	joined := strings.Join(words, ", ")
	if len(specs) > limit {
		return fmt.Sprintf("%s + %d more...", joined, len(specs)-limit)
	}
	return joined
}

func metricTarget(m *autoscaling.MetricSpec, now *autoscaling.MetricStatus) string {
	pair := func(current *autoscaling.MetricValueStatus, t autoscaling.MetricTarget) string {
		return currentValue(current, t) + "/" + wantedValue(t)
	}
	switch {
	case m.External != nil:
		var v *autoscaling.MetricValueStatus
		if now.External != nil {
			v = &now.External.Current
		}
		return pair(v, m.External.Target) + average(m.External.Target)
	case m.Object != nil:
		var v *autoscaling.MetricValueStatus
		if now.Object != nil {
			v = &now.Object.Current
		}
		return pair(v, m.Object.Target) + average(m.Object.Target)
	case m.Pods != nil:
		var v *autoscaling.MetricValueStatus
		if now.Pods != nil {
			v = &now.Pods.Current
		}
		return pair(v, m.Pods.Target)
	case m.Resource != nil:
		var v *autoscaling.MetricValueStatus
		if now.Resource != nil {
			v = &now.Resource.Current
		}
		return string(m.Resource.Name) + ": " + pair(v, m.Resource.Target)
	case m.ContainerResource != nil:
		var v *autoscaling.MetricValueStatus
		if now.ContainerResource != nil {
			v = &now.ContainerResource.Current
		}
		return string(m.ContainerResource.Name) + ": " + pair(v, m.ContainerResource.Target)
	}
	return "<unknown type>"
}

func average(t autoscaling.MetricTarget) string {
	if t.AverageValue != nil {
		return " (avg)"
	}
	return ""
}

func currentValue(v *autoscaling.MetricValueStatus, t autoscaling.MetricTarget) string {
	switch {
	case v == nil:
	case t.AverageValue != nil:
		if v.AverageValue != nil {
			return v.AverageValue.String()
		}
	case t.Value != nil:
		if v.Value != nil {
			return v.Value.String()
		}
	case v.AverageUtilization != nil:
		return fmt.Sprintf("%d%%", *v.AverageUtilization)
	}
	return unknown
}

func wantedValue(t autoscaling.MetricTarget) string {
	switch {
	case t.AverageValue != nil:
		return t.AverageValue.String()
	case t.Value != nil:
		return t.Value.String()
	case t.AverageUtilization != nil:
		return fmt.Sprintf("%d%%", *t.AverageUtilization)
	}
	return "<auto>"
}

// Scale shows the replicas of anything that can be scaled.
func Scale() []Column[autoscalingv1.Scale] {
	type s = autoscalingv1.Scale
	return list(name[s](),
		number("Desired", autoscalingv1.ScaleSpec{}.SwaggerDoc()["replicas"], func(o *s) int { return int(o.Spec.Replicas) }),
		number("Available", autoscalingv1.ScaleStatus{}.SwaggerDoc()["replicas"], func(o *s) int { return int(o.Status.Replicas) }),
		age[s]())
}
