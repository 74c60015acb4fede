// Package expression compiles and runs the CEL expressions of admission: what policies
// and the match conditions of webhooks may name, what it costs, and in which words it
// fails, all as upstream. It knows neither the store nor policies; it refuses
// everything beyond the variables of a Scope. No environment is built before the
// first expression needs it.
//
// Start reading at Set: the expressions of one policy. Then Request and Set.Begin, which run
// them against one request. declare.go says what the variables look like.
package expression

import (
	"fmt"
	"slices"
	"sync"

	"github.com/google/cel-go/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Budgets of one policy or webhook and one request, in CEL's cost units. A single expression
// may use a tenth of Budget, which its environment knows.
const (
	Budget          = celconfig.RuntimeCELCostBudget
	ConditionBudget = celconfig.RuntimeCELCostBudgetMatchConditions
)

// Mode says which language an expression may use.
type Mode = environment.Type

const (
	// New is for expressions that are being written: what the server before this
	// version understands as well.
	New = environment.NewExpressions
	// Stored is for expressions that were accepted once.
	Stored = environment.StoredExpressions
)

// Scope is what an expression may name beyond object, oldObject, request and
// namespaceObject.
type Scope struct {
	// Params is the policy's parameter object, null where the binding has none.
	Params bool
	// Authorizer asks what users may do: authorizer, authorizer.requestResource.
	Authorizer bool
	// Variables are those of the policy.
	Variables bool
	// Patches are the types Object and JSONPatch.
	Patches bool
}

// Expression is compiled, or says in Err why it cannot be. It does not change and may
// be run by many at once.
type Expression struct {
	Text string
	// Err is *apiservercel.Error; its Detail is upstream's sentence.
	Err *apiservercel.Error
	// Type is what it evaluates to, nil with Err.
	Type    *cel.Type
	program cel.Program
}

// Set is the expressions of one policy or one webhook, and the variables that they
// share. Make it, add the variables in order, compile the expressions; after that it
// does not change and is safe for parallel use.
type Set struct {
	mode Mode
	// typed replaces the lazily built environment of a scope: for type checking.
	typed func(Scope) (*environment.EnvSet, error)

	declared  *apiservercel.DeclType
	variables map[string]*Expression
	names     []string

	mu sync.Mutex
	// envs are the set's own: with variables; bases those of typed, without.
	envs, bases map[Scope]*environment.EnvSet
}

// NewSet begins with no variables.
func NewSet(mode Mode) *Set {
	return &Set{mode: mode, declared: variablesType(), variables: map[string]*Expression{}, envs: map[Scope]*environment.EnvSet{}, bases: map[Scope]*environment.EnvSet{}}
}

// NewTypedSet compiles against environments in which the request's objects have the
// types of t.
func NewTypedSet(mode Mode, t Types) *Set {
	s := NewSet(mode)
	s.typed = t.env
	return s
}

// Variable compiles a variable that later expressions may name. One that does not
// compile is there nevertheless: who names it gets its error when it is run.
func (s *Set) Variable(name, text string, sc Scope) *Expression {
	x := s.Compile(text, sc)
	s.Declare(name, x)
	return x
}

// Declare makes a compiled expression a variable.
func (s *Set) Declare(name string, x *Expression) {
	s.variables[name] = x
	if !slices.Contains(s.names, name) {
		s.names = append(s.names, name)
	}
	s.declared.Fields[name] = apiservercel.NewDeclField(name, declTypeOf(x.Type), true, nil, nil)
}

// Compile makes an expression that must be one of the types; none allows any.
func (s *Set) Compile(text string, sc Scope, may ...*cel.Type) *Expression {
	return s.CompileIn(s.mode, text, sc, may...)
}

// CompileIn compiles in a mode that is not the set's.
func (s *Set) CompileIn(mode Mode, text string, sc Scope, may ...*cel.Type) *Expression {
	x := &Expression{Text: text}
	fail := func(kind apiservercel.ErrorType, cause error, format string, args ...any) *Expression {
		x.Err = &apiservercel.Error{Type: kind, Detail: fmt.Sprintf(format, args...), Cause: cause}
		return x
	}
	env, err := s.env(mode, sc)
	if err != nil {
		return fail(apiservercel.ErrorTypeInternal, nil, "unexpected error loading CEL environment: %v", err)
	}
	ast, issues := env.Compile(text)
	if issues != nil {
		return fail(apiservercel.ErrorTypeInvalid, apiservercel.NewCompilationError(issues), "compilation failed: %s", issues.String())
	}
	got := ast.OutputType()
	switch {
	case len(may) == 0 || slices.ContainsFunc(may, got.IsExactType):
	case len(may) == 1:
		return fail(apiservercel.ErrorTypeInvalid, nil, "must evaluate to %v but got %v", may[0].String(), got.String())
	default:
		return fail(apiservercel.ErrorTypeInvalid, nil, "must evaluate to one of %v but got %v", may, got.String())
	}
	if x.program, err = env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency)); err != nil {
		return fail(apiservercel.ErrorTypeInternal, nil, "program instantiation failed: %v", err)
	}
	x.Type = got
	return x
}

// env is the scope's environment; with variables it is the set's own.
func (s *Set) env(mode Mode, sc Scope) (*cel.Env, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := sc.Variables && len(s.variables) > 0
	if e := s.envs[sc]; e != nil && own {
		return e.Env(mode)
	}
	of := untyped
	if s.typed != nil {
		of = s.typed
	}
	base := sc
	if own {
		base.Variables = false
	}
	e, err := s.bases[base], error(nil)
	if e == nil {
		e, err = of(base)
	}
	if err == nil && s.typed != nil {
		s.bases[base] = e
	}
	if err == nil && own {
		if e, err = e.Extend(variablesOption(s.declared)); err == nil {
			s.envs[sc] = e
		}
	}
	if err != nil {
		return nil, err
	}
	return e.Env(mode)
}
