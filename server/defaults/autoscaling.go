package defaults

import (
	v1 "k8s.io/api/autoscaling/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
)

const cpuUtilization int32 = 80

// HorizontalPodAutoscaler fills an autoscaler: at least one replica, 80 % CPU.
func HorizontalPodAutoscaler(o *autoscaling.HorizontalPodAutoscaler) {
	s := &o.Spec
	point(&s.MinReplicas, 1)
	if len(s.Metrics) == 0 {
		s.Metrics = []autoscaling.MetricSpec{{
			Type: autoscaling.ResourceMetricSourceType,
			Resource: &autoscaling.ResourceMetricSource{
				Name:   core.ResourceCPU,
				Target: autoscaling.MetricTarget{Type: autoscaling.UtilizationMetricType, AverageUtilization: new(cpuUtilization)},
			},
		}}
	}
	if b := s.Behavior; b != nil {
		point(&b.ScaleUp, autoscaling.HPAScalingRules{})
		point(&b.ScaleUp.StabilizationWindowSeconds, 0)
		scalingRules(b.ScaleUp, autoscaling.HPAScalingPolicy{Type: autoscaling.PodsScalingPolicy, Value: 4, PeriodSeconds: 15})
		point(&b.ScaleDown, autoscaling.HPAScalingRules{})
		scalingRules(b.ScaleDown)
	}
}

// scalingRules gives the rules the policies first and "all of them at once in 15 s".
func scalingRules(r *autoscaling.HPAScalingRules, first ...autoscaling.HPAScalingPolicy) {
	point(&r.SelectPolicy, autoscaling.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = append(first, autoscaling.HPAScalingPolicy{Type: autoscaling.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	}
}

// HorizontalPodAutoscalerV1 fills the first version's fields; the CPU goal is
// added when it becomes a second version object.
func HorizontalPodAutoscalerV1(o *v1.HorizontalPodAutoscaler) { point(&o.Spec.MinReplicas, 1) }
