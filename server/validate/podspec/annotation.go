package podspec

import (
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// Annotations checks the annotations of a pod that the system reads.
func Annotations(notes map[string]string, s *core.PodSpec, p *field.Path) field.ErrorList {
	var e rule.Errors
	if v, mirror := notes[core.MirrorPodAnnotationKey]; mirror && s.NodeName == "" {
		e.Invalid(p.Key(core.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set")
	}
	if v, has := notes[core.PodDeletionCost]; has {
		if _, err := strconv.ParseInt(v, 10, 32); err != nil || strings.HasPrefix(v, "+") || v != "0" && strings.HasPrefix(strings.TrimPrefix(v, "-"), "0") {
			e.Invalid(p.Key(core.PodDeletionCost), v, "must be a 32bit integer")
		}
	}
	return e.List()
}
