package registry

import (
	v1 "k8s.io/api/autoscaling/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Metrics of autoscalers between version 1's flat fields and version 2's targets.

func target(utilization *int32, average, value *resource.Quantity) autoscaling.MetricTarget {
	t := autoscaling.MetricTarget{AverageUtilization: utilization, AverageValue: average, Value: value}
	switch {
	case utilization != nil:
		t.Type = autoscaling.UtilizationMetricType
	case average != nil:
		t.Type = autoscaling.AverageValueMetricType
	default:
		t.Type = autoscaling.ValueMetricType
	}
	return t
}

func metricFromV1(m *v1.MetricSpec) autoscaling.MetricSpec {
	out := autoscaling.MetricSpec{Type: autoscaling.MetricSourceType(m.Type)}
	if s := m.Object; s != nil {
		value := &s.TargetValue
		if s.AverageValue != nil {
			value = nil
		}
		out.Object = &autoscaling.ObjectMetricSource{
			DescribedObject: autoscaling.CrossVersionObjectReference(s.Target),
			Metric:          autoscaling.MetricIdentifier{Name: s.MetricName, Selector: s.Selector},
			Target:          target(nil, s.AverageValue, value),
		}
	}
	if s := m.Pods; s != nil {
		out.Pods = &autoscaling.PodsMetricSource{
			Metric: autoscaling.MetricIdentifier{Name: s.MetricName, Selector: s.Selector}, Target: target(nil, &s.TargetAverageValue, nil)}
	}
	if s := m.Resource; s != nil {
		out.Resource = &autoscaling.ResourceMetricSource{Name: s.Name, Target: target(s.TargetAverageUtilization, s.TargetAverageValue, nil)}
	}
	if s := m.ContainerResource; s != nil {
		out.ContainerResource = &autoscaling.ContainerResourceMetricSource{
			Name: s.Name, Container: s.Container, Target: target(s.TargetAverageUtilization, s.TargetAverageValue, nil)}
	}
	if s := m.External; s != nil {
		out.External = &autoscaling.ExternalMetricSource{
			Metric: autoscaling.MetricIdentifier{Name: s.MetricName, Selector: s.MetricSelector}, Target: target(nil, s.TargetAverageValue, s.TargetValue)}
	}
	return out
}

func metricToV1(m *autoscaling.MetricSpec) v1.MetricSpec {
	out := v1.MetricSpec{Type: v1.MetricSourceType(m.Type)}
	if s := m.Object; s != nil {
		out.Object = &v1.ObjectMetricSource{
			Target: v1.CrossVersionObjectReference(s.DescribedObject), MetricName: s.Metric.Name, Selector: s.Metric.Selector,
			TargetValue: *orZero(s.Target.Value), AverageValue: s.Target.AverageValue}
	}
	if s := m.Pods; s != nil {
		out.Pods = &v1.PodsMetricSource{MetricName: s.Metric.Name, Selector: s.Metric.Selector, TargetAverageValue: *orZero(s.Target.AverageValue)}
	}
	if s := m.Resource; s != nil {
		out.Resource = &v1.ResourceMetricSource{Name: s.Name, TargetAverageUtilization: s.Target.AverageUtilization, TargetAverageValue: s.Target.AverageValue}
	}
	if s := m.ContainerResource; s != nil {
		out.ContainerResource = &v1.ContainerResourceMetricSource{
			Name: s.Name, Container: s.Container, TargetAverageUtilization: s.Target.AverageUtilization, TargetAverageValue: s.Target.AverageValue}
	}
	if s := m.External; s != nil {
		out.External = &v1.ExternalMetricSource{
			MetricName: s.Metric.Name, MetricSelector: s.Metric.Selector, TargetValue: s.Target.Value, TargetAverageValue: s.Target.AverageValue}
	}
	return out
}

func metricStatusFromV1(m *v1.MetricStatus) autoscaling.MetricStatus {
	out := autoscaling.MetricStatus{Type: autoscaling.MetricSourceType(m.Type)}
	if s := m.Object; s != nil {
		out.Object = &autoscaling.ObjectMetricStatus{
			DescribedObject: autoscaling.CrossVersionObjectReference(s.Target),
			Metric:          autoscaling.MetricIdentifier{Name: s.MetricName, Selector: s.Selector},
			Current:         autoscaling.MetricValueStatus{Value: &s.CurrentValue, AverageValue: s.AverageValue},
		}
	}
	if s := m.Pods; s != nil {
		out.Pods = &autoscaling.PodsMetricStatus{
			Metric:  autoscaling.MetricIdentifier{Name: s.MetricName, Selector: s.Selector},
			Current: autoscaling.MetricValueStatus{AverageValue: &s.CurrentAverageValue}}
	}
	if s := m.Resource; s != nil {
		out.Resource = &autoscaling.ResourceMetricStatus{
			Name: s.Name, Current: autoscaling.MetricValueStatus{AverageUtilization: s.CurrentAverageUtilization, AverageValue: &s.CurrentAverageValue}}
	}
	if s := m.ContainerResource; s != nil {
		out.ContainerResource = &autoscaling.ContainerResourceMetricStatus{
			Name: s.Name, Container: s.Container,
			Current: autoscaling.MetricValueStatus{AverageUtilization: s.CurrentAverageUtilization, AverageValue: &s.CurrentAverageValue}}
	}
	if s := m.External; s != nil {
		out.External = &autoscaling.ExternalMetricStatus{
			Metric:  autoscaling.MetricIdentifier{Name: s.MetricName, Selector: s.MetricSelector},
			Current: autoscaling.MetricValueStatus{Value: &s.CurrentValue, AverageValue: s.CurrentAverageValue}}
	}
	return out
}

func metricStatusToV1(m *autoscaling.MetricStatus) v1.MetricStatus {
	out := v1.MetricStatus{Type: v1.MetricSourceType(m.Type)}
	if s := m.Object; s != nil {
		out.Object = &v1.ObjectMetricStatus{
			Target: v1.CrossVersionObjectReference(s.DescribedObject), MetricName: s.Metric.Name, Selector: s.Metric.Selector,
			CurrentValue: *orZero(s.Current.Value), AverageValue: s.Current.AverageValue}
	}
	if s := m.Pods; s != nil {
		out.Pods = &v1.PodsMetricStatus{MetricName: s.Metric.Name, Selector: s.Metric.Selector, CurrentAverageValue: *orZero(s.Current.AverageValue)}
	}
	if s := m.Resource; s != nil {
		out.Resource = &v1.ResourceMetricStatus{
			Name: s.Name, CurrentAverageUtilization: s.Current.AverageUtilization, CurrentAverageValue: *orZero(s.Current.AverageValue)}
	}
	if s := m.ContainerResource; s != nil {
		out.ContainerResource = &v1.ContainerResourceMetricStatus{
			Name: s.Name, Container: s.Container, CurrentAverageUtilization: s.Current.AverageUtilization, CurrentAverageValue: *orZero(s.Current.AverageValue)}
	}
	if s := m.External; s != nil {
		out.External = &v1.ExternalMetricStatus{
			MetricName: s.Metric.Name, MetricSelector: s.Metric.Selector, CurrentValue: *orZero(s.Current.Value), CurrentAverageValue: s.Current.AverageValue}
	}
	return out
}
