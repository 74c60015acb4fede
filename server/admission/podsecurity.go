package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"orch/api"
	"orch/api/client"
	"orch/server/admission/settings"
	"orch/server/registry"
)

// podSecurity evaluates the Pod Security Standards, which a namespace asks for by
// labels. Without labels the settings' defaults hold, which allow everything unless
// an administrator has set others.
type podSecurity struct {
	settings.Security
	numbers *securityNumbers
	check   func(psa.LevelVersion, *metav1.ObjectMeta, *core.PodSpec) []policy.CheckResult
}

// warnPods bounds how many pods a tightened namespace is checked against.
const warnPods = 3000

func newPodSecurity(s settings.Security) (*podSecurity, error) {
	e, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("setting up pod security: %w", err)
	}
	return &podSecurity{Security: s, numbers: newSecurityNumbers(), check: e.EvaluatePod}, nil
}

// exempt says why a request is left alone; empty if it is not.
func (s *podSecurity) exempt(a *registry.Attributes, spec *core.PodSpec) string {
	switch {
	case slices.Contains(s.Exempt.Namespaces, a.Namespace):
		return "namespace"
	case slices.Contains(s.Exempt.Usernames, a.User.Name):
		return "user"
	case spec.RuntimeClassName != nil && slices.Contains(s.Exempt.RuntimeClasses, *spec.RuntimeClassName):
		return "runtimeClass"
	}
	return ""
}

func (l *List) securityKinds() []*api.Facts {
	return []*api.Facts{
		api.Pods.Facts, api.Namespaces.Facts, api.Deployments.Facts, api.ReplicaSets.Facts, api.StatefulSets.Facts, api.DaemonSets.Facts,
		api.Jobs.Facts, api.CronJobs.Facts, api.ReplicationControllers.Facts, api.PodTemplates.Facts,
	}
}

func (l *List) podSecurity(_ context.Context, a *registry.Attributes) error {
	if a.Operation != registry.Create && a.Operation != registry.Update {
		return nil
	}
	if n, ok := object[core.Namespace](a); ok {
		return l.securityOfNamespace(a, n)
	}
	if a.Subresource != "" && a.Subresource != "ephemeralcontainers" {
		return nil
	}
	meta, spec := podPart(a.Object)
	if spec == nil {
		return nil
	}
	if why := l.security.exempt(a, spec); why != "" {
		a.Annotate(psa.AuditAnnotationPrefix+psa.ExemptionReasonAnnotationKey, why)
		l.security.numbers.exempted(a)
		return nil
	}
	ns := client.Cached(l.cache, api.Namespaces, "", a.Namespace)
	if ns == nil {
		return nil
	}
	want, problems := psa.PolicyToEvaluate(ns.Labels, l.security.Defaults)
	_, isPod := a.Object.(*core.Pod)
	if len(problems) == 0 && want.FullyPrivileged() {
		if isPod {
			a.Annotate(psa.AuditAnnotationPrefix+psa.EnforcedPolicyAnnotationKey, want.Enforce.String())
			l.security.numbers.evaluated(a, want.Enforce, "enforce", true)
		}
		return nil
	}
	if before := old[core.Pod](a); isPod && before != nil && !securityChanged(before, a.Object.(*core.Pod)) {
		return nil
	}
	if len(problems) > 0 {
		a.Annotate(psa.AuditAnnotationPrefix+"error", fmt.Sprintf("Failed to parse policy: %v", problems.ToAggregate()))
		l.security.numbers.failed(a)
	}
	return l.securityOfPod(a, want, meta, spec)
}

// securityOfPod enforces, audits and warns; each level is evaluated once. Templates are not
// refused: the pods made of them are.
func (l *List) securityOfPod(a *registry.Attributes, want psa.Policy, meta *metav1.ObjectMeta, spec *core.PodSpec) error {
	known := map[psa.LevelVersion]policy.AggregateCheckResult{}
	at := func(v psa.LevelVersion) policy.AggregateCheckResult {
		r, ok := known[v]
		if !ok {
			r = policy.AggregateCheckResults(l.security.check(v, meta, spec))
			known[v] = r
		}
		return r
	}
	var refusal error
	if _, isPod := a.Object.(*core.Pod); isPod {
		a.Annotate(psa.AuditAnnotationPrefix+psa.EnforcedPolicyAnnotationKey, want.Enforce.String())
		r := at(want.Enforce)
		l.security.numbers.evaluated(a, want.Enforce, "enforce", r.Allowed)
		if !r.Allowed {
			refusal = forbid(a, "violates PodSecurity %q: %s", want.Enforce.String(), r.ForbiddenDetail())
		}
	}
	if r := at(want.Audit); !r.Allowed {
		a.Annotate(psa.AuditAnnotationPrefix+psa.AuditViolationsAnnotationKey, fmt.Sprintf("would violate PodSecurity %q: %s", want.Audit.String(), r.ForbiddenDetail()))
		l.security.numbers.evaluated(a, want.Audit, "audit", false)
	}
	if refusal != nil {
		return refusal
	}
	if r := at(want.Warn); !r.Allowed {
		a.Warn(fmt.Sprintf("would violate PodSecurity %q: %s", want.Warn.String(), r.ForbiddenDetail()))
		l.security.numbers.evaluated(a, want.Warn, "warn", false)
	}
	return nil
}

// podPart is the pod or the pod template in an object.
func podPart(o any) (*metav1.ObjectMeta, *core.PodSpec) {
	template := func(t *core.PodTemplateSpec) (*metav1.ObjectMeta, *core.PodSpec) {
		if t == nil {
			return nil, nil
		}
		return &t.ObjectMeta, &t.Spec
	}
	switch o := o.(type) {
	case *core.Pod:
		return &o.ObjectMeta, &o.Spec
	case *core.PodTemplate:
		return template(&o.Template)
	case *core.ReplicationController:
		return template(o.Spec.Template)
	case *apps.Deployment:
		return template(&o.Spec.Template)
	case *apps.ReplicaSet:
		return template(&o.Spec.Template)
	case *apps.StatefulSet:
		return template(&o.Spec.Template)
	case *apps.DaemonSet:
		return template(&o.Spec.Template)
	case *batch.Job:
		return template(&o.Spec.Template)
	case *batch.CronJob:
		return template(&o.Spec.JobTemplate.Spec.Template)
	}
	return nil, nil
}

// securityChanged tells whether an update of a pod can matter to the checks: most
// do not, and a pod from before a stricter label must stay writable.
func securityChanged(before, now *core.Pod) bool {
	if len(before.Spec.EphemeralContainers) != len(now.Spec.EphemeralContainers) {
		return true
	}
	same := func(x, y []core.Container) bool {
		return slices.EqualFunc(x, y, func(p, q core.Container) bool {
			p.Image, q.Image = "", ""
			return equality.Semantic.DeepEqual(p, q)
		})
	}
	for k, v := range now.Annotations {
		if (strings.HasPrefix(k, "seccomp.security.alpha.kubernetes.io/") || strings.HasPrefix(k, "container.apparmor.security.beta.kubernetes.io/")) && before.Annotations[k] != v {
			return true
		}
	}
	return !same(before.Spec.Containers, now.Spec.Containers) || !same(before.Spec.InitContainers, now.Spec.InitContainers)
}

// securityOfNamespace checks the labels, and tells of pods that a stricter level
// would no longer let in.
func (l *List) securityOfNamespace(a *registry.Attributes, n *core.Namespace) error {
	want, problems := psa.PolicyToEvaluate(n.Labels, l.security.Defaults)
	exempt := slices.Contains(l.security.Exempt.Namespaces, n.Name)
	before := old[core.Namespace](a)
	if before == nil {
		if len(problems) > 0 {
			return apierrors.NewInvalid(api.Namespaces.GroupKind(), n.Name, problems)
		}
		if exempt {
			l.warnOfExemption(a, n, want)
		}
		return nil
	}
	was, had := psa.PolicyToEvaluate(before.Labels, l.security.Defaults)
	if len(problems) > 0 && (len(had) == 0 || !equality.Semantic.DeepEqual(problems, had)) {
		return apierrors.NewInvalid(api.Namespaces.GroupKind(), n.Name, problems)
	}
	same := want.Enforce.Version == was.Enforce.Version
	if want.Enforce == was.Enforce || want.Enforce.Level == psa.LevelPrivileged || same && psa.CompareLevels(want.Enforce.Level, was.Enforce.Level) < 1 {
		return nil
	}
	if exempt {
		l.warnOfExemption(a, n, want)
		return nil
	}
	l.warnAboutPods(a, n.Name, want.Enforce)
	return nil
}

// warnOfExemption tells who labels a namespace that the labels mean nothing there.
func (l *List) warnOfExemption(a *registry.Attributes, n *core.Namespace, want psa.Policy) {
	if want.FullyPrivileged() || want.Equivalent(&l.security.Defaults) {
		return
	}
	var modes []string
	for _, m := range []struct {
		name, level, version string
		want                 psa.LevelVersion
	}{
		{"enforce", psa.EnforceLevelLabel, psa.EnforceVersionLabel, want.Enforce},
		{"audit", psa.AuditLevelLabel, psa.AuditVersionLabel, want.Audit},
		{"warn", psa.WarnLevelLabel, psa.WarnVersionLabel, want.Warn},
	} {
		_, level := n.Labels[m.level]
		_, version := n.Labels[m.version]
		if m.want.Level != psa.LevelPrivileged && (level || version) {
			modes = append(modes, m.name+"="+m.want.String())
		}
	}
	a.Warn(fmt.Sprintf("namespace %q is exempt from Pod Security, and the policy (%s) will be ignored", n.Name, strings.Join(modes, ", ")))
}

func (l *List) warnAboutPods(a *registry.Attributes, namespace string, level psa.LevelVersion) {
	byReason := map[string][]string{}
	seen := 0
	l.cache.Each(api.Pods.Facts, namespace, func(o api.Object) bool {
		p := o.(*core.Pod)
		if c := p.Spec.RuntimeClassName; c != nil && slices.Contains(l.security.Exempt.RuntimeClasses, *c) {
			return true
		}
		if r := policy.AggregateCheckResults(l.security.check(level, &p.ObjectMeta, &p.Spec)); !r.Allowed {
			byReason[r.ForbiddenReason()] = append(byReason[r.ForbiddenReason()], p.Name)
		}
		seen++
		return seen < warnPods
	})
	if len(byReason) == 0 {
		return
	}
	a.Warn(fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, level.String()))
	var lines []string
	for reason, names := range byReason {
		slices.Sort(names)
		who := names[0]
		switch len(names) {
		case 1:
		case 2:
			who += " (and 1 other pod)"
		default:
			who += fmt.Sprintf(" (and %d other pods)", len(names)-1)
		}
		lines = append(lines, who+": "+reason)
	}
	slices.Sort(lines)
	for _, s := range lines {
		a.Warn(s)
	}
}
