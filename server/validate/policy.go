package validate

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	admission "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"orch/server/expression"
	"orch/server/validate/rule"
)

const (
	mostAuditAnnotations = 20
	// mostValueBytes bounds an expression; its value may be twice as long.
	mostValueBytes = 5 << 10
)

// admissionPolicy is what validating and mutating policies have in common, and the expressions
// of the policy that it replaces.
type admissionPolicy struct {
	e      rule.Errors
	set    *expression.Set
	scope  expression.Scope
	stored map[string]bool
}

func newPolicy(kind *admission.ParamKind, variables, composed bool, stored []string) *admissionPolicy {
	p := &admissionPolicy{set: expression.NewSet(expression.New), stored: map[string]bool{},
		scope: expression.Scope{Params: kind != nil, Authorizer: true, Variables: variables || composed}}
	for _, s := range stored {
		p.stored[s] = true
	}
	return p
}

func (p *admissionPolicy) compile(text string, sc expression.Scope, at *field.Path, may ...*cel.Type) {
	compiled(&p.e, p.set.CompileIn(modeOf(p.stored, text), text, sc, may...), at)
}

// ValidatingAdmissionPolicy checks the policy and compiles its expressions.
func ValidatingAdmissionPolicy(o *admission.ValidatingAdmissionPolicy) Errors {
	return validatingPolicy(o, &conditions{}, nil)
}

// ValidatingAdmissionPolicyUpdate lets expressions pass that were accepted before.
func ValidatingAdmissionPolicyUpdate(o, old *admission.ValidatingAdmissionPolicy) Errors {
	was := &old.Spec
	known := knownConditions([][]admission.MatchCondition{o.Spec.MatchConditions}, [][]admission.MatchCondition{was.MatchConditions})
	known.same = known.same && reflect.DeepEqual(o.Spec.ParamKind, was.ParamKind)
	var stored []string
	for _, v := range was.Variables {
		stored = append(stored, v.Expression)
	}
	for _, v := range was.Validations {
		stored = append(stored, v.Expression, v.MessageExpression)
	}
	for _, a := range was.AuditAnnotations {
		stored = append(stored, a.ValueExpression)
	}
	return validatingPolicy(o, known, stored)
}

func validatingPolicy(o *admission.ValidatingAdmissionPolicy, known *conditions, stored []string) Errors {
	s := &o.Spec
	p := newPolicy(s.ParamKind, len(s.Variables) > 0, false, stored)
	p.failureAndMatch(s.FailurePolicy, s.ParamKind, s.MatchConstraints)
	known.scope.Params = s.ParamKind != nil
	known.check(&p.e, s.MatchConditions, specPath.Child("matchConditions"))
	p.variables(s.Variables)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const why = "validations or auditAnnotations must contain at least one item"
		p.e.Required(specPath.Child("validations"), why)
		p.e.Required(specPath.Child("auditAnnotations"), why)
		return p.e.List()
	}
	for i := range s.Validations {
		p.validation(&s.Validations[i], specPath.Child("validations").Index(i))
	}
	at := specPath.Child("auditAnnotations")
	if len(s.AuditAnnotations) > mostAuditAnnotations {
		p.e.Invalid(at, s.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", mostAuditAnnotations))
	}
	seen := rule.Unique{}
	for i := range s.AuditAnnotations {
		p.auditAnnotation(o.Name, &s.AuditAnnotations[i], at.Index(i))
		if key := s.AuditAnnotations[i].Key; seen.Again(key) {
			p.e.Duplicate(at.Index(i).Child("key"), key)
		}
	}
	return p.e.List()
}

func (p *admissionPolicy) validation(v *admission.Validation, at *field.Path) {
	if strings.TrimSpace(v.Expression) == "" {
		p.e.Required(at.Child("expression"), "expression is not specified")
	} else {
		p.compile(v.Expression, p.scope, at.Child("expression"), cel.BoolType)
	}
	if v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "" {
		p.e.Invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified")
	} else if v.MessageExpression != "" {
		sc := p.scope
		sc.Authorizer = false
		p.compile(v.MessageExpression, sc, at.Child("messageExpression"), cel.StringType)
	}
	message := strings.TrimSpace(v.Message)
	switch {
	case v.Message != "" && message == "":
		p.e.Invalid(at.Child("message"), v.Message, "message must be non-empty if specified")
	case strings.ContainsAny(message, "\r\n"):
		p.e.Invalid(at.Child("message"), v.Message, "message must not contain line breaks")
	}
	if v.Reason != nil {
		rule.Among(&p.e, at.Child("reason"), *v.Reason, metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)
	}
}

func (p *admissionPolicy) auditAnnotation(policy string, a *admission.AuditAnnotation, at *field.Path) {
	if policy == "" {
		p.e.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty")
	} else {
		p.e.Qualified(at.Child("key"), policy+"/"+a.Key)
	}
	at = at.Child("valueExpression")
	switch text := strings.TrimSpace(a.ValueExpression); {
	case text == "":
		p.e.Required(at, "valueExpression is not specified")
	case len(text) > mostValueBytes:
		p.e.Required(at, fmt.Sprintf("must not exceed %d bytes in length", mostValueBytes))
	default:
		x := p.set.CompileIn(modeOf(p.stored, a.ValueExpression), text, p.scope, cel.StringType, cel.NullType)
		x.Text = a.ValueExpression
		compiled(&p.e, x, at)
	}
}

func (p *admissionPolicy) failureAndMatch(failure *admission.FailurePolicyType, kind *admission.ParamKind, match *admission.MatchResources) {
	if failure == nil {
		p.e.Required(specPath.Child("failurePolicy"), "")
	} else {
		rule.Among(&p.e, specPath.Child("failurePolicy"), *failure, admission.Fail, admission.Ignore)
	}
	if kind != nil {
		paramKind(&p.e, kind, specPath.Child("paramKind"))
	}
	at := specPath.Child("matchConstraints")
	if match == nil {
		p.e.Required(at, "")
		return
	}
	matchResources(&p.e, match, at)
	if len(match.ResourceRules) == 0 {
		p.e.Required(at.Child("resourceRules"), "")
	}
}

func paramKind(e *rule.Errors, k *admission.ParamKind, p *field.Path) {
	at := p.Child("apiVersion")
	group, version, grouped := strings.Cut(k.APIVersion, "/")
	if !grouped {
		group, version = "", k.APIVersion
	}
	switch {
	case k.APIVersion == "":
		e.Required(at, "")
	case strings.Count(k.APIVersion, "/") > 1:
		e.Invalid(at, k.APIVersion, "unexpected GroupVersion string: "+k.APIVersion)
	default:
		if group != "" {
			if says := validation.IsDNS1123Subdomain(group); len(says) > 0 {
				e.Invalid(at, group, strings.Join(says, ","))
			}
		}
		if version == "" {
			e.Invalid(at, k.APIVersion, "version must be specified")
		} else if says := validation.IsDNS1035Label(version); len(says) > 0 {
			e.Invalid(at, version, strings.Join(says, ","))
		}
	}
	at = p.Child("kind")
	if k.Kind == "" {
		e.Required(at, "")
	} else if says := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(says) > 0 {
		e.Invalid(at, k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(says, ","))
	}
}

var (
	identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	reserved   = []string{"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if",
		"import", "let", "loop", "package", "namespace", "return", "var", "void", "while"}
)

func (p *admissionPolicy) variables(list []admission.Variable) {
	for i, v := range list {
		at := specPath.Child("variables").Index(i)
		if strings.TrimSpace(v.Name) == "" {
			p.e.Required(at.Child("name"), "name is not specified")
		} else if !identifier.MatchString(v.Name) || slices.Contains(reserved, v.Name) {
			p.e.Invalid(at.Child("name"), v.Name, "name is not a valid CEL identifier")
		}
		if strings.TrimSpace(v.Expression) == "" {
			p.e.Required(at.Child("expression"), "expression is not specified")
			continue
		}
		x := p.set.CompileIn(modeOf(p.stored, v.Expression), v.Expression, p.scope)
		p.set.Declare(v.Name, x)
		compiled(&p.e, x, at.Child("expression"))
	}
}

func matchResources(e *rule.Errors, m *admission.MatchResources, p *field.Path) {
	if m.MatchPolicy == nil {
		e.Required(p.Child("matchPolicy"), "")
	} else {
		rule.Among(e, p.Child("matchPolicy"), *m.MatchPolicy, admission.Exact, admission.Equivalent)
	}
	if m.NamespaceSelector == nil {
		e.Required(p.Child("namespaceSelector"), "")
	}
	e.Selector(p.Child("namespaceSelector"), m.NamespaceSelector)
	if m.ObjectSelector == nil {
		e.Required(p.Child("objectSelector"), "")
	}
	e.Selector(p.Child("objectSelector"), m.ObjectSelector)
	rules := func(name string, list []admission.NamedRuleWithOperations) {
		for i := range list {
			at := p.Child(name).Index(i)
			seen := rule.Unique{}
			for j, n := range list[i].ResourceNames {
				e.Each(at.Child("resourceNames").Index(j), n, path.ValidatePathSegmentName(n, false))
				if seen.Again(n) {
					e.Duplicate(at.Child("resourceNames").Index(j), n)
				}
			}
			operations(e, list[i].Operations, at)
			matchRule(e, &list[i].Rule, at)
		}
	}
	rules("resourceRules", m.ResourceRules)
	rules("excludeResourceRules", m.ExcludeResourceRules)
}

// ValidatingAdmissionPolicyStatus checks what the type checker has written.
func ValidatingAdmissionPolicyStatus(o, _ *admission.ValidatingAdmissionPolicy) Errors {
	var e rule.Errors
	if t := o.Status.TypeChecking; t != nil {
		for i, w := range t.ExpressionWarnings {
			at := statusPath.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				e.Required(at.Child("warning"), "")
			}
			ref := strings.TrimSpace(w.FieldRef)
			if ref == "" {
				e.Required(at.Child("fieldRef"), "")
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				e.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err))
			}
		}
	}
	e.Join(metavalidation.ValidateConditions(o.Status.Conditions, statusPath.Child("conditions")))
	return e.List()
}

// MutatingAdmissionPolicy checks the policy and compiles its expressions.
func MutatingAdmissionPolicy(o *admission.MutatingAdmissionPolicy) Errors {
	return mutatingPolicy(o, &conditions{}, nil)
}

// MutatingAdmissionPolicyUpdate lets expressions pass that were accepted before.
func MutatingAdmissionPolicyUpdate(o, old *admission.MutatingAdmissionPolicy) Errors {
	was := &old.Spec
	known := knownConditions([][]admission.MatchCondition{o.Spec.MatchConditions}, [][]admission.MatchCondition{was.MatchConditions})
	known.same = known.same && reflect.DeepEqual(o.Spec.ParamKind, was.ParamKind)
	var stored []string
	for _, v := range was.Variables {
		stored = append(stored, v.Expression)
	}
	for _, m := range was.Mutations {
		if m.ApplyConfiguration != nil {
			stored = append(stored, m.ApplyConfiguration.Expression)
		}
		if m.JSONPatch != nil {
			stored = append(stored, m.JSONPatch.Expression)
		}
	}
	return mutatingPolicy(o, known, stored)
}

func mutatingPolicy(o *admission.MutatingAdmissionPolicy, known *conditions, stored []string) Errors {
	s := &o.Spec
	p := newPolicy(s.ParamKind, len(s.Variables) > 0, true, stored)
	p.failureAndMatch(s.FailurePolicy, s.ParamKind, s.MatchConstraints)
	mutatingOperations(&p.e, s.MatchConstraints, specPath.Child("matchConstraints"))
	known.scope.Params = s.ParamKind != nil
	known.check(&p.e, s.MatchConditions, specPath.Child("matchConditions"))
	p.variables(s.Variables)
	if len(s.Mutations) == 0 {
		p.e.Required(specPath.Child("mutations"), "mutations must contain at least one item")
	}
	for i := range s.Mutations {
		p.mutation(&s.Mutations[i], specPath.Child("mutations").Index(i))
	}
	rule.OneOf(&p.e, specPath.Child("reinvocationPolicy"), s.ReinvocationPolicy, admission.NeverReinvocationPolicy, admission.IfNeededReinvocationPolicy)
	return p.e.List()
}

// mutatingOperations: what is deleted cannot be changed.
func mutatingOperations(e *rule.Errors, m *admission.MatchResources, p *field.Path) {
	if m == nil {
		return
	}
	for _, r := range m.ResourceRules {
		for _, o := range r.Operations {
			rule.Among(e, p.Child("resourceRules", "operations"), o, admission.OperationAll, admission.Create, admission.Update, admission.Connect)
		}
	}
}

func (p *admissionPolicy) mutation(m *admission.Mutation, at *field.Path) {
	patch := func(text string, at *field.Path, of *cel.Type) {
		if text = strings.TrimSpace(text); text == "" {
			p.e.Required(at, "expression is not specified")
			return
		}
		sc := p.scope
		sc.Patches = true
		p.compile(text, sc, at, of)
	}
	apply, json := at.Child("applyConfiguration"), at.Child("jsonPatch")
	switch m.PatchType {
	case admission.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			p.e.Required(apply, "must be specified when patchType is ApplyConfiguration")
		} else {
			patch(m.ApplyConfiguration.Expression, apply.Child("expression"), expression.ObjectType())
		}
		if m.JSONPatch != nil {
			p.e.Invalid(json, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration")
		}
	case admission.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			p.e.Required(json, "must be specified when patchType is JSONPatch")
		} else {
			patch(m.JSONPatch.Expression, json.Child("expression"), expression.JSONPatchType())
		}
		if m.ApplyConfiguration != nil {
			p.e.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch")
		}
	default:
		rule.OneOf(&p.e, at.Child("patchType"), m.PatchType, admission.PatchTypeApplyConfiguration, admission.PatchTypeJSONPatch)
	}
}
