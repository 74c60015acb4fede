package validate

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// webhook is what validating and mutating webhooks have in common.
type webhook struct {
	name           string
	client         *admission.WebhookClientConfig
	rules          []admission.RuleWithOperations
	failure        *admission.FailurePolicyType
	match          *admission.MatchPolicyType
	sideEffects    *admission.SideEffectClass
	timeout        *int32
	versions       []string
	matchCondition []admission.MatchCondition
}

// ValidatingWebhookConfiguration checks each webhook.
func ValidatingWebhookConfiguration(o *admission.ValidatingWebhookConfiguration) Errors {
	var e rule.Errors
	names := rule.Unique{}
	for i := range o.Webhooks {
		w, p := &o.Webhooks[i], field.NewPath("webhooks").Index(i)
		checkWebhook(&e, webhook{w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions}, names, p)
		e.Selector(p.Child("namespaceSelector"), w.NamespaceSelector)
		e.Selector(p.Child("objectSelector"), w.ObjectSelector)
	}
	return e.List()
}
func ValidatingWebhookConfigurationUpdate(o, _ *admission.ValidatingWebhookConfiguration) Errors {
	return ValidatingWebhookConfiguration(o)
}

// MutatingWebhookConfiguration checks each webhook.
func MutatingWebhookConfiguration(o *admission.MutatingWebhookConfiguration) Errors {
	var e rule.Errors
	names := rule.Unique{}
	for i := range o.Webhooks {
		w, p := &o.Webhooks[i], field.NewPath("webhooks").Index(i)
		checkWebhook(&e, webhook{w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions}, names, p)
		e.Selector(p.Child("namespaceSelector"), w.NamespaceSelector)
		e.Selector(p.Child("objectSelector"), w.ObjectSelector)
		if w.ReinvocationPolicy != nil {
			rule.Among(&e, p.Child("reinvocationPolicy"), *w.ReinvocationPolicy, admission.NeverReinvocationPolicy, admission.IfNeededReinvocationPolicy)
		}
	}
	return e.List()
}
func MutatingWebhookConfigurationUpdate(o, _ *admission.MutatingWebhookConfiguration) Errors {
	return MutatingWebhookConfiguration(o)
}

func checkWebhook(e *rule.Errors, w webhook, names rule.Unique, p *field.Path) {
	e.Join(validation.IsFullyQualifiedName(p.Child("name"), w.name))
	if w.name != "" && names.Again(w.name) {
		e.Duplicate(p.Child("name"), w.name)
	}
	reviewVersions(e, w.versions, p.Child("admissionReviewVersions"))
	for i := range w.rules {
		operations(e, w.rules[i].Operations, p.Child("rules").Index(i))
		matchRule(e, &w.rules[i].Rule, p.Child("rules").Index(i))
	}
	if w.failure != nil {
		rule.Among(e, p.Child("failurePolicy"), *w.failure, admission.Ignore, admission.Fail)
	}
	if w.match != nil {
		rule.Among(e, p.Child("matchPolicy"), *w.match, admission.Exact, admission.Equivalent)
	}
	if w.sideEffects == nil {
		e.Required(p.Child("sideEffects"), "must specify one of None, NoneOnDryRun")
	} else {
		rule.Among(e, p.Child("sideEffects"), *w.sideEffects, admission.SideEffectClassNone, admission.SideEffectClassNoneOnDryRun)
	}
	if t := w.timeout; t != nil && (*t < 1 || *t > 30) {
		e.Invalid(p.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds")
	}
	clientConfig(e, w.client, p.Child("clientConfig"))
	matchConditions(e, w.matchCondition, p.Child("matchConditions"))
}

func reviewVersions(e *rule.Errors, versions []string, p *field.Path) {
	known := []string{"v1", "v1beta1"}
	if len(versions) == 0 {
		e.Required(p, "must specify one of "+strings.Join(known, ", "))
		return
	}
	seen, useful := rule.Unique{}, false
	for i, v := range versions {
		if seen.Again(v) {
			e.Invalid(p.Index(i), v, "duplicate version")
		}
		e.Each(p.Index(i), v, validation.IsDNS1035Label(v))
		useful = useful || slices.Contains(known, v)
	}
	if !useful {
		e.Invalid(p, versions, "must include at least one of "+strings.Join(known, ", "))
	}
}

func operations(e *rule.Errors, list []admission.OperationType, p *field.Path) {
	at := p.Child("operations")
	if len(list) == 0 {
		e.Required(at, "")
	}
	for i, o := range list {
		rule.Among(e, at.Index(i), o, admission.OperationAll, admission.Create, admission.Update, admission.Delete, admission.Connect)
	}
	if len(list) > 1 && slices.Contains(list, admission.OperationAll) {
		e.Invalid(at, list, "if '*' is present, must not specify other operations")
	}
}

func matchRule(e *rule.Errors, r *admission.Rule, p *field.Path) {
	list := func(name, words string, values []string, emptyAllowed bool) {
		at := p.Child(name)
		if len(values) == 0 {
			e.Required(at, "")
		}
		if len(values) > 1 && slices.Contains(values, "*") {
			e.Invalid(at, values, "if '*' is present, must not specify other "+words)
		}
		for i, v := range values {
			if v == "" && !emptyAllowed {
				e.Required(at.Index(i), "")
			}
		}
	}
	list("apiGroups", "API groups", r.APIGroups, true)
	list("apiVersions", "API versions", r.APIVersions, false)
	resourcesOfRule(e, r.Resources, p.Child("resources"))
	if r.Scope != nil {
		rule.Among(e, p.Child("scope"), *r.Scope, admission.ClusterScope, admission.NamespacedScope, admission.AllScopes)
	}
}

func resourcesOfRule(e *rule.Errors, list []string, p *field.Path) {
	if len(list) == 0 {
		e.Required(p, "")
	}
	seen, all := rule.Unique{}, ""
	for i, v := range list {
		at := p.Index(i)
		if v == "" {
			e.Required(at, "")
			continue
		}
		if seen.Again(v) {
			e.Duplicate(at, v)
		}
		if v == "*" || v == "*/*" {
			all = v
		}
		resource, sub, slashed := strings.Cut(v, "/")
		if slashed && (seen[resource+"/*"] && sub != "*" || seen["*/"+sub] && resource != "*") {
			e.Invalid(at, v, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, v))
		}
	}
	if all == "*/*" && len(list) > 1 {
		e.Invalid(p, list, "if '*/*' is present, must not specify other resources")
	}
}

func clientConfig(e *rule.Errors, c *admission.WebhookClientConfig, p *field.Path) {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		e.Required(p, "exactly one of url or service is required")
	case c.URL != nil:
		webhookURL(e, *c.URL, p.Child("url"))
	default:
		s, at := c.Service, p.Child("service")
		if s.Name == "" {
			e.Required(at.Child("name"), "service name is required")
		}
		if s.Namespace == "" {
			e.Required(at.Child("namespace"), "service namespace is required")
		}
		if s.Port != nil && (*s.Port < 1 || *s.Port > 65535) {
			e.Invalid(at.Child("port"), *s.Port, "port is not valid: "+validation.InclusiveRangeError(1, 65535))
		}
		if s.Path != nil {
			servicePath(e, *s.Path, at.Child("path"))
		}
	}
}

func servicePath(e *rule.Errors, path string, p *field.Path) {
	if path == "/" || path == "" {
		return
	}
	if path == "//" {
		e.Invalid(p, path, "segment[0] may not be empty")
		return
	}
	if !strings.HasPrefix(path, "/") {
		e.Invalid(p, path, "must start with a '/'")
	}
	for i, step := range strings.Split(strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/"), "/") {
		if step == "" {
			e.Invalid(p, path, fmt.Sprintf("segment[%d] may not be empty", i))
			continue
		}
		for _, c := range validation.IsDNS1123Subdomain(step) {
			e.Invalid(p, path, fmt.Sprintf("segment[%d]: %v", i, c))
		}
	}
}

func webhookURL(e *rule.Errors, text string, p *field.Path) {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		e.Required(p, "url must be a valid URL: "+err.Error()+form)
		return
	}
	if u.Scheme != "https" {
		e.Invalid(p, u.Scheme, "'https' is the only allowed URL scheme"+form)
	}
	if u.Host == "" {
		e.Invalid(p, u.Host, "host must be specified"+form)
	}
	if u.User != nil {
		e.Invalid(p, u.User.String(), "user information is not permitted in the URL")
	}
	if u.Fragment != "" {
		e.Invalid(p, u.Fragment, "fragments are not permitted in the URL")
	}
	if u.RawQuery != "" {
		e.Invalid(p, u.RawQuery, "query parameters are not permitted in the URL")
	}
}

const mostConditions = 64

func matchConditions(e *rule.Errors, list []admission.MatchCondition, p *field.Path) {
	if len(list) > mostConditions {
		e.Add(field.TooMany(p, len(list), mostConditions))
	}
	seen := rule.Unique{}
	for i, c := range list {
		at := p.Index(i)
		expression(e, c.Expression, at.Child("expression"))
		if c.Name == "" {
			e.Required(at.Child("name"), "")
			continue
		}
		e.Qualified(at.Child("name"), c.Name)
		if seen.Again(c.Name) {
			e.Duplicate(at.Child("name"), c.Name)
		}
	}
}

func expression(e *rule.Errors, text string, p *field.Path) {
	if strings.TrimSpace(text) == "" {
		e.Required(p, "")
	}
}

// ValidatingAdmissionPolicy checks its structure; expressions are compiled where
// they are run.
func ValidatingAdmissionPolicy(o *admission.ValidatingAdmissionPolicy) Errors {
	var e rule.Errors
	s := &o.Spec
	failureAndMatch(&e, s.FailurePolicy, s.ParamKind, s.MatchConstraints)
	matchConditions(&e, s.MatchConditions, specPath.Child("matchConditions"))
	variables(&e, s.Variables)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const why = "validations or auditAnnotations must contain at least one item"
		e.Required(specPath.Child("validations"), why)
		e.Required(specPath.Child("auditAnnotations"), why)
	}
	for i, v := range s.Validations {
		at := specPath.Child("validations").Index(i)
		if strings.TrimSpace(v.Expression) == "" {
			e.Required(at.Child("expression"), "expression is not specified")
		}
		if strings.ContainsAny(v.Message, "\r\n") {
			e.Invalid(at.Child("message"), v.Message, "message must not contain line breaks")
		}
		if v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "" {
			e.Invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified")
		}
	}
	seen := rule.Unique{}
	for i, a := range s.AuditAnnotations {
		at := specPath.Child("auditAnnotations").Index(i)
		if a.Key == "" {
			e.Required(at.Child("key"), "key is not specified")
		} else if seen.Again(a.Key) {
			e.Duplicate(at.Child("key"), a.Key)
		}
		if strings.TrimSpace(a.ValueExpression) == "" {
			e.Required(at.Child("valueExpression"), "valueExpression is not specified")
		}
	}
	return e.List()
}
func ValidatingAdmissionPolicyUpdate(o, _ *admission.ValidatingAdmissionPolicy) Errors {
	return ValidatingAdmissionPolicy(o)
}

func failureAndMatch(e *rule.Errors, failure *admission.FailurePolicyType, kind *admission.ParamKind, match *admission.MatchResources) {
	if failure == nil {
		e.Required(specPath.Child("failurePolicy"), "")
	} else {
		rule.Among(e, specPath.Child("failurePolicy"), *failure, admission.Fail, admission.Ignore)
	}
	if kind != nil {
		e.Need(specPath.Child("paramKind", "apiVersion"), kind.APIVersion)
		e.Need(specPath.Child("paramKind", "kind"), kind.Kind)
	}
	at := specPath.Child("matchConstraints")
	if match == nil {
		e.Required(at, "")
		return
	}
	matchResources(e, match, at)
	if len(match.ResourceRules) == 0 {
		e.Required(at.Child("resourceRules"), "")
	}
}

func variables(e *rule.Errors, list []admission.Variable) {
	seen := rule.Unique{}
	for i, v := range list {
		at := specPath.Child("variables").Index(i)
		if v.Name == "" {
			e.Required(at.Child("name"), "name is not specified")
		} else if seen.Again(v.Name) {
			e.Duplicate(at.Child("name"), v.Name)
		}
		if strings.TrimSpace(v.Expression) == "" {
			e.Required(at.Child("expression"), "expression is not specified")
		}
	}
}

func matchResources(e *rule.Errors, m *admission.MatchResources, p *field.Path) {
	e.Selector(p.Child("namespaceSelector"), m.NamespaceSelector)
	e.Selector(p.Child("objectSelector"), m.ObjectSelector)
	if m.MatchPolicy != nil {
		rule.Among(e, p.Child("matchPolicy"), *m.MatchPolicy, admission.Exact, admission.Equivalent)
	}
	rules := func(name string, list []admission.NamedRuleWithOperations) {
		for i := range list {
			operations(e, list[i].Operations, p.Child(name).Index(i))
			matchRule(e, &list[i].Rule, p.Child(name).Index(i))
		}
	}
	rules("resourceRules", m.ResourceRules)
	rules("excludeResourceRules", m.ExcludeResourceRules)
}

// ValidatingAdmissionPolicyBinding checks policy, actions and parameters.
func ValidatingAdmissionPolicyBinding(o *admission.ValidatingAdmissionPolicyBinding) Errors {
	var e rule.Errors
	policyBinding(&e, o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.MatchResources)
	p, seen := specPath.Child("validationActions"), rule.Unique{}
	if len(o.Spec.ValidationActions) == 0 {
		e.Required(p, "")
	}
	for i, a := range o.Spec.ValidationActions {
		rule.Among(&e, p.Index(i), a, admission.Deny, admission.Warn, admission.Audit)
		if seen.Again(string(a)) {
			e.Duplicate(p.Index(i), a)
		}
	}
	if seen[string(admission.Deny)] && seen[string(admission.Warn)] {
		e.Invalid(p, o.Spec.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)")
	}
	return e.List()
}
func ValidatingAdmissionPolicyBindingUpdate(o, _ *admission.ValidatingAdmissionPolicyBinding) Errors {
	return ValidatingAdmissionPolicyBinding(o)
}

func policyBinding(e *rule.Errors, policy string, ref *admission.ParamRef, match *admission.MatchResources) {
	if p := specPath.Child("policyName"); policy == "" {
		e.Required(p, "")
	} else {
		e.Each(p, policy, apimachinery.NameIsDNSSubdomain(policy, false))
	}
	if match != nil {
		matchResources(e, match, specPath.Child("matchResouces"))
	}
	if ref == nil {
		return
	}
	p := specPath.Child("paramRef")
	switch {
	case ref.Name != "" && ref.Selector != nil:
		e.Forbidden(p.Child("name"), "name and selector are mutually exclusive")
		e.Forbidden(p.Child("selector"), "name and selector are mutually exclusive")
	case ref.Name == "" && ref.Selector == nil:
		e.Required(p, "one of name or selector must be specified")
	}
	e.Selector(p.Child("selector"), ref.Selector)
	if ref.ParameterNotFoundAction == nil {
		e.Required(p.Child("parameterNotFoundAction"), "")
	} else {
		rule.Among(e, p.Child("parameterNotFoundAction"), *ref.ParameterNotFoundAction, admission.DenyAction, admission.AllowAction)
	}
}

// MutatingAdmissionPolicy checks its structure.
func MutatingAdmissionPolicy(o *admission.MutatingAdmissionPolicy) Errors {
	var e rule.Errors
	s := &o.Spec
	failureAndMatch(&e, s.FailurePolicy, s.ParamKind, s.MatchConstraints)
	matchConditions(&e, s.MatchConditions, specPath.Child("matchConditions"))
	variables(&e, s.Variables)
	if len(s.Mutations) == 0 {
		e.Required(specPath.Child("mutations"), "mutations must contain at least one item")
	}
	for i, m := range s.Mutations {
		at := specPath.Child("mutations").Index(i)
		switch m.PatchType {
		case admission.PatchTypeApplyConfiguration:
			if m.ApplyConfiguration == nil {
				e.Required(at.Child("applyConfiguration"), "must be specified when patchType is ApplyConfiguration")
			} else {
				expression(&e, m.ApplyConfiguration.Expression, at.Child("applyConfiguration", "expression"))
			}
		case admission.PatchTypeJSONPatch:
			if m.JSONPatch == nil {
				e.Required(at.Child("jsonPatch"), "must be specified when patchType is JSONPatch")
			} else {
				expression(&e, m.JSONPatch.Expression, at.Child("jsonPatch", "expression"))
			}
		default:
			rule.OneOf(&e, at.Child("patchType"), m.PatchType, admission.PatchTypeApplyConfiguration, admission.PatchTypeJSONPatch)
		}
	}
	rule.OneOf(&e, specPath.Child("reinvocationPolicy"), s.ReinvocationPolicy, admission.NeverReinvocationPolicy, admission.IfNeededReinvocationPolicy)
	return e.List()
}
func MutatingAdmissionPolicyUpdate(o, _ *admission.MutatingAdmissionPolicy) Errors {
	return MutatingAdmissionPolicy(o)
}

// MutatingAdmissionPolicyBinding checks policy and parameters.
func MutatingAdmissionPolicyBinding(o *admission.MutatingAdmissionPolicyBinding) Errors {
	var e rule.Errors
	policyBinding(&e, o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.MatchResources)
	return e.List()
}
func MutatingAdmissionPolicyBindingUpdate(o, _ *admission.MutatingAdmissionPolicyBinding) Errors {
	return MutatingAdmissionPolicyBinding(o)
}
