package validate

import (
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

const onlyCompute = "only cpu and memory resources are mutable"

// PodResize checks a write of the resources: CPU and memory may change, the class that the pod
// was of and is of may not. Upstream's texts say why a pod cannot be resized.
func PodResize(o, old *core.Pod, was, is core.PodQOSClass) Errors {
	var e rule.Errors
	if _, mirror := old.Annotations[core.MirrorPodAnnotationKey]; mirror {
		e.Forbidden(field.NewPath(""), "static pods cannot be resized")
		return e.List()
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == core.Windows {
		e.Forbidden(field.NewPath(""), "windows pods cannot be resized")
		return e.List()
	}
	e.Join(podBody(o))
	if was != is {
		e.Invalid(specPath, o.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
	}
	if !nodeResizes(old) {
		e.Forbidden(specPath, "Pod running on node without support for resize")
	}
	resizedPod(&e, o.Spec.Resources, old.Spec.Resources)
	same := sameContainers(&e, "containers", o.Spec.Containers, old.Spec.Containers)
	if !sameContainers(&e, "initContainers", o.Spec.InitContainers, old.Spec.InitContainers) || !same {
		return e.List()
	}
	containers, inits := specPath.Child("containers"), specPath.Child("initContainers")
	for i := range o.Spec.InitContainers {
		resizedInit(&e, &o.Spec.InitContainers[i], &old.Spec.InitContainers[i], inits.Index(i))
	}
	for i := range o.Spec.Containers {
		is, was := &o.Spec.Containers[i].Resources, &old.Spec.Containers[i].Resources
		keepsResources(&e, is, was, containers.Index(i).Child("resources"), "resource")
		if otherResources(is, was) {
			e.Forbidden(specPath, onlyCompute)
		}
	}
	return e.List()
}

// nodeResizes tells whether the pod's node says what running containers have, as those do that
// can change it. Nobody can tell before a container runs.
func nodeResizes(o *core.Pod) bool {
	for i := range o.Status.ContainerStatuses {
		if s := &o.Status.ContainerStatuses[i]; s.State.Running != nil {
			return s.Resources != nil
		}
	}
	return true
}

// resizedPod checks the resources of the pod as a whole.
func resizedPod(e *rule.Errors, is, was *core.ResourceRequirements) {
	p := specPath.Child("resources")
	switch {
	case is == nil && was == nil:
		return
	case is == nil:
		e.Forbidden(p, "pod-level resources cannot be removed")
		return
	case was == nil:
		was = &core.ResourceRequirements{}
	}
	keepsResources(e, is, was, p, "pod-level resource")
	if otherResources(is, was) {
		e.Forbidden(specPath, onlyCompute+" at pod-level")
	}
}

func resizedInit(e *rule.Errors, is, was *core.Container, p *field.Path) {
	keepsResources(e, &is.Resources, &was.Resources, p.Child("resources"), "resource")
	if otherResources(&is.Resources, &was.Resources) {
		e.Forbidden(p, "only cpu and memory resources for init or sidecar containers are mutable")
	}
	if sidecar := is.RestartPolicy != nil && *is.RestartPolicy == core.ContainerRestartPolicyAlways; sidecar || equality.Semantic.DeepEqual(is, was) {
		return
	}
	for _, r := range is.ResizePolicy {
		if r.RestartPolicy == core.RestartContainer {
			e.Forbidden(p, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized")
		}
	}
}

// sameContainers: a resize neither adds nor takes away nor moves containers.
func sameContainers(e *rule.Errors, kind string, is, was []core.Container) bool {
	p := specPath.Child(kind)
	if len(is) != len(was) {
		e.Forbidden(p, kind+" may not be added or removed on resize")
		return false
	}
	same := true
	for i := range is {
		if is[i].Name != was[i].Name {
			e.Forbidden(p.Index(i).Child("name"), kind+" may not be renamed or reordered on resize")
			same = false
		}
	}
	return same
}

// keepsResources: what had a request or a limit goes on having one.
func keepsResources(e *rule.Errors, is, was *core.ResourceRequirements, p *field.Path, what string) {
	gone := func(is, was core.ResourceList) bool {
		for n := range was {
			if _, kept := is[n]; !kept {
				return true
			}
		}
		return false
	}
	if gone(is.Requests, was.Requests) {
		e.Forbidden(p.Child("requests"), what+" requests cannot be removed")
	}
	if gone(is.Limits, was.Limits) {
		e.Forbidden(p.Child("limits"), what+" limits cannot be removed")
	}
}

// otherResources tells whether anything but CPU and memory is asked for otherwise.
func otherResources(is, was *core.ResourceRequirements) bool {
	rest := func(l core.ResourceList) core.ResourceList {
		out := core.ResourceList{}
		for n, q := range l {
			if n != core.ResourceCPU && n != core.ResourceMemory {
				out[n] = q
			}
		}
		return out
	}
	return !equality.Semantic.DeepEqual(rest(is.Requests), rest(was.Requests)) ||
		!equality.Semantic.DeepEqual(rest(is.Limits), rest(was.Limits)) ||
		!equality.Semantic.DeepEqual(is.Claims, was.Claims)
}
