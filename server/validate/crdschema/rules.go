package crdschema

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Limits of what rules may cost by estimation, as upstream's: one expression, all of a
// schema's; and of one call when it runs.
const (
	expressionCost = 10_000_000
	schemaCost     = 100_000_000
	callCost       = 1_000_000
	// shownCosts is how many of the dearest rules are named when the sum is too much.
	shownCosts = 4
)

// spot is a part of the schema with what its rules need to know of the way there.
type spot struct {
	*schema.Structural
	decl *apiservercel.DeclType
	path *field.Path
	// times is how often the value can occur in an object; nil: nobody says.
	times *uint64
	// apart is where old and new values cannot be told to belong together; nil: nowhere.
	apart *field.Path
}

type cost struct {
	path *field.Path
	cost uint64
}

// ruleChecker compiles every rule of a schema and adds up what they cost.
type ruleChecker struct {
	*checker
	env   *environment.EnvSet
	costs []cost
	total uint64
}

// rules checks the rules of a sound schema.
func (c *checker) rules(ss *schema.Structural, root *field.Path) {
	if !hasRules(ss) {
		return
	}
	r := &ruleChecker{checker: c, env: environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())}
	r.visit(spot{Structural: ss, decl: model.SchemaDeclType(ss, true), path: root, times: new(uint64(1))})
	if r.total <= schemaCost {
		return
	}
	slices.SortStableFunc(r.costs, func(a, b cost) int { return bits.Len64(b.cost) - bits.Len64(a.cost) })
	for _, d := range r.costs[:min(shownCosts, len(r.costs))] {
		c.forbid(d.path, "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema")
	}
	c.forbid(root, tooDear("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema", r.total, schemaCost))
}

func hasRules(s *schema.Structural) bool {
	if s == nil {
		return false
	}
	if len(s.XValidations) > 0 || hasRules(s.Items) || s.AdditionalProperties != nil && hasRules(s.AdditionalProperties.Structural) {
		return true
	}
	for name := range s.Properties {
		if child := s.Properties[name]; hasRules(&child) {
			return true
		}
	}
	return false
}

func (r *ruleChecker) visit(s spot) {
	if len(s.XValidations) > 0 && s.decl != nil {
		r.compile(s)
	}
	inner := s.apart
	if !cel.MapIsCorrelatable(s.XMapType) {
		inner = s.path
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		child := s.Properties[name]
		if !hasRules(&child) {
			continue
		}
		r.visit(spot{&child, model.SchemaDeclType(&child, child.XEmbeddedResource), s.path.Child("properties").Key(name), s.times, inner})
	}
	if a := s.AdditionalProperties; a != nil && hasRules(a.Structural) {
		r.visit(spot{a.Structural, model.SchemaDeclType(a.Structural, a.Structural.XEmbeddedResource), s.path.Child("additionalProperties"), s.many(s.maxProperties()), inner})
	}
	if hasRules(s.Items) {
		inner = s.apart
		if s.XListType == nil || *s.XListType != "map" {
			inner = s.path
		}
		r.visit(spot{s.Items, model.SchemaDeclType(s.Items, s.Items.XEmbeddedResource), s.path.Child("items"), s.many(s.maxItems()), inner})
	}
}

func (s *spot) maxItems() *int64 {
	if s.ValueValidation == nil {
		return nil
	}
	return s.ValueValidation.MaxItems
}

func (s *spot) maxProperties() *int64 {
	if s.ValueValidation == nil {
		return nil
	}
	return s.ValueValidation.MaxProperties
}

// many is how often a child occurs that occurs up to most times in each value.
func (s *spot) many(most *int64) *uint64 {
	if s.times == nil || most == nil || *most < 0 {
		return nil
	}
	return new(product(*s.times, uint64(*most)))
}

func product(a, b uint64) uint64 {
	if hi, lo := bits.Mul64(a, b); hi == 0 {
		return lo
	}
	return math.MaxUint64
}

func (r *ruleChecker) compile(s spot) {
	at := s.path.Child("x-kubernetes-validations")
	results, err := cel.Compile(s.Structural, s.decl, callCost, r.env, cel.NewExpressionsEnvLoader())
	if err != nil {
		r.errs = append(r.errs, field.InternalError(at, err))
		return
	}
	for i := range results {
		r.result(s, &results[i], &s.XValidations[i], at.Index(i))
	}
}

// result judges one compiled rule.
func (r *ruleChecker) result(s spot, res *cel.CompilationResult, rule *apiext.ValidationRule, at *field.Path) {
	times := res.MaxCardinality
	if s.times != nil {
		times = *s.times
	}
	r.charge(at.Child("rule"), "estimated rule cost", product(res.MaxCost, times))
	switch {
	case res.Error == nil:
	case res.Error.Type == apiservercel.ErrorTypeRequired:
		r.need(at.Child("rule"), res.Error.Detail)
	default:
		r.wrong(at.Child("rule"), *rule, res.Error.Detail)
	}
	switch {
	case res.MessageExpressionError != nil:
		r.wrong(at.Child("messageExpression"), *rule, res.MessageExpressionError.Detail)
	case res.MessageExpression != nil:
		r.charge(at.Child("messageExpression"), "estimated messageExpression cost", res.MessageExpressionMaxCost)
	}
	switch {
	case res.UsesOldSelf && s.apart != nil:
		r.wrong(at.Child("rule"), rule.Rule, fmt.Sprintf("oldSelf cannot be used on the uncorrelatable portion of the schema within %v", s.apart))
	case !res.UsesOldSelf && rule.OptionalOldSelf != nil:
		r.wrong(at.Child("optionalOldSelf"), *rule.OptionalOldSelf, "may not be set if oldSelf is not used in rule")
	}
}

// charge counts what an expression costs and refuses one that costs too much.
func (r *ruleChecker) charge(at *field.Path, name string, n uint64) {
	if n > expressionCost {
		r.forbid(at, tooDear(name, n, expressionCost))
	}
	if r.total += n; r.total < n {
		r.total = math.MaxUint64
	}
	r.costs = append(r.costs, cost{at, n})
}

func tooDear(name string, n, limit uint64) string {
	factor := "more than 100x"
	switch f := float64(n) / float64(limit); {
	case f > 100:
	case f < 1.5:
		factor = fmt.Sprintf("%fx", f)
	default:
		factor = fmt.Sprintf("%.1fx", f)
	}
	return fmt.Sprintf("%s exceeds budget by factor of %s (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)", name, factor)
}
