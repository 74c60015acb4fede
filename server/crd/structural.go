package crd

import (
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// verdict is what is wrong with the schemas of one generation of a definition.
type verdict struct {
	uid        types.UID
	generation int64
	condition  *apiext.CustomResourceDefinitionCondition // nil: nothing
}

// judge puts NonStructuralSchema on a definition whose schemas are not structural: one that
// was stored before they had to be. A generation is judged once, as that takes a while.
func (c *Controller) judge(d *apiext.CustomResourceDefinition) {
	c.mu.Lock()
	v, known := c.verdicts[d.Name]
	c.mu.Unlock()
	if !known || v.uid != d.UID || v.generation != d.Generation {
		v = verdict{d.UID, d.Generation, nonStructural(d)}
		c.mu.Lock()
		c.verdicts[d.Name] = v
		c.mu.Unlock()
	}
	if v.condition == nil {
		apihelpers.RemoveCRDCondition(d, apiext.NonStructuralSchema)
		return
	}
	setCondition(d, *v.condition, c.Now())
}

// nonStructural is the condition of a definition whose schemas are not structural, else nil.
func nonStructural(d *apiext.CustomResourceDefinition) *apiext.CustomResourceDefinitionCondition {
	out := &apiext.CustomResourceDefinitionCondition{Type: apiext.NonStructuralSchema, Status: apiext.ConditionTrue, Reason: "Violations"}
	var errs field.ErrorList
	if d.Spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false"))
	}
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		in := &apiextensions.JSONSchemaProps{}
		if err := apiext.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, in, nil); err != nil {
			continue // such a version is not served either
		}
		s, err := schema.NewStructural(in)
		if err != nil {
			out.Status, out.Reason = apiext.ConditionUnknown, "StructuralError"
			out.Message = fmt.Sprintf("failed to check validation schema for version %s: %v", v.Name, err)
			return out
		}
		errs = append(errs, schema.ValidateStructural(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), s)...)
	}
	if len(errs) == 0 {
		return nil
	}
	out.Message = errs.ToAggregate().Error()
	return out
}
