package registry

import (
	"encoding/json"
	"fmt"
	"maps"

	v1 "k8s.io/api/autoscaling/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
	"orch/server/validate"
)

// Autoscalers are stored as version 2. Version 1 has one CPU goal; everything
// else stands in annotations, as JSON of version 1's own types.
const (
	hpaMetrics    = "autoscaling.alpha.kubernetes.io/metrics"
	hpaCurrent    = "autoscaling.alpha.kubernetes.io/current-metrics"
	hpaConditions = "autoscaling.alpha.kubernetes.io/conditions"
	hpaBehavior   = "autoscaling.alpha.kubernetes.io/behavior"
)

func hpaRow() Resource {
	return Row(api.HorizontalPodAutoscalers, Hooks[autoscaling.HorizontalPodAutoscaler]{
		Validate: validate.HorizontalPodAutoscaler, ValidateUpdate: validate.HorizontalPodAutoscalerUpdate, ValidateStatus: validate.HorizontalPodAutoscalerStatus,
		Default: defaults.HorizontalPodAutoscaler, Columns: columns.HorizontalPodAutoscaler(), Generation: GenerationNever,
	})
}

func hpaV1Row() Resource {
	return Row(api.HorizontalPodAutoscalersV1, Hooks[v1.HorizontalPodAutoscaler]{
		Validate: func(o *v1.HorizontalPodAutoscaler) validate.Errors {
			return validate.HorizontalPodAutoscaler(hpaFromV1(o))
		},
		ValidateUpdate: func(o, _ *v1.HorizontalPodAutoscaler) validate.Errors {
			return validate.HorizontalPodAutoscaler(hpaFromV1(o))
		},
		Default: defaults.HorizontalPodAutoscalerV1,
		Columns: columns.Convert(columns.HorizontalPodAutoscaler(), hpaFromV1), Generation: GenerationNever,
		ToStored: func(o *v1.HorizontalPodAutoscaler) (runtime.Object, error) { return hpaFromV1(o), nil },
		FromStored: func(o runtime.Object) (*v1.HorizontalPodAutoscaler, error) {
			h, ok := o.(*autoscaling.HorizontalPodAutoscaler)
			if !ok {
				return nil, fmt.Errorf("converting %T to an autoscaler", o)
			}
			return hpaToV1(h)
		},
	})
}

func hpaFromV1(o *v1.HorizontalPodAutoscaler) *autoscaling.HorizontalPodAutoscaler {
	h := &autoscaling.HorizontalPodAutoscaler{
		ObjectMeta: *o.ObjectMeta.DeepCopy(),
		Spec: autoscaling.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscaling.CrossVersionObjectReference(o.Spec.ScaleTargetRef),
			MinReplicas:    o.Spec.MinReplicas, MaxReplicas: o.Spec.MaxReplicas,
		},
		Status: autoscaling.HorizontalPodAutoscalerStatus{
			ObservedGeneration: o.Status.ObservedGeneration, LastScaleTime: o.Status.LastScaleTime,
			CurrentReplicas: o.Status.CurrentReplicas, DesiredReplicas: o.Status.DesiredReplicas,
		},
	}
	if goal := o.Spec.TargetCPUUtilizationPercentage; goal != nil {
		h.Spec.Metrics = append(h.Spec.Metrics, cpuGoal(*goal))
	}
	if now := o.Status.CurrentCPUUtilizationPercentage; now != nil {
		h.Status.CurrentMetrics = append(h.Status.CurrentMetrics, autoscaling.MetricStatus{
			Type:     autoscaling.ResourceMetricSourceType,
			Resource: &autoscaling.ResourceMetricStatus{Name: core.ResourceCPU, Current: autoscaling.MetricValueStatus{AverageUtilization: now}},
		})
	}
	readHPANotes(h)
	defaults.HorizontalPodAutoscaler(h)
	return h
}

func cpuGoal(percent int32) autoscaling.MetricSpec {
	return autoscaling.MetricSpec{Type: autoscaling.ResourceMetricSourceType, Resource: &autoscaling.ResourceMetricSource{
		Name:   core.ResourceCPU,
		Target: autoscaling.MetricTarget{Type: autoscaling.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

// readHPANotes moves what the annotations say into the fields. An annotation
// that is no JSON counts for nothing, as upstream has it.
func readHPANotes(h *autoscaling.HorizontalPodAutoscaler) {
	var specs []v1.MetricSpec
	if note(h, hpaMetrics, &specs) {
		for i := range specs {
			h.Spec.Metrics = append(h.Spec.Metrics, metricFromV1(&specs[i]))
		}
	}
	var current []v1.MetricStatus
	if note(h, hpaCurrent, &current) {
		for i := range current {
			h.Status.CurrentMetrics = append(h.Status.CurrentMetrics, metricStatusFromV1(&current[i]))
		}
	}
	var conditions []autoscaling.HorizontalPodAutoscalerCondition
	if note(h, hpaConditions, &conditions) {
		h.Status.Conditions = conditions
	}
	var behavior autoscaling.HorizontalPodAutoscalerBehavior
	if note(h, hpaBehavior, &behavior) {
		h.Spec.Behavior = &behavior
	}
	if len(h.Annotations) == 0 {
		h.Annotations = nil
	}
}

func note(h *autoscaling.HorizontalPodAutoscaler, key string, into any) bool {
	text, has := h.Annotations[key]
	delete(h.Annotations, key)
	return has && json.Unmarshal([]byte(text), into) == nil
}

func hpaToV1(h *autoscaling.HorizontalPodAutoscaler) (*v1.HorizontalPodAutoscaler, error) {
	o := &v1.HorizontalPodAutoscaler{
		ObjectMeta: h.ObjectMeta,
		Spec: v1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: v1.CrossVersionObjectReference(h.Spec.ScaleTargetRef),
			MinReplicas:    h.Spec.MinReplicas, MaxReplicas: h.Spec.MaxReplicas,
		},
		Status: v1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: h.Status.ObservedGeneration, LastScaleTime: h.Status.LastScaleTime,
			CurrentReplicas: h.Status.CurrentReplicas, DesiredReplicas: h.Status.DesiredReplicas,
		},
	}
	notes := map[string]any{}
	var specs []v1.MetricSpec
	for i := range h.Spec.Metrics {
		m := &h.Spec.Metrics[i]
		if r := m.Resource; r != nil && r.Name == core.ResourceCPU && r.Target.AverageUtilization != nil && o.Spec.TargetCPUUtilizationPercentage == nil {
			o.Spec.TargetCPUUtilizationPercentage = r.Target.AverageUtilization
			continue
		}
		specs = append(specs, metricToV1(m))
	}
	if len(specs) > 0 {
		notes[hpaMetrics] = specs
	}
	var current []v1.MetricStatus
	for i := range h.Status.CurrentMetrics {
		m := &h.Status.CurrentMetrics[i]
		if r := m.Resource; r != nil && r.Name == core.ResourceCPU && r.Current.AverageUtilization != nil {
			o.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
		current = append(current, metricStatusToV1(m))
	}
	if len(current) > 0 {
		notes[hpaCurrent] = current
	}
	if len(h.Status.Conditions) > 0 {
		notes[hpaConditions] = h.Status.Conditions
	}
	if h.Spec.Behavior != nil {
		notes[hpaBehavior] = h.Spec.Behavior
	}
	return o, writeNotes(o, notes)
}

func writeNotes(o *v1.HorizontalPodAutoscaler, notes map[string]any) error {
	if len(notes) == 0 {
		return nil
	}
	annotations := maps.Clone(o.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	for key, value := range notes {
		text, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("encoding annotation %s: %w", key, err)
		}
		annotations[key] = string(text)
	}
	o.Annotations = annotations
	return nil
}
