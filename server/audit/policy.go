package audit

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"

	"orch/server/registry"
)

// Request is what a policy decides from.
type Request struct {
	User                                                         registry.User
	Verb, Namespace, Group, Version, Resource, Subresource, Name string
	// Path is set and Resource empty for requests that are not for a resource.
	Path string
}

// order of levels; what is not in it is refused by validation.
var levels = []auditv1.Level{auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse}

var stages = []auditv1.Stage{auditv1.StageRequestReceived, auditv1.StageResponseStarted, auditv1.StageResponseComplete, auditv1.StagePanic}

// LoadPolicy reads an audit.k8s.io/v1 Policy.
func LoadPolicy(path string) (*auditv1.Policy, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--audit-policy-file: %w", err)
	}
	p, err := ParsePolicy(raw)
	if err != nil {
		return nil, fmt.Errorf("--audit-policy-file %s: %w", path, err)
	}
	return p, nil
}

// ParsePolicy reads YAML or JSON strictly.
func ParsePolicy(raw []byte) (*auditv1.Policy, error) {
	var p auditv1.Policy
	if err := yaml.UnmarshalStrict(raw, &p); err != nil {
		return nil, err
	}
	if p.Kind != "Policy" || p.APIVersion != "audit.k8s.io/v1" {
		return nil, fmt.Errorf("it is a %q of %q, expected a Policy of audit.k8s.io/v1", p.Kind, p.APIVersion)
	}
	if len(p.Rules) == 0 {
		return nil, errors.New("loaded illegal policy with 0 rules")
	}
	return &p, validatePolicy(&p).ToAggregate()
}

func validatePolicy(p *auditv1.Policy) field.ErrorList {
	errs := validateStages(p.OmitStages, field.NewPath("omitStages"))
	for i := range p.Rules {
		errs = append(errs, validateRule(&p.Rules[i], field.NewPath("rules").Index(i))...)
	}
	return errs
}

func validateRule(r *auditv1.PolicyRule, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case r.Level == "":
		errs = append(errs, field.Required(at.Child("level"), ""))
	case !slices.Contains(levels, r.Level):
		errs = append(errs, field.NotSupported(at.Child("level"), r.Level, levels))
	}
	for i, u := range r.NonResourceURLs {
		if u == "*" {
			continue
		}
		if !strings.HasPrefix(u, "/") {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs").Index(i), u, "non-resource URL rules must begin with a '/' character"))
		}
		if u != "" && strings.ContainsRune(u[:len(u)-1], '*') {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs").Index(i), u, "non-resource URL wildcards '*' must be the final character of the rule"))
		}
	}
	for _, g := range r.Resources {
		if g.Group != "" && g.Group != "*" {
			if msgs := validation.NameIsDNSSubdomain(g.Group, false); len(msgs) > 0 {
				errs = append(errs, field.Invalid(at.Child("resources", "group"), g.Group, strings.Join(msgs, ",")))
			}
		}
		if len(g.ResourceNames) > 0 && len(g.Resources) == 0 {
			errs = append(errs, field.Invalid(at.Child("resources", "resourceNames"), g.ResourceNames, "using resourceNames requires at least one resource"))
		}
	}
	errs = append(errs, validateStages(r.OmitStages, at.Child("omitStages"))...)
	if len(r.NonResourceURLs) > 0 && len(r.Resources)+len(r.Namespaces) > 0 {
		errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
	}
	return errs
}

func validateStages(list []auditv1.Stage, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range list {
		if !slices.Contains(stages, s) {
			errs = append(errs, field.Invalid(at.Index(i), string(s), "allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"))
		}
	}
	return errs
}

// verdict is how a request is to be recorded.
type verdict struct {
	level       auditv1.Level
	omit        []auditv1.Stage
	omitManaged bool
}

// decide is pure: the first rule that matches counts.
func decide(p *auditv1.Policy, q *Request) verdict {
	for i := range p.Rules {
		r := &p.Rules[i]
		if !matches(r, q) {
			continue
		}
		v := verdict{level: r.Level, omit: append(slices.Clip(slices.Clone(p.OmitStages)), r.OmitStages...), omitManaged: p.OmitManagedFields}
		if r.OmitManagedFields != nil {
			v.omitManaged = *r.OmitManagedFields
		}
		return v
	}
	return verdict{level: auditv1.LevelNone}
}

func matches(r *auditv1.PolicyRule, q *Request) bool {
	if len(r.Users) > 0 && !slices.Contains(r.Users, q.User.Name) {
		return false
	}
	if len(r.UserGroups) > 0 && !slices.ContainsFunc(q.User.Groups, func(g string) bool { return slices.Contains(r.UserGroups, g) }) {
		return false
	}
	if len(r.Verbs) > 0 && !slices.Contains(r.Verbs, q.Verb) {
		return false
	}
	switch {
	case len(r.Namespaces) > 0 || len(r.Resources) > 0:
		return matchesResource(r, q)
	case len(r.NonResourceURLs) > 0:
		return q.Resource == "" && slices.ContainsFunc(r.NonResourceURLs, func(u string) bool { return matchesPath(u, q.Path) })
	}
	return true
}

func matchesPath(rule, path string) bool {
	if rule == "*" || rule == path {
		return true
	}
	return strings.HasSuffix(rule, "*") && strings.HasPrefix(path, strings.TrimRight(rule, "*"))
}

func matchesResource(r *auditv1.PolicyRule, q *Request) bool {
	if q.Resource == "" || len(r.Namespaces) > 0 && !slices.Contains(r.Namespaces, q.Namespace) {
		return false
	}
	if len(r.Resources) == 0 {
		return true
	}
	for _, g := range r.Resources {
		if g.Group != q.Group && g.Group != "*" {
			continue
		}
		if len(g.Resources) == 0 {
			return true
		}
		if len(g.ResourceNames) > 0 && !slices.Contains(g.ResourceNames, q.Name) {
			continue
		}
		if slices.ContainsFunc(g.Resources, func(s string) bool { return namesResource(s, q) }) {
			return true
		}
	}
	return false
}

// namesResource knows "*", "pods", "pods/log", "pods/*" and "*/scale".
func namesResource(s string, q *Request) bool {
	full := q.Resource
	if q.Subresource != "" {
		full += "/" + q.Subresource
	}
	if s == "*" || s == full {
		return true
	}
	if sub, ok := strings.CutPrefix(s, "*/"); ok && q.Subresource != "" && sub == q.Subresource {
		return true
	}
	resource, ok := strings.CutSuffix(s, "/*")
	return ok && resource == q.Resource
}
