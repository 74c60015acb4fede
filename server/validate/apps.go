package validate

import (
	"fmt"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

// numberOrPercent wants an integer of at least 0 or a percentage.
func numberOrPercent(e *rule.Errors, v *intstr.IntOrString, p *field.Path) {
	switch {
	case v == nil:
	case v.Type == intstr.String:
		e.Each(p, v.StrVal, validation.IsValidPercent(v.StrVal))
	default:
		e.NotNegative(p, int64(v.IntVal))
	}
}

// atMostAll refuses more than 100 %.
func atMostAll(e *rule.Errors, v *intstr.IntOrString, p *field.Path) {
	if n, ok := percent(v); ok && n > 100 {
		e.Invalid(p, v.StrVal, "must not be greater than 100%")
	}
}

func percent(v *intstr.IntOrString) (int, bool) {
	if v == nil || v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, 100, false)
	return n, err == nil
}

// nothing tells whether the amount is 0 or 0 %.
func nothing(v *intstr.IntOrString) bool {
	if v == nil {
		return true
	}
	if n, ok := percent(v); ok {
		return n == 0
	}
	return v.Type == intstr.Int && v.IntVal == 0
}

// templated checks a workload's selector and template together; kind is the word
// in the messages.
func templated(e *rule.Errors, s *metav1.LabelSelector, t *core.PodTemplateSpec, kind, article string) {
	at := specPath.Child("selector")
	if s == nil {
		e.Required(at, "")
	} else {
		e.Selector(at, s)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			e.Invalid(at, s, article)
		}
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		e.Invalid(at, s, "invalid label selector")
		return
	}
	template := specPath.Child("template")
	if !sel.Empty() && !sel.Matches(labels.Set(t.Labels)) {
		e.Invalid(template.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	}
	e.Join(podspec.Template(t, template))
	alwaysRestarts(e, t, kind)
}

func alwaysRestarts(e *rule.Errors, t *core.PodTemplateSpec, kind string) {
	p := specPath.Child("template", "spec")
	if t.Spec.RestartPolicy != core.RestartPolicyAlways {
		e.Add(field.NotSupported(p.Child("restartPolicy"), t.Spec.RestartPolicy, []core.RestartPolicy{core.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		e.Forbidden(p.Child("activeDeadlineSeconds"), fmt.Sprintf("activeDeadlineSeconds in %s is not Supported", kind))
	}
}

func optional(e *rule.Errors, p *field.Path, v *int32) {
	if v != nil {
		e.NotNegative(p, int64(*v))
	}
}

// Deployment checks replicas, selector, template and strategy.
func Deployment(o *apps.Deployment) Errors {
	var e rule.Errors
	s := &o.Spec
	optional(&e, specPath.Child("replicas"), s.Replicas)
	templated(&e, s.Selector, &s.Template, "ReplicaSet", "empty selector is invalid for deployment")
	deploymentStrategy(&e, &s.Strategy, specPath.Child("strategy"))
	e.NotNegative(specPath.Child("minReadySeconds"), int64(s.MinReadySeconds))
	optional(&e, specPath.Child("revisionHistoryLimit"), s.RevisionHistoryLimit)
	if d := s.ProgressDeadlineSeconds; d != nil {
		e.NotNegative(specPath.Child("progressDeadlineSeconds"), int64(*d))
		if *d <= s.MinReadySeconds {
			e.Invalid(specPath.Child("progressDeadlineSeconds"), *d, "must be greater than minReadySeconds")
		}
	}
	return e.List()
}

func deploymentStrategy(e *rule.Errors, s *apps.DeploymentStrategy, p *field.Path) {
	roll := p.Child("rollingUpdate")
	switch s.Type {
	case apps.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			e.Forbidden(roll, "may not be specified when strategy `type` is 'Recreate'")
		}
	case apps.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			e.Required(roll, "this should be defaulted and never be nil")
			return
		}
		down, up := s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge
		numberOrPercent(e, down, roll.Child("maxUnavailable"))
		numberOrPercent(e, up, roll.Child("maxSurge"))
		if nothing(down) && nothing(up) {
			e.Invalid(roll.Child("maxUnavailable"), down, "may not be 0 when `maxSurge` is 0")
		}
		atMostAll(e, down, roll.Child("maxUnavailable"))
	default:
		e.Add(field.NotSupported(p, s, []apps.DeploymentStrategyType{apps.RecreateDeploymentStrategyType, apps.RollingUpdateDeploymentStrategyType}))
	}
}

// DeploymentUpdate also keeps the selector.
func DeploymentUpdate(o, old *apps.Deployment) Errors {
	var e rule.Errors
	e.Join(Deployment(o))
	e.Unchanged(specPath.Child("selector"), o.Spec.Selector, old.Spec.Selector)
	return e.List()
}

// DeploymentStatus checks that the counts make sense.
func DeploymentStatus(o, old *apps.Deployment) Errors {
	var e rule.Errors
	s := &o.Status
	e.NotNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)
	e.NotNegative(statusPath.Child("unavailableReplicas"), int64(s.UnavailableReplicas))
	counts(&e, statusPath, s.Replicas, count{"updatedReplicas", s.UpdatedReplicas}, count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})
	if s.AvailableReplicas > s.ReadyReplicas {
		e.Invalid(statusPath.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas")
	}
	collisions(&e, s.CollisionCount, old.Status.CollisionCount)
	return e.List()
}

func collisions(e *rule.Errors, is, was *int32) {
	p := statusPath.Child("collisionCount")
	optional(e, p, is)
	if was != nil && (is == nil || *is < *was) {
		n := int32(0)
		if is != nil {
			n = *is
		}
		e.Invalid(p, n, "cannot be decremented")
	}
}

// ReplicaSet checks replicas, selector and template.
func ReplicaSet(o *apps.ReplicaSet) Errors {
	var e rule.Errors
	s := &o.Spec
	optional(&e, specPath.Child("replicas"), s.Replicas)
	e.NotNegative(specPath.Child("minReadySeconds"), int64(s.MinReadySeconds))
	templated(&e, s.Selector, &s.Template, "ReplicaSet", "empty selector is invalid for deployment")
	return e.List()
}

// ReplicaSetUpdate also keeps the selector.
func ReplicaSetUpdate(o, old *apps.ReplicaSet) Errors {
	var e rule.Errors
	e.Join(ReplicaSet(o))
	e.Unchanged(specPath.Child("selector"), o.Spec.Selector, old.Spec.Selector)
	return e.List()
}

// ReplicaSetStatus checks that the counts make sense.
func ReplicaSetStatus(o, _ *apps.ReplicaSet) Errors {
	var e rule.Errors
	s := &o.Status
	setCounts(&e, s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas)
	e.NotNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)
	return e.List()
}

func setCounts(e *rule.Errors, all, labelled, ready, available int32) {
	counts(e, statusPath, all, count{"fullyLabeledReplicas", labelled}, count{"readyReplicas", ready}, count{"availableReplicas", available})
	if available > ready {
		e.Invalid(statusPath.Child("availableReplicas"), available, "cannot be greater than readyReplicas")
	}
}

// ReplicationController checks replicas, selector and template.
func ReplicationController(o *core.ReplicationController) Errors {
	var e rule.Errors
	s := &o.Spec
	e.NotNegative(specPath.Child("minReadySeconds"), int64(s.MinReadySeconds))
	if len(s.Selector) == 0 {
		e.Required(specPath.Child("selector"), "")
	}
	if s.Replicas == nil {
		e.Required(specPath.Child("replicas"), "")
	}
	optional(&e, specPath.Child("replicas"), s.Replicas)
	at := specPath.Child("template")
	if s.Template == nil {
		e.Required(at, "")
		return e.List()
	}
	if len(s.Selector) > 0 && !labels.SelectorFromSet(s.Selector).Matches(labels.Set(s.Template.Labels)) {
		e.Invalid(at.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")
	}
	e.Join(podspec.Template(s.Template, at))
	alwaysRestarts(&e, s.Template, "ReplicationController")
	return e.List()
}
func ReplicationControllerUpdate(o, _ *core.ReplicationController) Errors {
	return ReplicationController(o)
}

// ReplicationControllerStatus checks that the counts make sense.
func ReplicationControllerStatus(o, _ *core.ReplicationController) Errors {
	var e rule.Errors
	s := &o.Status
	setCounts(&e, s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas)
	e.NotNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)
	return e.List()
}

// DaemonSet checks selector, template and strategy.
func DaemonSet(o *apps.DaemonSet) Errors {
	var e rule.Errors
	s := &o.Spec
	templated(&e, s.Selector, &s.Template, "DaemonSet", "empty selector is invalid for daemonset")
	e.NotNegative(specPath.Child("minReadySeconds"), int64(s.MinReadySeconds))
	daemonStrategy(&e, &s.UpdateStrategy, specPath.Child("updateStrategy"))
	optional(&e, specPath.Child("revisionHistoryLimit"), s.RevisionHistoryLimit)
	return e.List()
}

func daemonStrategy(e *rule.Errors, s *apps.DaemonSetUpdateStrategy, p *field.Path) {
	roll := p.Child("rollingUpdate")
	switch s.Type {
	case apps.OnDeleteDaemonSetStrategyType:
	case apps.RollingUpdateDaemonSetStrategyType:
		if s.RollingUpdate == nil {
			e.Required(roll, "")
			return
		}
		down, up := s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge
		numberOrPercent(e, down, roll.Child("maxUnavailable"))
		numberOrPercent(e, up, roll.Child("maxSurge"))
		atMostAll(e, down, roll.Child("maxUnavailable"))
		atMostAll(e, up, roll.Child("maxSurge"))
		switch {
		case !nothing(down) && !nothing(up):
			e.Invalid(roll.Child("maxSurge"), up, "may not be set when maxUnavailable is non-zero")
		case nothing(down) && nothing(up):
			e.Required(roll.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0")
		}
	default:
		e.Add(field.NotSupported(p, s, []apps.DaemonSetUpdateStrategyType{apps.RollingUpdateDaemonSetStrategyType, apps.OnDeleteDaemonSetStrategyType}))
	}
}

// DaemonSetUpdate also keeps the selector.
func DaemonSetUpdate(o, old *apps.DaemonSet) Errors {
	var e rule.Errors
	e.Join(DaemonSet(o))
	e.Unchanged(specPath.Child("selector"), o.Spec.Selector, old.Spec.Selector)
	return e.List()
}

// DaemonSetStatus checks the counts.
func DaemonSetStatus(o, old *apps.DaemonSet) Errors {
	var e rule.Errors
	s := &o.Status
	for _, c := range []count{
		{"currentNumberScheduled", s.CurrentNumberScheduled}, {"numberMisscheduled", s.NumberMisscheduled}, {"desiredNumberScheduled", s.DesiredNumberScheduled},
		{"numberReady", s.NumberReady}, {"updatedNumberScheduled", s.UpdatedNumberScheduled}, {"numberAvailable", s.NumberAvailable}, {"numberUnavailable", s.NumberUnavailable},
	} {
		e.NotNegative(statusPath.Child(c.name), int64(c.value))
	}
	e.NotNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)
	collisions(&e, s.CollisionCount, old.Status.CollisionCount)
	return e.List()
}

// StatefulSet checks policies, selector and template. The template's volumes are
// not checked, as upstream: claims are added to them later.
func StatefulSet(o *apps.StatefulSet) Errors {
	var e rule.Errors
	s := &o.Spec
	switch p := specPath.Child("podManagementPolicy"); s.PodManagementPolicy {
	case "":
		e.Required(p, "")
	case apps.OrderedReadyPodManagement, apps.ParallelPodManagement:
	default:
		e.Invalid(p, s.PodManagementPolicy, fmt.Sprintf("must be '%s' or '%s'", apps.OrderedReadyPodManagement, apps.ParallelPodManagement))
	}
	statefulStrategy(&e, &s.UpdateStrategy, specPath.Child("updateStrategy"))
	if r := s.PersistentVolumeClaimRetentionPolicy; r != nil {
		p := specPath.Child("persistentVolumeClaimRetentionPolicy")
		rule.Among(&e, p.Child("whenDeleted"), r.WhenDeleted, apps.RetainPersistentVolumeClaimRetentionPolicyType, apps.DeletePersistentVolumeClaimRetentionPolicyType)
		rule.Among(&e, p.Child("whenScaled"), r.WhenScaled, apps.RetainPersistentVolumeClaimRetentionPolicyType, apps.DeletePersistentVolumeClaimRetentionPolicyType)
	}
	optional(&e, specPath.Child("replicas"), s.Replicas)
	e.NotNegative(specPath.Child("minReadySeconds"), int64(s.MinReadySeconds))
	if s.Ordinals != nil {
		e.NotNegative(specPath.Child("ordinals", "start"), int64(s.Ordinals.Start))
	}
	if s.ServiceName != "" {
		e.Each(specPath.Child("serviceName"), s.ServiceName, apimachinery.NameIsDNS1035Label(s.ServiceName, false))
	}
	statefulTemplate(&e, s)
	return e.List()
}

func statefulTemplate(e *rule.Errors, s *apps.StatefulSetSpec) {
	at := specPath.Child("selector")
	if s.Selector == nil {
		e.Required(at, "")
	} else {
		e.Selector(at, s.Selector)
		if len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
			e.Invalid(at, s.Selector, "empty selector is invalid for statefulset")
		}
	}
	template := specPath.Child("template")
	if sel, err := metav1.LabelSelectorAsSelector(s.Selector); err != nil {
		e.Invalid(at, s.Selector, "")
	} else if !sel.Empty() && !sel.Matches(labels.Set(s.Template.Labels)) {
		e.Invalid(template.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")
	}
	e.Labels(template.Child("labels"), s.Template.Labels)
	e.Join(apimachinery.ValidateAnnotations(s.Template.Annotations, template.Child("annotations")))
	e.Join(podspec.Annotations(s.Template.Annotations, &s.Template.Spec, template.Child("annotations")))
	if s.Template.Spec.RestartPolicy != core.RestartPolicyAlways {
		e.Add(field.NotSupported(template.Child("spec", "restartPolicy"), s.Template.Spec.RestartPolicy, []core.RestartPolicy{core.RestartPolicyAlways}))
	}
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		e.Forbidden(template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in StatefulSet is not Supported")
	}
}

func statefulStrategy(e *rule.Errors, s *apps.StatefulSetUpdateStrategy, p *field.Path) {
	roll := p.Child("rollingUpdate")
	switch s.Type {
	case "":
		e.Required(p, "")
	case apps.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			e.Invalid(roll, s.RollingUpdate, fmt.Sprintf("only allowed for updateStrategy '%s'", apps.RollingUpdateStatefulSetStrategyType))
		}
	case apps.RollingUpdateStatefulSetStrategyType:
		if s.RollingUpdate == nil {
			return
		}
		optional(e, roll.Child("partition"), s.RollingUpdate.Partition)
		if m := s.RollingUpdate.MaxUnavailable; m != nil {
			numberOrPercent(e, m, roll.Child("maxUnavailable"))
			if nothing(m) {
				e.Invalid(roll.Child("maxUnavailable"), *m, "cannot be 0")
			}
			atMostAll(e, m, roll.Child("maxUnavailable"))
		}
	default:
		e.Invalid(p, s, fmt.Sprintf("must be '%s' or '%s'", apps.RollingUpdateStatefulSetStrategyType, apps.OnDeleteStatefulSetStrategyType))
	}
}

// StatefulSetUpdate also keeps all but a few fields.
func StatefulSetUpdate(o, old *apps.StatefulSet) Errors {
	var e rule.Errors
	e.Join(StatefulSet(o))
	s, was := o.Spec.DeepCopy(), &old.Spec
	s.Replicas, s.Template, s.UpdateStrategy, s.MinReadySeconds = was.Replicas, was.Template, was.UpdateStrategy, was.MinReadySeconds
	s.Ordinals, s.RevisionHistoryLimit, s.PersistentVolumeClaimRetentionPolicy = was.Ordinals, was.RevisionHistoryLimit, was.PersistentVolumeClaimRetentionPolicy
	if !equality.Semantic.DeepEqual(*s, *was) {
		e.Forbidden(specPath, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "+
			"'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")
	}
	return e.List()
}

// StatefulSetStatus checks that the counts make sense.
func StatefulSetStatus(o, old *apps.StatefulSet) Errors {
	var e rule.Errors
	s := &o.Status
	counts(&e, statusPath, s.Replicas, count{"readyReplicas", s.ReadyReplicas}, count{"currentReplicas", s.CurrentReplicas},
		count{"updatedReplicas", s.UpdatedReplicas}, count{"availableReplicas", s.AvailableReplicas})
	if s.AvailableReplicas > s.ReadyReplicas {
		e.Invalid(statusPath.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than status.readyReplicas")
	}
	e.NotNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)
	collisions(&e, s.CollisionCount, old.Status.CollisionCount)
	return e.List()
}

// ControllerRevision checks that there is data.
func ControllerRevision(o *apps.ControllerRevision) Errors {
	var e rule.Errors
	if o.Data.Raw == nil && o.Data.Object == nil {
		e.Required(field.NewPath("data"), "data is mandatory")
	}
	e.NotNegative(field.NewPath("revision"), o.Revision)
	return e.List()
}

// ControllerRevisionUpdate also keeps the data.
func ControllerRevisionUpdate(o, old *apps.ControllerRevision) Errors {
	var e rule.Errors
	e.Join(ControllerRevision(o))
	e.Unchanged(field.NewPath("data"), o.Data, old.Data)
	return e.List()
}
