package validate

import (
	"fmt"
	"strings"

	autoscaling "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// HorizontalPodAutoscaler checks bounds, target, metrics and behaviour.
func HorizontalPodAutoscaler(o *autoscaling.HorizontalPodAutoscaler) Errors {
	var e rule.Errors
	s := &o.Spec
	if s.MinReplicas != nil && *s.MinReplicas < 1 {
		e.Invalid(specPath.Child("minReplicas"), *s.MinReplicas, "must be greater than or equal to 1")
	}
	if s.MaxReplicas < 1 {
		e.Invalid(specPath.Child("maxReplicas"), s.MaxReplicas, "must be greater than 0")
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		e.Invalid(specPath.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`")
	}
	scaled(&e, s.ScaleTargetRef, specPath.Child("scaleTargetRef"))
	for i := range s.Metrics {
		metric(&e, &s.Metrics[i], specPath.Child("metrics").Index(i))
	}
	if b := s.Behavior; b != nil {
		scalingRules(&e, b.ScaleUp, specPath.Child("behavior", "scaleUp"))
		scalingRules(&e, b.ScaleDown, specPath.Child("behavior", "scaleDown"))
	}
	return e.List()
}
func HorizontalPodAutoscalerUpdate(o, _ *autoscaling.HorizontalPodAutoscaler) Errors {
	return HorizontalPodAutoscaler(o)
}

// HorizontalPodAutoscalerStatus checks the counts.
func HorizontalPodAutoscalerStatus(o, _ *autoscaling.HorizontalPodAutoscaler) Errors {
	var e rule.Errors
	e.NotNegative(statusPath.Child("currentReplicas"), int64(o.Status.CurrentReplicas))
	e.NotNegative(statusPath.Child("desiredReplicas"), int64(o.Status.DesiredReplicas))
	return e.List()
}

func segment(e *rule.Errors, p *field.Path, v string) {
	if v == "" {
		e.Required(p, "")
		return
	}
	e.Each(p, v, path.IsValidPathSegmentName(v))
}

func scaled(e *rule.Errors, r autoscaling.CrossVersionObjectReference, p *field.Path) {
	segment(e, p.Child("kind"), r.Kind)
	segment(e, p.Child("name"), r.Name)
}

func metric(e *rule.Errors, m *autoscaling.MetricSpec, p *field.Path) {
	if m.Type == "" {
		e.Required(p.Child("type"), "must specify a metric source type")
	}
	rule.Among(e, p.Child("type"), m.Type, autoscaling.ContainerResourceMetricSourceType, autoscaling.ExternalMetricSourceType,
		autoscaling.ObjectMetricSourceType, autoscaling.PodsMetricSourceType, autoscaling.ResourceMetricSourceType)
	wanted := ""
	if m.Type != "" {
		wanted = strings.ToLower(string(m.Type[:1])) + string(m.Type[1:])
	}
	found := false
	for _, source := range []struct {
		name  string
		set   bool
		check func(p *field.Path)
	}{
		{"object", m.Object != nil, func(p *field.Path) {
			scaled(e, m.Object.DescribedObject, p.Child("describedObject"))
			metricName(e, m.Object.Metric, p.Child("metric"))
			metricTarget(e, m.Object.Target, p.Child("target"))
			eitherValue(e, m.Object.Target, p, "must set either a target value or averageValue")
		}},
		{"pods", m.Pods != nil, func(p *field.Path) {
			metricName(e, m.Pods.Metric, p.Child("metric"))
			metricTarget(e, m.Pods.Target, p.Child("target"))
			if v := m.Pods.Target.AverageValue; v == nil || v.Sign() != 1 {
				e.Required(p.Child("target", "averageValue"), "must specify a positive target averageValue")
			}
		}},
		{"resource", m.Resource != nil, func(p *field.Path) {
			if m.Resource.Name == "" {
				e.Required(p.Child("name"), "must specify a resource name")
			}
			resourceTarget(e, m.Resource.Target, p)
		}},
		{"containerResource", m.ContainerResource != nil, func(p *field.Path) {
			if m.ContainerResource.Name == "" {
				e.Required(p.Child("name"), "must specify a resource name")
			}
			if m.ContainerResource.Container == "" {
				e.Required(p.Child("container"), "must specify a container")
			}
			resourceTarget(e, m.ContainerResource.Target, p)
		}},
		{"external", m.External != nil, func(p *field.Path) {
			metricName(e, m.External.Metric, p.Child("metric"))
			metricTarget(e, m.External.Target, p.Child("target"))
			eitherValue(e, m.External.Target, p, "must set either a target value for metric or a per-pod target")
			if t := m.External.Target; t.Value != nil && t.AverageValue != nil {
				e.Forbidden(p.Child("target", "value"), "may not set both a target value for metric and a per-pod target")
			}
		}},
	} {
		switch {
		case !source.set:
		case source.name == wanted:
			found = true
			source.check(p.Child(source.name))
		default:
			e.Forbidden(p.Child(source.name), "must populate the given metric source only")
		}
	}
	if !found && wanted != "" {
		e.Required(p.Child(wanted), "must populate information for the given metric source")
	}
}

func metricName(e *rule.Errors, m autoscaling.MetricIdentifier, p *field.Path) {
	if m.Name == "" {
		e.Required(p.Child("name"), "must specify a metric name")
		return
	}
	e.Each(p.Child("name"), m.Name, path.IsValidPathSegmentName(m.Name))
}

func metricTarget(e *rule.Errors, t autoscaling.MetricTarget, p *field.Path) {
	switch t.Type {
	case "":
		e.Required(p.Child("type"), "must specify a metric target type")
	case autoscaling.UtilizationMetricType, autoscaling.ValueMetricType, autoscaling.AverageValueMetricType:
	default:
		e.Invalid(p.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue")
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		e.Invalid(p.Child("value"), t.Value.String(), "must be positive")
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		e.Invalid(p.Child("averageValue"), t.AverageValue.String(), "must be positive")
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		e.Invalid(p.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0")
	}
}

func eitherValue(e *rule.Errors, t autoscaling.MetricTarget, p *field.Path, why string) {
	if t.Value == nil && t.AverageValue == nil {
		e.Required(p.Child("target", "averageValue"), why)
	}
}

func resourceTarget(e *rule.Errors, t autoscaling.MetricTarget, p *field.Path) {
	p = p.Child("target")
	metricTarget(e, t, p)
	if t.AverageUtilization == nil && t.AverageValue == nil {
		e.Required(p.Child("averageUtilization"), "must set either a target raw value or a target utilization")
	}
	if t.AverageUtilization != nil && t.AverageValue != nil {
		e.Forbidden(p.Child("averageValue"), "may not set both a target raw value and a target utilization")
	}
}

const (
	longestWindow int32 = 3600
	longestPeriod int32 = 1800
)

func scalingRules(e *rule.Errors, r *autoscaling.HPAScalingRules, p *field.Path) {
	if r == nil {
		return
	}
	if w := r.StabilizationWindowSeconds; w != nil {
		at := p.Child("stabilizationWindowSeconds")
		if *w < 0 {
			e.Invalid(at, *w, "must be greater than or equal to zero")
		}
		if *w > longestWindow {
			e.Invalid(at, *w, fmt.Sprintf("must be less than or equal to %v", longestWindow))
		}
	}
	if r.SelectPolicy != nil {
		rule.Among(e, p.Child("selectPolicy"), *r.SelectPolicy, autoscaling.MaxChangePolicySelect, autoscaling.MinChangePolicySelect, autoscaling.DisabledPolicySelect)
	}
	if r.Tolerance != nil && r.Tolerance.Sign() < 0 {
		e.Invalid(p.Child("tolerance"), r.Tolerance.String(), "must be greater or equal to zero")
	}
	policies := p.Child("policies")
	if len(r.Policies) == 0 {
		e.Required(policies, "must specify at least one Policy")
	}
	for i, policy := range r.Policies {
		at := policies.Index(i)
		rule.Among(e, at.Child("type"), policy.Type, autoscaling.PodsScalingPolicy, autoscaling.PercentScalingPolicy)
		if policy.Value <= 0 {
			e.Invalid(at.Child("value"), policy.Value, "must be greater than zero")
		}
		if policy.PeriodSeconds <= 0 {
			e.Invalid(at.Child("periodSeconds"), policy.PeriodSeconds, "must be greater than zero")
		}
		if policy.PeriodSeconds > longestPeriod {
			e.Invalid(at.Child("periodSeconds"), policy.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", longestPeriod))
		}
	}
}
