package match

import (
	"context"
	"time"

	admission "k8s.io/api/admissionregistration/v1"

	"orch/server/expression"
	"orch/server/webhook"
)

// The metrics have upstream's names and labels.
var (
	conditionErrors = webhook.Metric{Name: "apiserver_admission_match_condition_evaluation_errors_total",
		Help: "Match conditions of webhooks and policies that could not be evaluated."}
	conditionExclusions = webhook.Metric{Name: "apiserver_admission_match_condition_exclusions_total",
		Help: "Requests that a match condition of a webhook or policy leaves out."}
	conditionSeconds = webhook.Metric{Name: "apiserver_admission_match_condition_evaluation_seconds",
		Help: "How long the match conditions of webhooks and policies took.", Buckets: []float64{0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25}}
)

// Owner is whose conditions are asked, as metrics name it.
type Owner struct {
	Numbers *webhook.Numbers
	// Name of the webhook or policy; Kind is webhook or policy, Type admit or validate.
	Name, Kind, Type string
	Failure          admission.FailurePolicyType
}

// Meets asks match conditions about the request as v shows it, and counts.
func (r *Request) Meets(ctx context.Context, c *expression.Conditions, v *View, b expression.Bindings, of Owner) (bool, error) {
	if c == nil {
		return true, nil
	}
	labels := []string{"name", of.Name, "kind", of.Kind, "type", of.Type, "operation", string(r.A.Operation)}
	began := time.Now()
	m, err := c.Match(ctx, v.Expression(), b, of.Failure)
	of.Numbers.Observe(&conditionSeconds, time.Since(began), labels...)
	switch {
	case m.Failed:
		of.Numbers.Count(&conditionErrors, labels...)
	case m.No != "":
		of.Numbers.Count(&conditionExclusions, labels...)
	}
	return m.OK, err
}
