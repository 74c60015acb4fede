package validate

import (
	"reflect"
	"strings"

	"github.com/google/cel-go/cel"
	admission "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"orch/server/expression"
	"orch/server/validate/rule"
)

const mostConditions = 64

// conditions checks match conditions of webhooks and policies. The zero value takes
// every expression for a new one.
type conditions struct {
	scope expression.Scope
	// stored are expressions that were accepted before: they may use whatever was
	// understood then. same says that nothing has changed, so nothing is checked.
	stored map[string]bool
	same   bool
}

// knownConditions are those of an update: now replaces before.
func knownConditions(now, before [][]admission.MatchCondition) *conditions {
	c := &conditions{stored: map[string]bool{}, same: len(now) == len(before)}
	for i, list := range before {
		c.same = c.same && reflect.DeepEqual(list, now[i])
		for _, m := range list {
			c.stored[m.Expression] = true
		}
	}
	return c
}

func (c *conditions) check(e *rule.Errors, list []admission.MatchCondition, p *field.Path) {
	if c.same {
		return
	}
	if len(list) > mostConditions {
		e.Add(field.TooMany(p, len(list), mostConditions))
	}
	c.scope.Authorizer = true
	set := expression.NewSet(expression.New)
	seen := rule.Unique{}
	for i, m := range list {
		at := p.Index(i)
		if text := strings.TrimSpace(m.Expression); text == "" {
			e.Required(at.Child("expression"), "")
		} else {
			compiled(e, set.CompileIn(modeOf(c.stored, m.Expression), text, c.scope, cel.BoolType), at.Child("expression"))
		}
		if m.Name == "" {
			e.Required(at.Child("name"), "")
			continue
		}
		e.Qualified(at.Child("name"), m.Name)
		if seen.Again(m.Name) {
			e.Duplicate(at.Child("name"), m.Name)
		}
	}
}

func modeOf(stored map[string]bool, text string) expression.Mode {
	if stored[text] {
		return expression.Stored
	}
	return expression.New
}

// compiled says why an expression does not compile.
func compiled(e *rule.Errors, x *expression.Expression, p *field.Path) {
	switch {
	case x.Err == nil:
	case x.Err.Type == apiservercel.ErrorTypeInvalid:
		e.Invalid(p, x.Text, x.Err.Detail)
	case x.Err.Type == apiservercel.ErrorTypeRequired:
		e.Required(p, x.Err.Detail)
	default:
		e.Add(field.InternalError(p, x.Err))
	}
}
