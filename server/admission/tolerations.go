package admission

import (
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// mergeTolerations joins two lists and leaves out what another of them says already.
func mergeTolerations(first, second []core.Toleration) []core.Toleration {
	all := slices.Concat(first, second)
	var merged []core.Toleration
	for i, t := range all {
		before := slices.ContainsFunc(merged, func(have core.Toleration) bool { return covers(have, t) })
		after := slices.ContainsFunc(all[i+1:], func(next core.Toleration) bool {
			return covers(next, t) && !equality.Semantic.DeepEqual(next, t) // of equals the first stays
		})
		if !before && !after {
			merged = append(merged, t)
		}
	}
	return merged
}

// covers tells whether wide tolerates all that t does, for as long.
func covers(wide, t core.Toleration) bool {
	exists := wide.Operator == core.TolerationOpExists
	switch {
	case equality.Semantic.DeepEqual(wide, t):
		return true
	case wide.Key != t.Key && (wide.Key != "" || !exists):
		return false
	case wide.Effect != t.Effect && wide.Effect != "":
		return false
	case wide.Effect == core.TaintEffectNoExecute && wide.TolerationSeconds != nil &&
		(t.TolerationSeconds == nil || *t.TolerationSeconds > *wide.TolerationSeconds):
		return false
	case exists:
		return true
	}
	return isEqual(wide.Operator) && isEqual(t.Operator) && wide.Value == t.Value
}

// isEqual: an operator that is left out is Equal.
func isEqual(o core.TolerationOperator) bool { return o == "" || o == core.TolerationOpEqual }
