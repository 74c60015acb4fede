package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/server/admission/match"
	"orch/server/registry"
	"orch/server/webhook"
)

// Step is the name under which upstream knows the validating policies, MutatingStep the
// mutating ones.
const (
	Step         = "ValidatingAdmissionPolicy"
	MutatingStep = "MutatingAdmissionPolicy"
)

const (
	// mostFailures bounds the audit annotation about failed validations.
	mostFailures = 50
	// mostAnnotationBytes bounds the value of one audit annotation.
	mostAnnotationBytes = 10 << 10
	failureAnnotation   = "validation.policy.admission.k8s.io/validation_failure"
)

// dispatch is one request on its way through the validating policies.
type dispatch struct {
	p        *Policies
	r        *match.Request
	denied   *denial
	failures []failure
}

// denial is the first refusal: it makes the answer.
type denial struct {
	message string
	reason  metav1.StatusReason
}

// failure is the audit annotation's form of a failed validation.
type failure struct {
	Message           string                       `json:"message"`
	Policy            string                       `json:"policy"`
	Binding           string                       `json:"binding"`
	ExpressionIndex   int                          `json:"expressionIndex"`
	ValidationActions []admission.ValidationAction `json:"validationActions"`
}

// Validate asks the validating policies about a request.
func (p *Policies) Validate(ctx context.Context, a *registry.Attributes) error {
	hooks := p.validating.hooks()
	if len(hooks) == 0 || exempt(a.Resource.Facts) {
		return nil
	}
	d := &dispatch{p: p, r: p.matcher.Request(a)}
	for i := range hooks {
		if err := d.policy(ctx, &hooks[i]); err != nil {
			return err
		}
	}
	if len(d.failures) > 0 {
		if b, err := json.Marshal(d.failures[:min(len(d.failures), mostFailures)]); err == nil { // texts: always
			a.Annotate(failureAnnotation, string(b))
		}
	}
	if d.denied == nil {
		return nil
	}
	return d.refusal()
}

func (d *dispatch) refusal() error {
	a, reason := d.r.A, d.denied.reason
	if reason == "" {
		reason = metav1.StatusReasonInvalid
	}
	err := apierrors.NewForbidden(a.Resource.GroupResource(), a.Name, errors.New(d.denied.message))
	err.ErrStatus.Reason, err.ErrStatus.Code = reason, codes[reason]
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: d.denied.message})
	return err
}

var codes = map[metav1.StatusReason]int32{
	metav1.StatusReasonForbidden: http.StatusForbidden, metav1.StatusReasonUnauthorized: http.StatusUnauthorized,
	metav1.StatusReasonRequestEntityTooLarge: http.StatusRequestEntityTooLarge, metav1.StatusReasonInvalid: http.StatusUnprocessableEntity,
}

// deny notes a refusal; b is nil where the policy itself is bad.
func (d *dispatch) deny(h *hook, b *binding, message string, reason metav1.StatusReason) {
	if d.denied != nil {
		return
	}
	with := ""
	if b != nil {
		with = fmt.Sprintf(" with binding '%s'", b.name)
	}
	d.denied = &denial{fmt.Sprintf("ValidatingAdmissionPolicy '%s'%s denied request: %s", h.name, with, message), reason}
}

// misconfigured is what the failure policy makes of an error that is not the request's.
func (d *dispatch) misconfigured(h *hook, b *binding, err error) {
	if h.failure == admission.Ignore {
		return
	}
	what := "policy"
	if b != nil {
		what = "binding"
	}
	d.deny(h, b, fmt.Sprintf("failed to configure %s: %v", what, err), "")
}

func (d *dispatch) policy(ctx context.Context, h *hook) error {
	as, ok, err := d.r.Matches(h.criteria)
	if err != nil {
		d.misconfigured(h, nil, err)
		return nil
	}
	if !ok {
		return nil
	}
	kind, err := d.p.paramFacts(h.paramKind)
	if err != nil {
		d.misconfigured(h, nil, err)
		return nil
	}
	notes := annotations{}
	for i := range h.bindings {
		b := &h.bindings[i]
		_, ok, err := d.r.Matches(b.criteria)
		if err == nil && !ok {
			continue
		}
		var params []runtime.Object
		if err == nil {
			params, err = d.p.params(kind, b.param, d.r.Namespace())
		}
		if err != nil {
			d.misconfigured(h, b, err)
			continue
		}
		if len(params) == 0 {
			continue
		}
		view, err := d.r.As(as)
		if err != nil {
			d.misconfigured(h, b, fmt.Errorf("failed to convert object version: %w", err))
			continue
		}
		namespace, err := d.p.namespaceOf(d.r)
		if err != nil {
			return err
		}
		v := d.p.validatorOf(h)
		for _, o := range params {
			d.take(h, b, v.validate(ctx, evaluation{request: d.r, owner: d.p.owner(h, "validate"), view: view, params: o, namespace: namespace, authorizer: d.p.cfg.Authorizer}), notes)
		}
	}
	notes.publish(h.name, d.r.A)
	return nil
}

func (p *Policies) validatorOf(h *hook) *validator {
	return p.compiledValidating.Get(compiledKey{h.uid, h.generation}, func() *validator { return compileValidating(h.validating) })
}

// take does with a policy's decisions what the binding says.
func (d *dispatch) take(h *hook, b *binding, o outcome, notes annotations) {
	for i := range o.decisions {
		s := &o.decisions[i]
		if !s.deny {
			if s.failed {
				d.count(h, b, s, "allow")
			}
			continue
		}
		for _, action := range b.actions {
			switch action {
			case admission.Deny:
				d.deny(h, b, s.message, s.reason)
				d.count(h, b, s, "deny")
			case admission.Audit:
				d.failures = append(d.failures, failure{s.message, h.name, b.name, i, b.actions})
				d.count(h, b, s, "audit")
			case admission.Warn:
				d.r.A.Warn(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", h.name, b.name, s.message))
				d.count(h, b, s, "warn")
			}
		}
	}
	for i := range o.notes {
		n := &o.notes[i]
		switch {
		case n.failed:
			s := decision{deny: true, failed: true, message: n.text, took: n.took}
			d.deny(h, b, n.text, "")
			d.count(h, b, &s, "deny")
		case n.text != "":
			notes.add(n.key, n.text[:min(len(n.text), mostAnnotationBytes)])
		}
	}
}

// annotations are the audit annotations of one policy: its bindings may give several values
// for one key.
type annotations map[string][]string

func (n annotations) add(key, text string) {
	if !slices.Contains(n[key], text) {
		n[key] = append(n[key], text)
	}
}

func (n annotations) publish(policy string, a *registry.Attributes) {
	for key, texts := range n {
		a.Annotate(policy+"/"+key, strings.Join(texts, ", "))
	}
}

// The metrics have upstream's names and labels.
var (
	checkTotal = webhook.Metric{Name: "apiserver_validating_admission_policy_check_total",
		Help: "Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken."}
	checkSeconds = webhook.Metric{Name: "apiserver_validating_admission_policy_check_duration_seconds",
		Help:    "Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.",
		Buckets: []float64{0.0000005, 0.001, 0.01, 0.1, 1.0}}
)

func (d *dispatch) count(h *hook, b *binding, s *decision, action string) {
	d.p.observe(&checkTotal, &checkSeconds, s.took, "policy", h.name, "policy_binding", b.name, "error_type", s.errorType(), "enforcement_action", action)
}

// owner is the policy as the metrics of its conditions name it.
func (p *Policies) owner(h *hook, kind string) match.Owner {
	return match.Owner{Numbers: &p.numbers, Name: h.name, Kind: "policy", Type: kind, Failure: h.failure}
}

func (p *Policies) observe(total, seconds *webhook.Metric, took time.Duration, labels ...string) {
	p.numbers.Count(total, labels...)
	p.numbers.Observe(seconds, took, labels...)
}
