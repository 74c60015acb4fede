package crd

import (
	"strings"

	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/parser"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	celnames "k8s.io/apiserver/pkg/cel"
)

// sight is which parts of a value rules look at. The library that runs rules lists all
// properties of an object anew whenever a rule reads one of its fields, so that its
// schema had better say no more than rules ask for.
type sight struct {
	whole bool // the value as such: compared, passed on, walked through
	parts map[string]*sight
}

// narrow leaves rules only the properties that they look at.
func narrow(v *cel.Validator) {
	if v == nil {
		return
	}
	if len(v.Properties) == 0 {
		v.Properties = nil // spares a walk through the object
	}
	if of, ok := sightOf(v.Schema); ok {
		v.Schema = of.of(v.Schema)
	}
	narrow(v.Items)
	narrow(v.AdditionalProperties)
	for name, child := range v.Properties {
		narrow(&child)
		v.Properties[name] = child
	}
}

// sightOf reads a schema's own rules; no if one of them cannot be read, or there is
// nothing to gain.
func sightOf(s *schema.Structural) (of sight, ok bool) {
	if len(s.XValidations) == 0 || len(s.Properties) == 0 || len(allOf(s)) > 0 {
		return of, false
	}
	for _, r := range s.XValidations {
		if !of.rule(r.Rule) || r.MessageExpression != "" && !of.rule(r.MessageExpression) {
			return of, false
		}
	}
	return of, true
}

// allOf are parts of a schema with rules of their own for the same value.
func allOf(s *schema.Structural) []schema.NestedValueValidation {
	if s.ValueValidation == nil {
		return nil
	}
	return s.ValueValidation.AllOf
}

// rule adds what an expression looks at. Macros stay calls, whose arguments are seen.
func (s *sight) rule(text string) bool {
	p, err := parser.NewParser(parser.EnableOptionalSyntax(true), parser.EnableIdentEscapeSyntax(true))
	if err != nil {
		return false
	}
	tree, errs := p.Parse(common.NewTextSource(text))
	if len(errs.GetErrors()) > 0 {
		return false
	}
	seen := map[int64]bool{} // parts of a chain of fields
	ast.PreOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if seen[e.ID()] {
			return
		}
		if arg := asked(e); arg != nil {
			if path, ok := chain(arg, seen); ok {
				seen[arg.ID()] = true
				s.at(path)
			}
		} else if path, ok := chain(e, seen); ok {
			s.at(path).whole = true
		}
	}))
	return true
}

// chain gives the fields of self.a.b; seen learns of what it consists.
func chain(e ast.Expr, seen map[int64]bool) (path []string, ok bool) {
	switch e.Kind() {
	case ast.IdentKind:
		name := strings.TrimPrefix(e.AsIdent(), ".")
		return nil, name == "self" || name == "oldSelf"
	case ast.SelectKind:
		of := e.AsSelect().Operand()
		if path, ok = chain(of, seen); ok {
			seen[of.ID()] = true
			path = append(path, e.AsSelect().FieldName())
		}
		return path, ok
	}
	return nil, false
}

// asked is the field whose presence alone an expression asks for, nil if it is no such expression.
func asked(e ast.Expr) ast.Expr {
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == "has" && !e.AsCall().IsMemberFunction() && len(e.AsCall().Args()) == 1 {
		return e.AsCall().Args()[0]
	}
	return nil
}

// at is the sight at the end of a path, made if need be.
func (s *sight) at(path []string) *sight {
	for _, name := range path {
		if plain, ok := celnames.Unescape(name); ok {
			name = plain
		}
		if s.parts == nil {
			s.parts = map[string]*sight{}
		}
		if s.parts[name] == nil {
			s.parts[name] = &sight{}
		}
		s = s.parts[name]
	}
	return s
}

// of is the schema with nothing else in it.
func (s *sight) of(all *schema.Structural) *schema.Structural {
	if s.whole || all.Properties == nil {
		return all
	}
	out := *all
	out.Properties = make(map[string]schema.Structural, len(s.parts))
	for name, part := range s.parts {
		if child, ok := all.Properties[name]; ok {
			out.Properties[name] = *part.of(&child)
		}
	}
	if meta, ok := all.Properties["metadata"]; ok { // completed by the library at the root
		out.Properties["metadata"] = meta
	}
	return &out
}
