package rule

import (
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NodeSelector checks required node affinity.
func NodeSelector(p *field.Path, s *core.NodeSelector) field.ErrorList {
	var e Errors
	terms := p.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		e.Required(terms, "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		e.Join(NodeSelectorTerm(terms.Index(i), &s.NodeSelectorTerms[i]))
	}
	return e.List()
}

// NodeSelectorTerm checks one term.
func NodeSelectorTerm(p *field.Path, t *core.NodeSelectorTerm) field.ErrorList {
	var e Errors
	for i := range t.MatchExpressions {
		e.nodeRequirement(p.Child("matchExpressions").Index(i), &t.MatchExpressions[i])
	}
	for i := range t.MatchFields {
		e.nodeFieldRequirement(p.Child("matchFields").Index(i), &t.MatchFields[i])
	}
	return e.List()
}

func (e *Errors) nodeRequirement(p *field.Path, r *core.NodeSelectorRequirement) {
	values := p.Child("values")
	switch r.Operator {
	case core.NodeSelectorOpIn, core.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			e.Required(values, "must be specified when `operator` is 'In' or 'NotIn'")
		}
	case core.NodeSelectorOpExists, core.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			e.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	case core.NodeSelectorOpGt, core.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			e.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'")
		}
	default:
		e.Invalid(p.Child("operator"), r.Operator, "not a valid selector operator")
	}
	e.LabelName(p.Child("key"), r.Key)
}

func (e *Errors) nodeFieldRequirement(p *field.Path, r *core.NodeSelectorRequirement) {
	values := p.Child("values")
	switch r.Operator {
	case core.NodeSelectorOpIn, core.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			e.Required(values, "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		}
	default:
		e.Invalid(p.Child("operator"), r.Operator, "not a valid selector operator")
	}
	if r.Key != "metadata.name" {
		e.Invalid(p.Child("key"), r.Key, "not a valid field selector key")
		return
	}
	for i, v := range r.Values {
		e.ObjectName(values.Index(i), v)
	}
}

// TaintEffect wants one of the three effects.
func TaintEffect(e *Errors, p *field.Path, effect core.TaintEffect) {
	switch effect {
	case core.TaintEffectNoSchedule, core.TaintEffectPreferNoSchedule, core.TaintEffectNoExecute:
	case "":
		e.Required(p, "")
	default:
		e.Add(field.NotSupported(p, effect, []core.TaintEffect{core.TaintEffectNoSchedule, core.TaintEffectPreferNoSchedule, core.TaintEffectNoExecute}))
	}
}

// Tolerations checks what a pod tolerates.
func Tolerations(p *field.Path, list []core.Toleration) field.ErrorList {
	var e Errors
	for i := range list {
		e.toleration(p.Index(i), &list[i])
	}
	return e.List()
}

func (e *Errors) toleration(p *field.Path, t *core.Toleration) {
	if t.Key != "" {
		e.LabelName(p.Child("key"), t.Key)
	}
	if t.Key == "" && t.Operator != core.TolerationOpExists {
		e.Invalid(p.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
	}
	if t.TolerationSeconds != nil && t.Effect != core.TaintEffectNoExecute {
		e.Invalid(p.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
	}
	switch t.Operator {
	case core.TolerationOpEqual, "":
		if complaints := validation.IsValidLabelValue(t.Value); len(complaints) > 0 {
			e.Invalid(p.Child("operator"), t.Value, strings.Join(complaints, ";"))
		}
	case core.TolerationOpExists:
		if t.Value != "" {
			e.Invalid(p.Child("operator"), t, "value must be empty when `operator` is 'Exists'")
		}
	default:
		e.Add(field.NotSupported(p.Child("operator"), t.Operator, []core.TolerationOperator{core.TolerationOpEqual, core.TolerationOpExists}))
	}
	if t.Effect != "" {
		TaintEffect(e, p.Child("effect"), t.Effect)
	}
}
