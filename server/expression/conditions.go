package expression

import (
	"context"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	admission "k8s.io/api/admissionregistration/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// Conditions are the match conditions of a webhook or a policy: all must hold. They are safe
// for parallel use.
type Conditions struct {
	set   *Set
	names []string
	list  []*Expression
}

// ConditionScope is what match conditions of webhooks may name.
var ConditionScope = Scope{Authorizer: true}

// Conditions compiles match conditions of the set's policy; nil for none.
func (s *Set) Conditions(list []admission.MatchCondition, sc Scope) *Conditions {
	if len(list) == 0 {
		return nil
	}
	c := &Conditions{set: s}
	for _, m := range list {
		c.names = append(c.names, m.Name)
		c.list = append(c.list, s.Compile(m.Expression, sc, cel.BoolType))
	}
	return c
}

// Matched is the outcome of conditions.
type Matched struct {
	OK bool
	// No names the condition that says no.
	No string
	// Failed: a condition could not be evaluated, and none says no.
	Failed bool
}

// Match tells whether the request is meant. The error is set where a condition failed, none
// says no, and failure is Fail; with Ignore the request is not meant then.
func (c *Conditions) Match(ctx context.Context, q *Request, b Bindings, failure admission.FailurePolicyType) (Matched, error) {
	if c == nil {
		return Matched{OK: true}, nil
	}
	b.Namespace = nil // as upstream: conditions do not see it
	var failed []error
	run := c.set.Begin(q, b, ConditionBudget)
	for i, x := range c.list {
		r, err := run.Eval(ctx, x)
		switch {
		case err != nil && failure == admission.Ignore:
			return Matched{Failed: true}, nil
		case err != nil:
			return Matched{Failed: true}, err
		case r.Err != nil:
			failed = append(failed, r.Err)
		case r.Value == types.False:
			return Matched{No: c.names[i]}, nil
		}
	}
	if len(failed) == 0 {
		return Matched{OK: true}, nil
	}
	if failure == admission.Ignore {
		return Matched{Failed: true}, nil
	}
	return Matched{Failed: true}, utilerrors.NewAggregate(failed)
}
