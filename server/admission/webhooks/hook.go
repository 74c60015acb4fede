package webhooks

import (
	"fmt"
	"sync"
	"time"

	admission "k8s.io/api/admissionregistration/v1"

	"orch/server/admission/match"
	"orch/server/expression"
	"orch/server/webhook"
)

// hook is one webhook, compiled. It does not change.
type hook struct {
	configuration, name string
	// id tells hooks apart, also of the same name.
	id          string
	to          webhook.Endpoint
	criteria    *match.Criteria
	ignore      bool // failurePolicy
	sideEffects *admission.SideEffectClass
	timeout     time.Duration
	versions    []string
	again       bool // reinvocationPolicy IfNeeded

	conditions func() *expression.Conditions
}

func mutatingHooks(o *admission.MutatingWebhookConfiguration) []*hook {
	out, seen := make([]*hook, 0, len(o.Webhooks)), map[string]int{}
	for i := range o.Webhooks {
		m := &o.Webhooks[i]
		v := admission.ValidatingWebhook{
			Name: m.Name, ClientConfig: m.ClientConfig, Rules: m.Rules, FailurePolicy: m.FailurePolicy, MatchPolicy: m.MatchPolicy,
			NamespaceSelector: m.NamespaceSelector, ObjectSelector: m.ObjectSelector, SideEffects: m.SideEffects,
			TimeoutSeconds: m.TimeoutSeconds, AdmissionReviewVersions: m.AdmissionReviewVersions, MatchConditions: m.MatchConditions,
		}
		h := compile(o.Name, &v, seen)
		h.again = m.ReinvocationPolicy != nil && *m.ReinvocationPolicy == admission.IfNeededReinvocationPolicy
		out = append(out, h)
	}
	return out
}

func validatingHooks(o *admission.ValidatingWebhookConfiguration) []*hook {
	out, seen := make([]*hook, 0, len(o.Webhooks)), map[string]int{}
	for i := range o.Webhooks {
		out = append(out, compile(o.Name, &o.Webhooks[i], seen))
	}
	return out
}

// compile takes in what mutating webhooks have too.
func compile(configuration string, w *admission.ValidatingWebhook, seen map[string]int) *hook {
	h := &hook{
		configuration: configuration, name: w.Name, id: fmt.Sprintf("%s/%s/%d", configuration, w.Name, seen[w.Name]),
		to: endpoint(&w.ClientConfig), versions: w.AdmissionReviewVersions, sideEffects: w.SideEffects,
		criteria: match.CompileRules(w.Rules, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector),
		ignore:   w.FailurePolicy != nil && *w.FailurePolicy == admission.Ignore,
		timeout:  30 * time.Second,
	}
	seen[w.Name]++
	if w.TimeoutSeconds != nil {
		h.timeout = time.Duration(*w.TimeoutSeconds) * time.Second
	}
	h.conditions = sync.OnceValue(func() *expression.Conditions {
		return expression.NewSet(expression.Stored).Conditions(w.MatchConditions, expression.ConditionScope)
	})
	return h
}

func endpoint(c *admission.WebhookClientConfig) webhook.Endpoint {
	e := webhook.Endpoint{CABundle: string(c.CABundle)}
	if c.URL != nil {
		e.URL = *c.URL
	}
	if s := c.Service; s != nil {
		e.Service = webhook.Service{Namespace: s.Namespace, Name: s.Name, Port: 443}
		if s.Port != nil {
			e.Service.Port = *s.Port
		}
		if s.Path != nil {
			e.Service.Path = *s.Path
		}
	}
	return e
}

// failure is the policy in the words of match conditions.
func (h *hook) failure() admission.FailurePolicyType {
	if h.ignore {
		return admission.Ignore
	}
	return admission.Fail
}
