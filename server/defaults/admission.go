package defaults

import (
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

const (
	webhookSeconds int32 = 10
	webhookPort    int32 = 443
)

// ValidatingWebhookConfiguration fills each webhook.
func ValidatingWebhookConfiguration(o *admission.ValidatingWebhookConfiguration) {
	for i := range o.Webhooks {
		w := &o.Webhooks[i]
		point(&w.FailurePolicy, admission.Fail)
		point(&w.MatchPolicy, admission.Equivalent)
		point(&w.NamespaceSelector, metav1.LabelSelector{})
		point(&w.ObjectSelector, metav1.LabelSelector{})
		point(&w.TimeoutSeconds, webhookSeconds)
		webhookClient(&w.ClientConfig, w.Rules)
	}
}

// MutatingWebhookConfiguration fills each webhook.
func MutatingWebhookConfiguration(o *admission.MutatingWebhookConfiguration) {
	for i := range o.Webhooks {
		w := &o.Webhooks[i]
		point(&w.FailurePolicy, admission.Fail)
		point(&w.MatchPolicy, admission.Equivalent)
		point(&w.NamespaceSelector, metav1.LabelSelector{})
		point(&w.ObjectSelector, metav1.LabelSelector{})
		point(&w.TimeoutSeconds, webhookSeconds)
		point(&w.ReinvocationPolicy, admission.NeverReinvocationPolicy)
		webhookClient(&w.ClientConfig, w.Rules)
	}
}

func webhookClient(c *admission.WebhookClientConfig, rules []admission.RuleWithOperations) {
	if c.Service != nil {
		point(&c.Service.Port, webhookPort)
	}
	for i := range rules {
		point(&rules[i].Scope, admission.AllScopes)
	}
}

// ValidatingAdmissionPolicy fails closed and matches equivalent kinds.
func ValidatingAdmissionPolicy(o *admission.ValidatingAdmissionPolicy) {
	point(&o.Spec.FailurePolicy, admission.Fail)
	matchResources(o.Spec.MatchConstraints)
}

// ValidatingAdmissionPolicyBinding fills the binding's matcher.
func ValidatingAdmissionPolicyBinding(o *admission.ValidatingAdmissionPolicyBinding) {
	matchResources(o.Spec.MatchResources)
}

// MutatingAdmissionPolicy fails closed and matches equivalent kinds.
func MutatingAdmissionPolicy(o *admission.MutatingAdmissionPolicy) {
	point(&o.Spec.FailurePolicy, admission.Fail)
	matchResources(o.Spec.MatchConstraints)
}

// MutatingAdmissionPolicyBinding fills the binding's matcher.
func MutatingAdmissionPolicyBinding(o *admission.MutatingAdmissionPolicyBinding) {
	matchResources(o.Spec.MatchResources)
}

func matchResources(m *admission.MatchResources) {
	if m == nil {
		return
	}
	point(&m.NamespaceSelector, metav1.LabelSelector{})
	point(&m.ObjectSelector, metav1.LabelSelector{})
	point(&m.MatchPolicy, admission.Equivalent)
	for _, rules := range [][]admission.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			point(&rules[i].Scope, admission.AllScopes)
		}
	}
}

// CustomResourceDefinition derives the names that are not given and converts by
// doing nothing.
func CustomResourceDefinition(o *apiext.CustomResourceDefinition) {
	s := &o.Spec
	fill(&s.Names.Singular, strings.ToLower(s.Names.Kind))
	if s.Names.Kind != "" {
		fill(&s.Names.ListKind, s.Names.Kind+"List")
	}
	point(&s.Conversion, apiext.CustomResourceConversion{Strategy: apiext.NoneConverter})
	if w := s.Conversion.Webhook; w != nil && w.ClientConfig != nil && w.ClientConfig.Service != nil {
		point(&w.ClientConfig.Service.Port, webhookPort)
	}
}

// APIService points to the usual port.
func APIService(o *apireg.APIService) {
	if o.Spec.Service != nil {
		point(&o.Spec.Service.Port, webhookPort)
	}
}
