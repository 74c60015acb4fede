package policy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	admission "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/server/admission/match"
	"orch/server/expression"
)

// mostMessageBytes bounds what a messageExpression may say.
const mostMessageBytes = 5 << 10

// evaluation is what a policy is evaluated with.
type evaluation struct {
	request    *match.Request
	owner      match.Owner
	view       *match.View
	params     runtime.Object
	namespace  *core.Namespace
	authorizer expression.Authorizer
}

func (e *evaluation) bindings(authorizer bool) expression.Bindings {
	b := expression.Bindings{Params: e.params, Namespace: e.namespace}
	if authorizer {
		b.Authorizer = e.authorizer
	}
	return b
}

// validator is a compiled policy. It is safe for parallel use.
type validator struct {
	failure    admission.FailurePolicyType
	set        *expression.Set
	conditions *expression.Conditions
	checks     []check
	audits     []audit
}

type check struct {
	expression, message *expression.Expression // message may be nil
	text                string
	reason              metav1.StatusReason
}

type audit struct {
	key   string
	value *expression.Expression
}

// decision is the outcome of one validation.
type decision struct {
	deny bool
	// failed: the expression could not be evaluated.
	failed  bool
	message string
	reason  metav1.StatusReason
	took    time.Duration
}

// errorType is the metric's label.
func (d *decision) errorType() string {
	switch {
	case !d.deny && !d.failed:
		return "no_error"
	case strings.HasPrefix(d.message, "compilation"):
		return "compile_error"
	case strings.HasPrefix(d.message, "validation failed due to running out of cost budget"):
		return "out_of_budget"
	}
	return "invalid_error"
}

// remark is the outcome of one audit annotation: a text, none, or why there is none.
type remark struct {
	key, text string
	failed    bool
	took      time.Duration
}

type outcome struct {
	decisions []decision
	notes     []remark
}

func compileValidating(o *admission.ValidatingAdmissionPolicy) *validator {
	s := &o.Spec
	sc := expression.Scope{Params: s.ParamKind != nil, Authorizer: true, Variables: true}
	set := expression.NewSet(expression.Stored)
	for _, v := range s.Variables {
		set.Variable(v.Name, v.Expression, sc)
	}
	out := &validator{failure: failureOf(s.FailurePolicy), set: set, conditions: set.Conditions(s.MatchConditions, sc)}
	spoken := sc
	spoken.Authorizer = false
	for _, v := range s.Validations {
		c := check{expression: set.Compile(v.Expression, sc, cel.BoolType), text: strings.TrimSpace(v.Message), reason: metav1.StatusReasonInvalid}
		if v.Reason != nil {
			c.reason = *v.Reason
		}
		if v.MessageExpression != "" {
			c.message = set.Compile(v.MessageExpression, spoken, cel.StringType)
		}
		out.checks = append(out.checks, c)
	}
	for _, a := range s.AuditAnnotations {
		out.audits = append(out.audits, audit{a.Key, set.Compile(a.ValueExpression, sc, cel.StringType, cel.NullType)})
	}
	return out
}

// broken is the outcome where the policy as a whole could not be evaluated.
func (v *validator) broken(err error) outcome {
	return outcome{decisions: []decision{{deny: v.failure != admission.Ignore, failed: true, message: err.Error()}}}
}

// validate evaluates the policy. As upstream, validations, messages and audit annotations
// see variables of their own each.
func (v *validator) validate(ctx context.Context, e evaluation) outcome {
	q := e.view.Expression()
	ok, err := e.request.Meets(ctx, v.conditions, e.view, e.bindings(true), e.owner)
	if err != nil {
		return v.broken(err)
	}
	if !ok {
		return outcome{}
	}
	results := make([]expression.Result, len(v.checks))
	run := v.set.Begin(q, e.bindings(true), expression.Budget)
	for i, c := range v.checks {
		if results[i], err = run.Eval(ctx, c.expression); err != nil {
			return v.broken(err)
		}
	}
	out := outcome{decisions: make([]decision, len(v.checks))}
	messages := v.set.Begin(q, e.bindings(false), run.Left())
	for i := range v.checks {
		out.decisions[i] = v.decide(ctx, &v.checks[i], results[i], messages)
	}
	if out.notes, err = v.annotate(ctx, e); err != nil {
		return v.broken(err)
	}
	return out
}

// decide makes a decision of a result. A message is evaluated only where it is shown, which
// upstream does not save.
func (v *validator) decide(ctx context.Context, c *check, r expression.Result, messages *expression.Run) decision {
	d := decision{took: r.Took}
	switch {
	case r.Err != nil:
		d.deny, d.failed, d.message = v.failure != admission.Ignore, true, r.Err.Error()
	case r.Value != types.True:
		d.deny, d.reason = true, c.reason
		text, err := spoken(ctx, c, messages)
		if err != nil {
			d.deny, d.failed, d.reason, d.message = v.failure != admission.Ignore, true, "", fmt.Sprintf("failed messageExpression: %s", err)
			break
		}
		d.message = text
	}
	return d
}

// spoken is the sentence of a refusal: what the messageExpression says if that can be shown,
// else the message, else the expression. The error says that the budget is spent.
func spoken(ctx context.Context, c *check, messages *expression.Run) (string, error) {
	text := ""
	if c.message != nil {
		r, err := messages.Eval(ctx, c.message)
		if err != nil {
			return "", err
		}
		if r.Err == nil {
			text, _ = r.Value.Value().(string)
			text = strings.TrimSpace(text)
		}
		if len(text) > mostMessageBytes || strings.ContainsAny(text, "\n") {
			text = ""
		}
	}
	if text == "" {
		text = c.text
	}
	if text == "" {
		text = "failed expression: " + strings.TrimSpace(c.expression.Text)
	}
	return text, nil
}

func (v *validator) annotate(ctx context.Context, e evaluation) ([]remark, error) {
	if len(v.audits) == 0 {
		return nil, nil
	}
	run := v.set.Begin(e.view.Expression(), e.bindings(false), expression.Budget)
	var out []remark
	for _, a := range v.audits {
		r, err := run.Eval(ctx, a.value)
		if err != nil {
			return nil, err
		}
		n := remark{key: a.key, took: r.Took}
		switch {
		case r.Err != nil:
			if n.failed = v.failure != admission.Ignore; n.failed {
				n.text = r.Err.Error()
			}
		case r.Value.Type() == types.StringType:
			n.text = strings.TrimSpace(r.Value.Value().(string))
		case r.Value.Type() != types.NullType:
			n.failed, n.text = true, fmt.Sprintf("valueExpression '%v' resulted in unsupported return type: %v. Return type must be either string or null.", a.value.Text, r.Value.Type())
		}
		out = append(out, n)
	}
	return out, nil
}
