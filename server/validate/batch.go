package validate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

// Job checks a job with the selector that the server made.
func Job(o *batch.Job) Errors {
	var e rule.Errors
	generatedSelector(&e, o)
	jobSpec(&e, &o.Spec, specPath)
	if o.Spec.Selector == nil {
		e.Required(specPath.Child("selector"), "")
	}
	e.Selector(specPath.Child("selector"), o.Spec.Selector)
	if sel, err := metav1.LabelSelectorAsSelector(o.Spec.Selector); err == nil && !sel.Matches(labels.Set(o.Spec.Template.Labels)) {
		e.Invalid(specPath.Child("template", "metadata", "labels"), o.Spec.Template.Labels, "`selector` does not match template `labels`")
	}
	return e.List()
}

// generatedSelector wants the labels that tie pods to this job and no other.
func generatedSelector(e *rule.Errors, o *batch.Job) {
	s := &o.Spec
	if s.ManualSelector != nil && *s.ManualSelector || s.Selector == nil {
		return
	}
	if o.UID == "" {
		e.Required(metaPath.Child("uid"), "")
	}
	p := specPath.Child("template", "metadata", "labels")
	want := []struct{ key, value string }{
		{"controller-uid", string(o.UID)}, {"job-name", o.Name}, {batch.ControllerUidLabel, string(o.UID)}, {batch.JobNameLabel, o.Name},
	}
	made := labels.Set{}
	for _, l := range want {
		made[l.key] = l.value
		switch v, has := s.Template.Labels[l.key]; {
		case !has:
			e.Required(p.Key(l.key), fmt.Sprintf("must be '%s'", l.value))
		case v != l.value:
			e.Invalid(p.Key(l.key), s.Template.Labels, fmt.Sprintf("must be '%s'", l.value))
		}
	}
	if sel, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !sel.Matches(made) {
		e.Invalid(specPath.Child("selector"), s.Selector, "`selector` not auto-generated")
	}
}

const (
	mostParallelIndexed = 100_000
	mostFailureRules    = 20
)

func jobSpec(e *rule.Errors, s *batch.JobSpec, p *field.Path) {
	optional(e, p.Child("parallelism"), s.Parallelism)
	optional(e, p.Child("completions"), s.Completions)
	if d := s.ActiveDeadlineSeconds; d != nil {
		e.NotNegative(p.Child("activeDeadlineSeconds"), *d)
	}
	optional(e, p.Child("backoffLimit"), s.BackoffLimit)
	optional(e, p.Child("ttlSecondsAfterFinished"), s.TTLSecondsAfterFinished)
	optional(e, p.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex)
	optional(e, p.Child("maxFailedIndexes"), s.MaxFailedIndexes)
	if m := s.ManagedBy; m != nil {
		e.Join(validation.IsDomainPrefixedPath(p.Child("managedBy"), *m))
		if len(*m) > 63 {
			e.Add(field.TooLong(p.Child("managedBy"), "", 63))
		}
	}
	indexed(e, s, p)
	if s.PodFailurePolicy != nil {
		failurePolicy(e, s, p.Child("podFailurePolicy"))
	}
	if s.PodReplacementPolicy != nil {
		at := p.Child("podReplacementPolicy")
		rule.Among(e, at, *s.PodReplacementPolicy, batch.Failed, batch.TerminatingOrFailed)
		if s.PodFailurePolicy != nil && *s.PodReplacementPolicy != batch.Failed {
			e.Add(field.NotSupported(at, *s.PodReplacementPolicy, []batch.PodReplacementPolicy{batch.Failed}))
		}
	}
	e.Join(podspec.Template(&s.Template, p.Child("template")))
	restart := p.Child("template", "spec", "restartPolicy")
	switch s.Template.Spec.RestartPolicy {
	case core.RestartPolicyOnFailure, core.RestartPolicyNever:
		if s.PodFailurePolicy != nil && s.Template.Spec.RestartPolicy != core.RestartPolicyNever {
			e.Invalid(restart, s.Template.Spec.RestartPolicy, `only "Never" is supported when podFailurePolicy is specified`)
		}
	case core.RestartPolicyAlways, "":
		e.Required(restart, fmt.Sprintf("valid values: %q, %q", core.RestartPolicyOnFailure, core.RestartPolicyNever))
	default:
		e.Add(field.NotSupported(restart, s.Template.Spec.RestartPolicy, []core.RestartPolicy{core.RestartPolicyOnFailure, core.RestartPolicyNever}))
	}
}

func indexed(e *rule.Errors, s *batch.JobSpec, p *field.Path) {
	is := s.CompletionMode != nil && *s.CompletionMode == batch.IndexedCompletion
	if m := s.CompletionMode; m != nil {
		rule.Among(e, p.Child("completionMode"), *m, batch.NonIndexedCompletion, batch.IndexedCompletion)
	}
	if !is {
		if s.BackoffLimitPerIndex != nil {
			e.Invalid(p.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode")
		}
		if s.MaxFailedIndexes != nil {
			e.Invalid(p.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode")
		}
		if s.SuccessPolicy != nil {
			e.Invalid(p.Child("successPolicy"), *s.SuccessPolicy, "requires indexed completion mode")
		}
		return
	}
	if s.Completions == nil {
		e.Required(p.Child("completions"), fmt.Sprintf("when completion mode is %s", batch.IndexedCompletion))
	}
	if n := s.Parallelism; n != nil && *n > mostParallelIndexed {
		e.Invalid(p.Child("parallelism"), *n, fmt.Sprintf("must be less than or equal to %d when completion mode is %s", mostParallelIndexed, batch.IndexedCompletion))
	}
	if s.MaxFailedIndexes != nil {
		if s.BackoffLimitPerIndex == nil {
			e.Required(p.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified")
		}
		if s.Completions != nil && *s.MaxFailedIndexes > *s.Completions {
			e.Invalid(p.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "must be less than or equal to completions")
		}
	}
	if policy := s.SuccessPolicy; policy != nil {
		at := p.Child("successPolicy", "rules")
		if len(policy.Rules) == 0 {
			e.Required(at, "at least one rules must be specified when the successPolicy is specified")
		}
		for i, r := range policy.Rules {
			if r.SucceededCount == nil && r.SucceededIndexes == nil {
				e.Required(at.Index(i), "at least one of succeededCount or succeededIndexes must be specified")
			}
			if r.SucceededCount != nil && *r.SucceededCount <= 0 {
				e.Invalid(at.Index(i).Child("succeededCount"), *r.SucceededCount, "must be greater than 0")
			}
		}
	}
}

func failurePolicy(e *rule.Errors, s *batch.JobSpec, p *field.Path) {
	at := p.Child("rules")
	if n := len(s.PodFailurePolicy.Rules); n > mostFailureRules {
		e.Add(field.TooMany(at, n, mostFailureRules))
	}
	containers := rule.Unique{}
	for _, list := range [][]core.Container{s.Template.Spec.InitContainers, s.Template.Spec.Containers} {
		for i := range list {
			containers[list[i].Name] = true
		}
	}
	for i := range s.PodFailurePolicy.Rules {
		r, at := &s.PodFailurePolicy.Rules[i], at.Index(i)
		rule.OneOf(e, at.Child("action"), r.Action, batch.PodFailurePolicyActionCount, batch.PodFailurePolicyActionFailIndex,
			batch.PodFailurePolicyActionFailJob, batch.PodFailurePolicyActionIgnore)
		if r.Action == batch.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			e.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set")
		}
		if r.OnExitCodes != nil && len(r.OnPodConditions) > 0 {
			e.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported")
		}
		if r.OnExitCodes == nil && len(r.OnPodConditions) == 0 {
			e.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required")
		}
		if x := r.OnExitCodes; x != nil {
			exitCodes(e, x, containers, at.Child("onExitCodes"))
		}
		for j, c := range r.OnPodConditions {
			e.Qualified(at.Child("onPodConditions").Index(j).Child("type"), string(c.Type))
			rule.OneOf(e, at.Child("onPodConditions").Index(j).Child("status"), c.Status, core.ConditionFalse, core.ConditionTrue, core.ConditionUnknown)
		}
	}
}

func exitCodes(e *rule.Errors, x *batch.PodFailurePolicyOnExitCodesRequirement, containers rule.Unique, p *field.Path) {
	rule.OneOf(e, p.Child("operator"), x.Operator, batch.PodFailurePolicyOnExitCodesOpIn, batch.PodFailurePolicyOnExitCodesOpNotIn)
	if x.ContainerName != nil && !containers[*x.ContainerName] {
		e.Invalid(p.Child("containerName"), *x.ContainerName, "must be one of the container or initContainer names in the pod template")
	}
	at, seen := p.Child("values"), rule.Unique{}
	if len(x.Values) == 0 {
		e.Invalid(at, x.Values, "at least one value is required")
	}
	for i, v := range x.Values {
		if v == 0 && x.Operator == batch.PodFailurePolicyOnExitCodesOpIn {
			e.Invalid(at.Index(i), v, "must not be 0 for the In operator")
		}
		if seen.Again(fmt.Sprint(v)) {
			e.Duplicate(at.Index(i), v)
		} else if i > 0 && x.Values[i-1] > v {
			e.Invalid(at, x.Values, "must be ordered")
		}
	}
}

// JobUpdate also keeps what makes the job what it is; a suspended job without pods
// may still be moved, labelled and given other resources.
func JobUpdate(o, old *batch.Job) Errors {
	var e rule.Errors
	e.Join(Job(o))
	s, was := &o.Spec, &old.Spec
	jobCompletions(&e, s, was)
	e.Unchanged(specPath.Child("selector"), s.Selector, was.Selector)
	template := was.Template
	if rests(old) {
		template = resized(placed(was.Template, s.Template), s.Template)
	}
	e.Unchanged(specPath.Child("template"), s.Template, template)
	e.Unchanged(specPath.Child("completionMode"), s.CompletionMode, was.CompletionMode)
	e.Unchanged(specPath.Child("podFailurePolicy"), s.PodFailurePolicy, was.PodFailurePolicy)
	e.Unchanged(specPath.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex, was.BackoffLimitPerIndex)
	e.Unchanged(specPath.Child("managedBy"), s.ManagedBy, was.ManagedBy)
	e.Unchanged(specPath.Child("successPolicy"), s.SuccessPolicy, was.SuccessPolicy)
	return e.List()
}

func jobCompletions(e *rule.Errors, s, was *batch.JobSpec) {
	p := specPath.Child("completions")
	switch {
	case s.CompletionMode == nil || *s.CompletionMode != batch.IndexedCompletion || s.Completions == nil:
		e.Unchanged(p, s.Completions, was.Completions)
	case same(s.Completions, was.Completions):
	case s.Parallelism == nil || *s.Completions != *s.Parallelism:
		e.Invalid(p, *s.Completions, fmt.Sprintf("can only be modified in tandem with %s", specPath.Child("parallelism")))
	}
}

// rests tells whether a job is suspended and has no pods that were made of its template.
func rests(j *batch.Job) bool {
	if j.Spec.Suspend == nil || !*j.Spec.Suspend || j.Status.Active != 0 {
		return false
	}
	return j.Status.StartTime == nil || slices.ContainsFunc(j.Status.Conditions, func(c batch.JobCondition) bool {
		return c.Type == batch.JobSuspended && c.Status == core.ConditionTrue
	})
}

// resized is the old template with the resources of the new one's containers.
func resized(t, from core.PodTemplateSpec) core.PodTemplateSpec {
	t = *t.DeepCopy()
	for _, list := range []struct{ to, from []core.Container }{{t.Spec.Containers, from.Spec.Containers}, {t.Spec.InitContainers, from.Spec.InitContainers}} {
		for i := range list.to {
			if i < len(list.from) && list.to[i].Name == list.from[i].Name {
				list.to[i].Resources = list.from[i].Resources
			}
		}
	}
	return t
}

// placed is the old template with the new one's words about where to run.
func placed(t, from core.PodTemplateSpec) core.PodTemplateSpec {
	t = *t.DeepCopy()
	t.Labels, t.Annotations = from.Labels, from.Annotations
	t.Spec.NodeSelector, t.Spec.Tolerations, t.Spec.SchedulingGates = from.Spec.NodeSelector, from.Spec.Tolerations, from.Spec.SchedulingGates
	if a := from.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		if t.Spec.Affinity == nil {
			t.Spec.Affinity = &core.Affinity{}
		}
		t.Spec.Affinity.NodeAffinity = a.NodeAffinity
	} else if t.Spec.Affinity != nil {
		t.Spec.Affinity.NodeAffinity = nil
		if equality.Semantic.DeepEqual(t.Spec.Affinity, &core.Affinity{}) {
			t.Spec.Affinity = from.Spec.Affinity
		}
	}
	return t
}

// JobStatus checks the counts.
func JobStatus(o, _ *batch.Job) Errors {
	var e rule.Errors
	for _, c := range []count{{"active", o.Status.Active}, {"succeeded", o.Status.Succeeded}, {"failed", o.Status.Failed}} {
		e.NotNegative(statusPath.Child(c.name), int64(c.value))
	}
	optional(&e, statusPath.Child("ready"), o.Status.Ready)
	optional(&e, statusPath.Child("terminating"), o.Status.Terminating)
	return e.List()
}

// A job's name is the cron job's with 11 characters more.
const longestCronName = validation.DNS1035LabelMaxLength - 11

// CronJob checks schedule and template.
func CronJob(o *batch.CronJob) Errors {
	var e rule.Errors
	e.Join(CronJobUpdate(o, nil))
	if len(o.Name) > longestCronName {
		e.Invalid(metaPath.Child("name"), o.Name, fmt.Sprintf("must be no more than %d characters", longestCronName))
	}
	return e.List()
}

// CronJobUpdate checks the same, but for the name.
func CronJobUpdate(o, _ *batch.CronJob) Errors {
	var e rule.Errors
	s := &o.Spec
	schedule(&e, s)
	if d := s.StartingDeadlineSeconds; d != nil {
		e.NotNegative(specPath.Child("startingDeadlineSeconds"), *d)
	}
	rule.OneOf(&e, specPath.Child("concurrencyPolicy"), s.ConcurrencyPolicy, batch.AllowConcurrent, batch.ForbidConcurrent, batch.ReplaceConcurrent)
	template := specPath.Child("jobTemplate", "spec")
	jobSpec(&e, &s.JobTemplate.Spec, template)
	if s.JobTemplate.Spec.Selector != nil {
		e.Invalid(template.Child("selector"), s.JobTemplate.Spec.Selector, "`selector` will be auto-generated")
	}
	if m := s.JobTemplate.Spec.ManualSelector; m != nil && *m {
		e.Add(field.NotSupported(template.Child("manualSelector"), m, []string{"nil", "false"}))
	}
	optional(&e, specPath.Child("successfulJobsHistoryLimit"), s.SuccessfulJobsHistoryLimit)
	optional(&e, specPath.Child("failedJobsHistoryLimit"), s.FailedJobsHistoryLimit)
	return e.List()
}

func schedule(e *rule.Errors, s *batch.CronJobSpec) {
	p := specPath.Child("schedule")
	switch {
	case s.Schedule == "":
		e.Required(p, "")
	case strings.Contains(s.Schedule, "TZ"):
		e.Invalid(p, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
	default:
		if _, err := cron.ParseStandard(s.Schedule); err != nil {
			e.Invalid(p, s.Schedule, err.Error())
		}
	}
	if s.TimeZone == nil {
		return
	}
	zone := specPath.Child("timeZone")
	switch {
	case *s.TimeZone == "":
		e.Invalid(zone, *s.TimeZone, "timeZone must be nil or non-empty string")
	case strings.EqualFold(*s.TimeZone, "Local"):
		e.Invalid(zone, *s.TimeZone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
	default:
		if _, err := time.LoadLocation(*s.TimeZone); err != nil {
			e.Invalid(zone, *s.TimeZone, err.Error())
		}
	}
}
