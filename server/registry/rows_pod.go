package registry

import (
	"slices"
	"strconv"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
	"orch/server/validate"
)

func podRow() Resource {
	return Row(api.Pods, Hooks[core.Pod]{
		Default: defaults.Pod, Columns: columns.Pod(), ReturnDeleted: true,
		Validate: validate.Pod, ValidateUpdate: validate.PodUpdate, ValidateStatus: validate.PodStatus, Warn: validate.PodWarnings,
		PrepareCreate: newPod,
		PrepareUpdate: keepDevices,
		PrepareStatus: keepPodFacts,
		Grace:         podGrace,
		Subs: map[string]Sub[core.Pod]{
			"ephemeralcontainers": {Prepare: onlyEphemeralContainers, Validate: validate.PodEphemeralContainers},
			"resize":              {Prepare: onlyResources, Validate: validateResize},
		},
		FieldNames: []string{"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
			"status.phase", "status.podIP", "status.nominatedNodeName"},
		Fields: podFields,
	})
}

func podFields(o *core.Pod) fields.Set {
	ip := o.Status.PodIP
	if len(o.Status.PodIPs) > 0 {
		ip = o.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            o.Spec.NodeName,
		"spec.restartPolicy":       string(o.Spec.RestartPolicy),
		"spec.schedulerName":       o.Spec.SchedulerName,
		"spec.serviceAccountName":  o.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(o.Spec.HostNetwork),
		"status.phase":             string(o.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": o.Status.NominatedNodeName,
	}
}

// newPod starts the status of a pod: pending, its service class, and whether
// gates keep the scheduler from it.
func newPod(o *core.Pod) {
	o.Status = core.PodStatus{Phase: core.PodPending, QOSClass: defaults.QOS(o)}
	if len(o.Spec.SchedulingGates) > 0 {
		o.Status.Conditions = []core.PodCondition{{
			Type: core.PodScheduled, Status: core.ConditionFalse, Reason: core.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	matchKeysToSelectors(o)
	keepDevices(o, &core.Pod{})
}

// keepDevices keeps what the binding said of devices: who could write it could make the
// scheduler take a device for free, or for held.
func keepDevices(o, old *core.Pod) {
	was, bound := old.Annotations[api.AnnotationDevices]
	switch is, said := o.Annotations[api.AnnotationDevices]; {
	case said == bound && is == was:
	case !bound:
		delete(o.Annotations, api.AnnotationDevices)
	default:
		if o.Annotations == nil {
			o.Annotations = map[string]string{}
		}
		o.Annotations[api.AnnotationDevices] = was
	}
}

// matchKeysToSelectors writes matchLabelKeys and mismatchLabelKeys of pod
// affinity terms into the terms' selectors, with this pod's label values
// (upstream: mutatePodAffinity).
func matchKeysToSelectors(o *core.Pod) {
	a := o.Spec.Affinity
	if a == nil {
		return
	}
	var required []*core.PodAffinityTerm
	add := func(hard []core.PodAffinityTerm, soft []core.WeightedPodAffinityTerm) {
		for i := range hard {
			required = append(required, &hard[i])
		}
		for i := range soft {
			required = append(required, &soft[i].PodAffinityTerm)
		}
	}
	if p := a.PodAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		add(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	for _, term := range required {
		if term.LabelSelector == nil {
			continue
		}
		require(term.LabelSelector, o.Labels, term.MatchLabelKeys, metav1.LabelSelectorOpIn)
		require(term.LabelSelector, o.Labels, term.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
}

func require(s *metav1.LabelSelector, labels map[string]string, keys []string, op metav1.LabelSelectorOperator) {
	for _, key := range keys {
		if v, has := labels[key]; has {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{v}})
		}
	}
}

// keepPodFacts keeps what a node must not change through the status: who owns
// the pod, its service class, and the devices that it was bound with.
func keepPodFacts(o, old *core.Pod) {
	keepDevices(o, old)
	o.OwnerReferences = old.OwnerReferences
	if o.Status.QOSClass == "" {
		o.Status.QOSClass = old.Status.QOSClass
	}
}

// podGrace is what the request says, else the spec; nothing for a pod that runs
// nowhere (upstream: podStrategy.CheckGracefulDelete).
func podGrace(o *core.Pod, d *metav1.DeleteOptions) int64 {
	seconds := int64(0)
	switch {
	case d != nil && d.GracePeriodSeconds != nil:
		seconds = *d.GracePeriodSeconds
	case o.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *o.Spec.TerminationGracePeriodSeconds
	}
	switch {
	case o.Spec.NodeName == "", o.Status.Phase == core.PodFailed, o.Status.Phase == core.PodSucceeded:
		return 0
	case seconds < 0:
		return 1
	}
	return seconds
}

func onlyEphemeralContainers(o, old *core.Pod) {
	wanted := o.Spec.EphemeralContainers
	version := o.ResourceVersion
	old.DeepCopyInto(o)
	o.Spec.EphemeralContainers, o.ResourceVersion = wanted, version
	defaults.Pod(o)
}

// validateResize also keeps the pod in its class: cgroups and evictions go by it.
func validateResize(o, old *core.Pod) validate.Errors {
	class := old.Status.QOSClass
	if class == "" {
		class = defaults.QOS(old)
	}
	return validate.PodResize(o, old, class, defaults.QOS(o))
}

// onlyResources keeps the containers' resources and resize policies and the
// pod-level resources of a request to resize; all else is put back. Containers that are
// not those of the pod stay for validation to refuse.
func onlyResources(o, old *core.Pod) {
	wanted, version := o.Spec, o.ResourceVersion
	old.DeepCopyInto(o)
	o.ResourceVersion = version
	o.Spec.Containers = resizedContainers(o.Spec.Containers, wanted.Containers)
	o.Spec.InitContainers = resizedContainers(o.Spec.InitContainers, wanted.InitContainers)
	if wanted.Resources != nil { // who does not know of them leaves them out
		o.Spec.Resources = wanted.Resources
	}
}

func resizedContainers(were, wanted []core.Container) []core.Container {
	if !slices.EqualFunc(were, wanted, func(a, b core.Container) bool { return a.Name == b.Name }) {
		return wanted
	}
	for i := range were {
		were[i].Resources, were[i].ResizePolicy = wanted[i].Resources, wanted[i].ResizePolicy
	}
	return were
}
