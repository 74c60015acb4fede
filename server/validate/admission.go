package validate

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// webhook is what validating and mutating webhooks have in common.
type webhook struct {
	name        string
	client      *admission.WebhookClientConfig
	rules       []admission.RuleWithOperations
	failure     *admission.FailurePolicyType
	match       *admission.MatchPolicyType
	sideEffects *admission.SideEffectClass
	timeout     *int32
	versions    []string
}

// ValidatingWebhookConfiguration checks each webhook.
func ValidatingWebhookConfiguration(o *admission.ValidatingWebhookConfiguration) Errors {
	return validatingWebhooks(o, &conditions{})
}

func validatingWebhooks(o *admission.ValidatingWebhookConfiguration, known *conditions) Errors {
	var e rule.Errors
	names := rule.Unique{}
	for i := range o.Webhooks {
		w, p := &o.Webhooks[i], field.NewPath("webhooks").Index(i)
		checkWebhook(&e, webhook{w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions}, names, p)
		known.check(&e, w.MatchConditions, p.Child("matchConditions"))
		e.Selector(p.Child("namespaceSelector"), w.NamespaceSelector)
		e.Selector(p.Child("objectSelector"), w.ObjectSelector)
	}
	return e.List()
}
func ValidatingWebhookConfigurationUpdate(o, old *admission.ValidatingWebhookConfiguration) Errors {
	return validatingWebhooks(o, knownConditions(validatingConditions(o), validatingConditions(old)))
}

func validatingConditions(o *admission.ValidatingWebhookConfiguration) (all [][]admission.MatchCondition) {
	for _, w := range o.Webhooks {
		all = append(all, w.MatchConditions)
	}
	return all
}

// MutatingWebhookConfiguration checks each webhook.
func MutatingWebhookConfiguration(o *admission.MutatingWebhookConfiguration) Errors {
	return mutatingWebhooks(o, &conditions{})
}

func mutatingWebhooks(o *admission.MutatingWebhookConfiguration, known *conditions) Errors {
	var e rule.Errors
	names := rule.Unique{}
	for i := range o.Webhooks {
		w, p := &o.Webhooks[i], field.NewPath("webhooks").Index(i)
		checkWebhook(&e, webhook{w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions}, names, p)
		known.check(&e, w.MatchConditions, p.Child("matchConditions"))
		e.Selector(p.Child("namespaceSelector"), w.NamespaceSelector)
		e.Selector(p.Child("objectSelector"), w.ObjectSelector)
		if w.ReinvocationPolicy != nil {
			rule.Among(&e, p.Child("reinvocationPolicy"), *w.ReinvocationPolicy, admission.NeverReinvocationPolicy, admission.IfNeededReinvocationPolicy)
		}
	}
	return e.List()
}
func MutatingWebhookConfigurationUpdate(o, old *admission.MutatingWebhookConfiguration) Errors {
	return mutatingWebhooks(o, knownConditions(mutatingConditions(o), mutatingConditions(old)))
}

func mutatingConditions(o *admission.MutatingWebhookConfiguration) (all [][]admission.MatchCondition) {
	for _, w := range o.Webhooks {
		all = append(all, w.MatchConditions)
	}
	return all
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
		webhookService(e, c.Service, p.Child("service"))
	}
}

func webhookService(e *rule.Errors, s *admission.ServiceReference, at *field.Path) {
	if s.Name == "" {
		e.Required(at.Child("name"), "")
	}
	if s.Namespace == "" {
		e.Required(at.Child("namespace"), "")
	}
	if s.Port != nil && (*s.Port < 1 || *s.Port > 65535) {
		e.Invalid(at.Child("port"), *s.Port, "port is not valid: "+validation.InclusiveRangeError(1, 65535))
	}
	if s.Path != nil {
		servicePath(e, *s.Path, at.Child("path"))
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
