// Package condition compiles and runs the CEL expressions of authentication and
// authorization configurations: each sees one variable. It owns the environment and the
// limits, and refuses to know what the variable means. (Policies and webhooks of admission
// have server/expression, whose variables are those of a write.)
package condition

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types/ref"
	apicel "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Results that an expression may be asked to have.
var (
	Bool = cel.BoolType
	Any  = cel.DynType
)

// Compiler makes programs over one variable, and gathers what is wrong with them. The
// environment is built when it is first needed.
type Compiler struct {
	Variable string

	env  *cel.Env
	errs []error
}

// Program is a compiled expression; nil for an empty text and for one that is wrong.
type Program struct {
	variable string
	cel      cel.Program
}

// Compile notes errors under the path at.
func (c *Compiler) Compile(at, text string, want *cel.Type) *Program {
	if text == "" {
		return nil
	}
	p, err := c.compile(text, want)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s: Invalid value: %q: %w", at, text, err))
		return nil
	}
	return &Program{c.Variable, p}
}

// Err is everything that was wrong.
func (c *Compiler) Err() error { return errors.Join(c.errs...) }

func (c *Compiler) compile(text string, want *cel.Type) (cel.Program, error) {
	if c.env == nil {
		version := environment.DefaultCompatibilityVersion()
		set, err := environment.MustBaseEnvSet(version).Extend(environment.VersionedOptions{
			IntroducedVersion: version, EnvOptions: []cel.EnvOption{cel.Variable(c.Variable, cel.MapType(cel.StringType, cel.DynType))},
		})
		if err != nil {
			return nil, err
		}
		if c.env, err = set.Env(environment.NewExpressions); err != nil {
			return nil, err
		}
	}
	ast, issues := c.env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("compilation failed: %w", issues.Err())
	}
	if out := ast.OutputType(); want != Any && !out.IsExactType(want) && !out.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("must evaluate to %s", want)
	}
	return c.env.Program(ast, cel.InterruptCheckFrequency(100), cel.CostLimit(apicel.PerCallLimit))
}

// Eval runs the program with the variable's value.
func (p *Program) Eval(ctx context.Context, v any) (ref.Val, error) {
	out, _, err := p.cel.ContextEval(ctx, map[string]any{p.variable: v})
	return out, err
}

// True tells whether the program says yes.
func (p *Program) True(ctx context.Context, v any) (bool, error) {
	out, err := p.Eval(ctx, v)
	return err == nil && out.Value() == true, err
}
