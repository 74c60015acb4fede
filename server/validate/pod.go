package validate

import (
	"fmt"
	"math"
	"reflect"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

// Pod checks a pod that is created.
func Pod(o *core.Pod) Errors {
	var e rule.Errors
	e.Join(podBody(o))
	if len(o.Spec.EphemeralContainers) > 0 {
		e.Forbidden(specPath.Child("ephemeralContainers"), "cannot be set on create")
	}
	if o.Spec.NodeName != "" && len(o.Spec.SchedulingGates) > 0 {
		e.Forbidden(specPath.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}
	return e.List()
}

// podBody is what a pod must satisfy at all times.
func podBody(o *core.Pod) Errors {
	var e rule.Errors
	e.Join(podspec.Annotations(o.Annotations, &o.Spec, metaPath.Child("annotations")))
	e.Join(podspec.Spec(&o.Spec, &o.ObjectMeta, specPath))
	if o.Spec.ServiceAccountName == "" {
		for i, v := range o.Spec.Volumes {
			if v.Projected == nil {
				continue
			}
			for j, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil {
					e.Forbidden(specPath.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
						"must not be specified when serviceAccountName is not set")
				}
			}
		}
	}
	images := func(list []core.Container, p *field.Path) {
		for i := range list {
			e.Join(podspec.ImageSpaces(list[i].Image, p.Index(i).Child("image")))
		}
	}
	images(o.Spec.Containers, specPath.Child("containers"))
	images(o.Spec.InitContainers, specPath.Child("initContainers"))
	return e.List()
}

// changeable is upstream's list, in its words.
const changeable = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// PodUpdate checks a pod that replaces old: only few fields of a spec may change.
func PodUpdate(o, old *core.Pod) Errors {
	var e rule.Errors
	e.Join(podBody(o))
	mirrorKept(&e, o, old)
	if len(o.Spec.Containers) != len(old.Spec.Containers) {
		e.Forbidden(specPath.Child("containers"), "pod updates may not add or remove containers")
		return e.List()
	}
	if len(o.Spec.InitContainers) != len(old.Spec.InitContainers) {
		e.Forbidden(specPath.Child("initContainers"), "pod updates may not add or remove containers")
		return e.List()
	}
	if !deadlineKept(&e, &o.Spec, &old.Spec) {
		return e.List()
	}
	tolerationsKept(&e, o.Spec.Tolerations, old.Spec.Tolerations)
	gatesKept(&e, o.Spec.SchedulingGates, old.Spec.SchedulingGates)
	if equality.Semantic.DeepEqual(o.Spec, old.Spec) {
		return e.List()
	}
	rest := o.Spec.DeepCopy()
	allowed(rest, &old.Spec)
	if len(old.Spec.SchedulingGates) > 0 {
		gatedMay(&e, rest, &old.Spec)
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		e.Forbidden(specPath, fmt.Sprintf("pod updates may not change fields other than %s\n%v", changeable, rule.Diff(old.Spec, *rest)))
	}
	return e.List()
}

// allowed puts back what an update of a pod may change.
func allowed(s, old *core.PodSpec) {
	for i := range s.Containers {
		s.Containers[i].Image = old.Containers[i].Image
	}
	for i := range s.InitContainers {
		s.InitContainers[i].Image = old.InitContainers[i].Image
	}
	s.ActiveDeadlineSeconds = old.ActiveDeadlineSeconds
	s.SchedulingGates, s.Tolerations = old.SchedulingGates, old.Tolerations
	if was, is := old.TerminationGracePeriodSeconds, s.TerminationGracePeriodSeconds; was != nil && *was < 0 && is != nil && *is == 1 {
		s.TerminationGracePeriodSeconds = was
	}
}

func mirrorKept(e *rule.Errors, o, old *core.Pod) {
	p := metaPath.Child("annotations").Key(core.MirrorPodAnnotationKey)
	was, had := old.Annotations[core.MirrorPodAnnotationKey]
	is, has := o.Annotations[core.MirrorPodAnnotationKey]
	switch {
	case had && (!has || was != is):
		e.Forbidden(p, "may not remove or update mirror pod annotation")
	case has && !had:
		e.Forbidden(p, "may not add mirror pod annotation")
	}
}

// deadlineKept lets a deadline be set, and be shortened. False ends the checks.
func deadlineKept(e *rule.Errors, s, old *core.PodSpec) bool {
	p := specPath.Child("activeDeadlineSeconds")
	is, was := s.ActiveDeadlineSeconds, old.ActiveDeadlineSeconds
	switch {
	case is == nil && was == nil:
	case is == nil:
		e.Invalid(p, is, "must not update from a positive integer to nil value")
	case *is < 0 || *is > math.MaxInt32:
		e.Invalid(p, *is, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case was != nil && *was < *is:
		e.Invalid(p, *is, "must be less than or equal to previous value")
		return false
	}
	return true
}

func tolerationsKept(e *rule.Errors, list, old []core.Toleration) {
	for _, was := range old {
		kept := false
		for _, is := range list {
			was.TolerationSeconds = is.TolerationSeconds
			if reflect.DeepEqual(was, is) {
				kept = true
				break
			}
		}
		if !kept {
			e.Forbidden(specPath.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
}

func gatesKept(e *rule.Errors, list, old []core.PodSchedulingGate) {
	had := rule.Unique{}
	for _, g := range old {
		had[g.Name] = true
	}
	for i, g := range list {
		if !had[g.Name] {
			e.Forbidden(specPath.Child("schedulingGates").Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name))
		}
	}
}

// gatedMay lets a pod that no scheduler may touch yet be narrowed in where it may
// run: node labels and required node affinity may be added to.
func gatedMay(e *rule.Errors, s, old *core.PodSpec) {
	for k, v := range old.NodeSelector {
		if s.NodeSelector[k] != v {
			e.Invalid(specPath.Child("nodeSelector"), s.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
			break
		}
	}
	s.NodeSelector = old.NodeSelector
	var is, was *core.NodeAffinity
	if s.Affinity != nil {
		is = s.Affinity.NodeAffinity
	}
	if old.Affinity != nil {
		was = old.Affinity.NodeAffinity
	}
	if equality.Semantic.DeepEqual(is, was) {
		return
	}
	affinityNarrowed(e, is, was)
	switch {
	case s.Affinity == nil:
		s.Affinity = &core.Affinity{NodeAffinity: was}
	case old.Affinity == nil && s.Affinity.PodAffinity == nil && s.Affinity.PodAntiAffinity == nil:
		s.Affinity = nil
	default:
		s.Affinity.NodeAffinity = was
	}
}

func affinityNarrowed(e *rule.Errors, is, was *core.NodeAffinity) {
	if was == nil || was.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return // nothing was required: anything may be
	}
	p := specPath.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	oldTerms := was.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var terms []core.NodeSelectorTerm
	if is != nil && is.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = is.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(oldTerms) > 0 && len(terms) != len(oldTerms) {
		e.Invalid(p, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	starts := func(list, with []core.NodeSelectorRequirement) bool {
		return len(list) >= len(with) && equality.Semantic.DeepEqual(list[:len(with)], with)
	}
	for i, t := range oldTerms {
		if !starts(terms[i].MatchExpressions, t.MatchExpressions) || !starts(terms[i].MatchFields, t.MatchFields) {
			e.Invalid(p.Index(i), terms[i], "only additions are allowed (no mutations or deletions)")
		}
	}
}

// PodStatus checks a write of a pod's status.
func PodStatus(o, old *core.Pod) Errors {
	var e rule.Errors
	mirrorKept(&e, o, old)
	if o.Spec.NodeName != old.Spec.NodeName {
		e.Forbidden(statusPath.Child("nodeName"), "may not be changed directly")
	}
	if n := o.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		e.ObjectName(statusPath.Child("nominatedNodeName"), n)
	}
	for i, c := range o.Status.Conditions {
		e.Qualified(metaPath.Child("conditions").Index(i).Child("Type"), string(c.Type))
	}
	if was, is := old.Status.QOSClass, o.Status.QOSClass; was != "" && was != is {
		e.Invalid(statusPath.Child("qosClass"), is, rule.Immutable)
	}
	stayEnded(&e, o, old)
	podIPs(&e, o)
	hostIPs(&e, o)
	podClaims(&e, o)
	return e.List()
}

// stayEnded refuses containers that come back from their end though nothing
// restarts them.
func stayEnded(e *rule.Errors, o, old *core.Pod) {
	again := map[string]bool{}
	for _, list := range [][]core.Container{old.Spec.InitContainers, old.Spec.Containers} {
		for i := range list {
			c := &list[i]
			again[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy != core.ContainerRestartPolicyNever || len(c.RestartPolicyRules) > 0
		}
	}
	check := func(list, was []core.ContainerStatus, policy core.RestartPolicy, p *field.Path) {
		if policy == core.RestartPolicyAlways {
			return
		}
		for i := range was {
			t := was[i].State.Terminated
			if t == nil || t.ExitCode != 0 && policy == core.RestartPolicyOnFailure || again[was[i].Name] {
				continue
			}
			for j := range list {
				if list[j].Name == was[i].Name && list[j].State.Terminated == nil {
					e.Forbidden(p.Index(i).Child("state"), "may not be transitioned to non-terminated state")
				}
			}
		}
	}
	s, was, policy := &o.Status, &old.Status, old.Spec.RestartPolicy
	check(s.ContainerStatuses, was.ContainerStatuses, policy, statusPath.Child("containerStatuses"))
	check(s.InitContainerStatuses, was.InitContainerStatuses, policy, statusPath.Child("initContainerStatuses"))
	check(s.EphemeralContainerStatuses, was.EphemeralContainerStatuses, core.RestartPolicyNever, statusPath.Child("ephemeralContainerStatuses"))
}

func podIPs(e *rule.Errors, o *core.Pod) {
	p, seen := statusPath.Child("podIPs"), rule.Unique{}
	var ips []string
	for i, ip := range o.Status.PodIPs {
		e.IP(p.Index(i), ip.IP)
		if seen.Again(ip.IP) {
			e.Duplicate(p.Index(i), ip)
		}
		ips = append(ips, ip.IP)
	}
	if !rule.OnePerFamily(ips) {
		e.Invalid(p, o.Status.PodIPs, "may specify no more than one IP for each IP family")
	}
}

func hostIPs(e *rule.Errors, o *core.Pod) {
	p := statusPath.Child("hostIPs")
	var ips []string
	for i, ip := range o.Status.HostIPs {
		if i == 0 && ip.IP != o.Status.HostIP {
			e.Invalid(p.Index(0).Child("ip"), ip.IP, "must be equal to `hostIP`")
		}
		e.IP(p.Index(i), ip.IP)
		ips = append(ips, ip.IP)
	}
	if !rule.OnePerFamily(ips) {
		e.Invalid(p, o.Status.HostIPs, "may specify no more than one IP for each IP family")
	}
}

// PodEphemeralContainers checks a write of the ephemeral containers: they can be
// added, never taken away or changed.
func PodEphemeralContainers(o, old *core.Pod) Errors {
	var e rule.Errors
	if _, mirror := old.Annotations[core.MirrorPodAnnotationKey]; mirror {
		e.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")
		return e.List()
	}
	e.Join(podBody(o))
	p := specPath.Child("ephemeralContainers")
	now := map[string]*core.EphemeralContainer{}
	for i := range o.Spec.EphemeralContainers {
		now[o.Spec.EphemeralContainers[i].Name] = &o.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		switch is := now[was.Name]; {
		case is == nil:
			e.Forbidden(p, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name))
		case !equality.Semantic.DeepEqual(is, was):
			e.Forbidden(p, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, rule.Diff(was, is)))
		}
	}
	return e.List()
}

// Binding checks what a scheduler posts.
func Binding(o *core.Binding) Errors {
	var e rule.Errors
	if o.Target.Kind != "" && o.Target.Kind != "Node" {
		e.Add(field.NotSupported(field.NewPath("target", "kind"), o.Target.Kind, []string{"Node", "<empty>"}))
	}
	e.Need(field.NewPath("target", "name"), o.Target.Name)
	return e.List()
}

// PodTemplate checks the kind PodTemplate; updates are free.
func PodTemplate(o *core.PodTemplate) Errors {
	return podspec.Template(&o.Template, field.NewPath("template"))
}
func PodTemplateUpdate(o, _ *core.PodTemplate) Errors { return PodTemplate(o) }
