package device

import (
	resource "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

// TaintRule checks which devices it is for, and the taint.
func TaintRule(o *resource.DeviceTaintRule) field.ErrorList {
	var e rule.Errors
	if s, at := o.Spec.DeviceSelector, specPath.Child("deviceSelector"); s != nil {
		if s.Driver != nil {
			e.Join(podspec.CSIDriverName(*s.Driver, at.Child("driver")))
		}
		if s.Pool != nil {
			pool(&e, *s.Pool, at.Child("pool"))
		}
		if s.Device != nil {
			e.DNSLabel(at.Child("device"), *s.Device)
		}
	}
	taint(&e, &o.Spec.Taint, specPath.Child("taint"))
	return e.List()
}
func TaintRuleUpdate(o, _ *resource.DeviceTaintRule) field.ErrorList { return TaintRule(o) }

// TaintRuleStatus checks the conditions.
func TaintRuleStatus(o, _ *resource.DeviceTaintRule) field.ErrorList {
	var e rule.Errors
	at := statusPath.Child("conditions")
	e.Join(metavalidation.ValidateConditions(o.Status.Conditions, at))
	e.AtMost(at, len(o.Status.Conditions), resource.DeviceTaintRuleStatusMaxConditions)
	return e.List()
}

func taint(e *rule.Errors, t *resource.DeviceTaint, p *field.Path) {
	e.LabelName(p.Child("key"), t.Key)
	e.LabelValue(p.Child("value"), t.Value)
	rule.OneOf(e, p.Child("effect"), t.Effect, resource.DeviceTaintEffectNoSchedule, resource.DeviceTaintEffectNoExecute, resource.DeviceTaintEffectNone)
}

func tolerations(e *rule.Errors, list []resource.DeviceToleration, p *field.Path) {
	for i := range list {
		t, at := &list[i], p.Index(i)
		if t.Key != "" {
			e.LabelName(at.Child("key"), t.Key)
		}
		switch t.Operator {
		case resource.DeviceTolerationOpExists:
			if t.Value != "" {
				e.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`")
			}
		case resource.DeviceTolerationOpEqual:
			e.LabelValue(at.Child("value"), t.Value)
		default:
			rule.OneOf(e, at.Child("operator"), t.Operator, resource.DeviceTolerationOpEqual, resource.DeviceTolerationOpExists)
		}
		if t.Effect != "" {
			rule.Among(e, at.Child("effect"), t.Effect, resource.DeviceTaintEffectNoSchedule, resource.DeviceTaintEffectNoExecute, resource.DeviceTaintEffectNone)
		}
	}
}
