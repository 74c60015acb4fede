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

// Match tells whether the request is meant. It names the condition that says no. The error is
// set where a condition failed, none says no, and failure is Fail; with Ignore
// the request is not meant then.
func (c *Conditions) Match(ctx context.Context, q *Request, b Bindings, failure admission.FailurePolicyType) (ok bool, no string, err error) {
	if c == nil {
		return true, "", nil
	}
	b.Namespace = nil // as upstream: conditions do not see it
	var failed []error
	run := c.set.Begin(q, b, ConditionBudget)
	for i, x := range c.list {
		r, err := run.Eval(ctx, x)
		switch {
		case err != nil && failure == admission.Ignore:
			return false, "", nil
		case err != nil:
			return false, "", err
		case r.Err != nil:
			failed = append(failed, r.Err)
		case r.Value == types.False:
			return false, c.names[i], nil
		}
	}
	if len(failed) == 0 {
		return true, "", nil
	}
	if failure == admission.Ignore {
		return false, "", nil
	}
	return false, "", utilerrors.NewAggregate(failed)
}
