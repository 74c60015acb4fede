package device

import (
	"fmt"

	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/dynamic-resource-allocation/cel"

	"orch/server/validate/rule"
)

// expression wants CEL that compiles and that cannot become dear. The compiler is the one
// that allocates; it is built when the first expression comes.
func expression(e *rule.Errors, text string, derived bool, p *field.Path) {
	if e.Need(p, text); text == "" || len(text) > resource.CELSelectorExpressionMaxLength {
		e.Shorter(p, text, resource.CELSelectorExpressionMaxLength)
		return
	}
	env := environment.NewExpressions
	r := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true}).CompileCELExpression(text, cel.Options{EnvType: &env, DerivedAttribute: derived})
	limit := uint64(resource.CELSelectorExpressionMaxCost)
	if derived {
		limit = min(limit, resource.DeviceClaimDerivedAttributeCELMaxCost)
	}
	switch {
	case r.Error == nil && r.MaxCost > limit:
		e.Forbidden(p, "too complex, exceeds cost limit")
	case r.Error == nil:
	case r.Error.Type == apiservercel.ErrorTypeInvalid:
		e.Invalid(p, text, r.Error.Detail)
	case r.Error.Type == apiservercel.ErrorTypeRequired:
		e.Required(p, r.Error.Detail)
	default:
		e.Add(field.InternalError(p, fmt.Errorf("%w", r.Error)))
	}
}
