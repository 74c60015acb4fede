// Package flow holds the rules of flowcontrol.apiserver.k8s.io: flow schemas and
// priority levels, with upstream's paths and words. All functions are pure.
// Start reading at Schema.
package flow

import (
	"fmt"
	"math"
	"slices"
	"strings"

	flowcontrol "k8s.io/api/flowcontrol/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

var (
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// Schema checks precedence, level and rules.
func Schema(o *flowcontrol.FlowSchema) field.ErrorList {
	var e rule.Errors
	s := &o.Spec
	at := specPath.Child("matchingPrecedence")
	switch p := s.MatchingPrecedence; {
	case p <= 0:
		e.Invalid(at, p, "must be a positive value")
	case p > flowcontrol.FlowSchemaMaxMatchingPrecedence:
		e.Invalid(at, p, fmt.Sprintf("must not be greater than %v", flowcontrol.FlowSchemaMaxMatchingPrecedence))
	case p == 1 && o.Name != flowcontrol.FlowSchemaNameExempt:
		e.Invalid(at, p, "only the schema named 'exempt' may have matchingPrecedence 1")
	}
	if m := s.DistinguisherMethod; m != nil {
		rule.Among(&e, specPath.Child("distinguisherMethod", "type"), m.Type, flowcontrol.FlowDistinguisherMethodByNamespaceType, flowcontrol.FlowDistinguisherMethodByUserType)
	}
	if at := specPath.Child("priorityLevelConfiguration", "name"); s.PriorityLevelConfiguration.Name == "" {
		e.Required(at, "must reference a priority level")
	} else {
		e.ObjectName(at, s.PriorityLevelConfiguration.Name)
	}
	for i := range s.Rules {
		rules(&e, &s.Rules[i], specPath.Child("rules").Index(i))
	}
	return e.List()
}
func SchemaUpdate(o, _ *flowcontrol.FlowSchema) field.ErrorList { return Schema(o) }

// SchemaStatus checks the conditions.
func SchemaStatus(o, _ *flowcontrol.FlowSchema) field.ErrorList {
	var e rule.Errors
	seen := rule.Unique{}
	for i, c := range o.Status.Conditions {
		condition(&e, string(c.Type), seen, statusPath.Child("conditions").Index(i).Child("type"))
	}
	return e.List()
}

func condition(e *rule.Errors, kind string, seen rule.Unique, p *field.Path) {
	if seen.Again(kind) {
		e.Duplicate(p, kind)
	}
	if kind == "" {
		e.Required(p, "must not be empty")
	}
}

func rules(e *rule.Errors, r *flowcontrol.PolicyRulesWithSubjects, p *field.Path) {
	if len(r.Subjects) == 0 {
		e.Required(p.Child("subjects"), "subjects must contain at least one value")
	}
	for i := range r.Subjects {
		subject(e, &r.Subjects[i], p.Child("subjects").Index(i))
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		e.Required(p, "at least one of resourceRules and nonResourceRules has to be non-empty")
	}
	for i := range r.ResourceRules {
		resourceRule(e, &r.ResourceRules[i], p.Child("resourceRules").Index(i))
	}
	for i := range r.NonResourceRules {
		n, at := &r.NonResourceRules[i], p.Child("nonResourceRules").Index(i)
		verbs(e, n.Verbs, at.Child("verbs"))
		if one(e, n.NonResourceURLs, at.Child("nonResourceURLs"), "nonResourceURLs must contain at least one value", "non-resource URLs") {
			continue
		}
		for j, u := range n.NonResourceURLs {
			address(e, u, at.Child("nonResourceURLs").Index(j))
		}
	}
}

// subject wants what its kind says, and nothing else.
func subject(e *rule.Errors, s *flowcontrol.Subject, p *field.Path) {
	parts := []struct {
		kind  flowcontrol.SubjectKind
		field string
		set   bool
	}{
		{flowcontrol.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil},
		{flowcontrol.SubjectKindUser, "user", s.User != nil},
		{flowcontrol.SubjectKindGroup, "group", s.Group != nil},
	}
	known := false
	for _, part := range parts {
		known = known || part.kind == s.Kind
		if part.kind == s.Kind && !part.set {
			e.Required(p.Child(part.field), fmt.Sprintf("%s is required when subject kind is '%s'", part.field, part.kind))
		}
	}
	if !known {
		rule.Among(e, p.Child("kind"), s.Kind, flowcontrol.SubjectKindServiceAccount, flowcontrol.SubjectKindGroup, flowcontrol.SubjectKindUser)
		return
	}
	switch {
	case s.Kind == flowcontrol.SubjectKindUser && s.User != nil:
		e.Need(p.Child("user", "name"), s.User.Name)
	case s.Kind == flowcontrol.SubjectKindGroup && s.Group != nil:
		e.Need(p.Child("group", "name"), s.Group.Name)
	case s.Kind == flowcontrol.SubjectKindServiceAccount && s.ServiceAccount != nil:
		account(e, s.ServiceAccount, p.Child("serviceAccount"))
	}
	for _, part := range parts {
		if part.kind != s.Kind && part.set {
			e.Forbidden(p.Child(part.field), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", part.field, part.kind))
		}
	}
}

func account(e *rule.Errors, a *flowcontrol.ServiceAccountSubject, p *field.Path) {
	switch a.Name {
	case "":
		e.Required(p.Child("name"), "")
	case flowcontrol.NameAll:
	default:
		e.Each(p.Child("name"), a.Name, apimachinery.ValidateServiceAccountName(a.Name, false))
	}
	if a.Namespace == "" {
		e.Required(p.Child("namespace"), "must specify namespace for service account")
	} else {
		e.Each(p.Child("namespace"), a.Namespace, apimachinery.ValidateNamespaceName(a.Namespace, false))
	}
}

func resourceRule(e *rule.Errors, r *flowcontrol.ResourcePolicyRule, p *field.Path) {
	verbs(e, r.Verbs, p.Child("verbs"))
	one(e, r.APIGroups, p.Child("apiGroups"), "resource rules must supply at least one api group", "api groups")
	one(e, r.Resources, p.Child("resources"), "resource rules must supply at least one resource", "resources")
	at := p.Child("namespaces")
	if len(r.Namespaces) == 0 {
		if !r.ClusterScope {
			e.Required(at, "resource rules that are not cluster scoped must supply at least one namespace")
		}
		return
	}
	if one(e, r.Namespaces, at, "", "namespaces") {
		return
	}
	for i, n := range r.Namespaces {
		for _, complaint := range apimachinery.ValidateNamespaceName(n, false) {
			e.Invalid(at.Index(i), n, "each member of this list must be '*' or a DNS-1123 label; "+complaint)
		}
	}
}

func verbs(e *rule.Errors, list []string, p *field.Path) {
	known := []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
	if len(list) == 0 || one(e, list, p, "", "verbs") {
		if len(list) == 0 {
			e.Required(p, "verbs must contain at least one value")
		}
		return
	}
	for _, v := range list {
		if !slices.Contains(known, v) {
			e.Add(field.NotSupported(p, list, known))
			return
		}
	}
}

// one wants a list that is not empty and has "*" only alone; it tells whether "*" is in it.
func one(e *rule.Errors, list []string, p *field.Path, missing, what string) bool {
	if len(list) == 0 {
		e.Required(p, missing)
		return true
	}
	all := slices.Contains(list, "*")
	if all && len(list) > 1 {
		e.Invalid(p, list, "if '*' is present, must not specify other "+what)
	}
	return all
}

func address(e *rule.Errors, path string, p *field.Path) {
	stars := strings.Count(path, "*")
	switch {
	case path == "":
		e.Invalid(p, path, "must not be empty")
	case path == "/":
	case !strings.HasPrefix(path, "/"):
		e.Invalid(p, path, "must start with slash")
	case strings.Contains(path, " "):
		e.Invalid(p, path, "must not contain white-space")
	case strings.Contains(path, "//"):
		e.Invalid(p, path, "must not contain double slash")
	case stars > 1 || stars == 1 && !strings.HasSuffix(path, "/*"):
		e.Invalid(p, path, "wildcard can only do suffix matching")
	}
}

// Level checks the type and what belongs to it.
func Level(o *flowcontrol.PriorityLevelConfiguration) field.ErrorList {
	var e rule.Errors
	s := &o.Spec
	if (o.Name == flowcontrol.PriorityLevelConfigurationNameExempt) != (s.Type == flowcontrol.PriorityLevelEnablementExempt) {
		e.Invalid(specPath.Child("type"), s.Type, "type must be 'Exempt' if and only if name is 'exempt'")
	}
	switch s.Type {
	case flowcontrol.PriorityLevelEnablementExempt:
		if s.Limited != nil {
			e.Forbidden(specPath.Child("limited"), "must be nil if the type is not Limited")
		}
		if x := s.Exempt; x != nil {
			shares(&e, x.NominalConcurrencyShares, x.LendablePercent, specPath.Child("exempt"))
		}
	case flowcontrol.PriorityLevelEnablementLimited:
		if s.Exempt != nil {
			e.Forbidden(specPath.Child("exempt"), "must be nil if the type is Limited")
		}
		if s.Limited == nil {
			e.Required(specPath.Child("limited"), "must not be empty when type is Limited")
		} else {
			limited(&e, s.Limited, specPath.Child("limited"))
		}
	default:
		rule.Among(&e, specPath.Child("type"), s.Type, flowcontrol.PriorityLevelEnablementExempt, flowcontrol.PriorityLevelEnablementLimited)
	}
	return e.List()
}
func LevelUpdate(o, _ *flowcontrol.PriorityLevelConfiguration) field.ErrorList { return Level(o) }

// LevelStatus checks the conditions.
func LevelStatus(o, _ *flowcontrol.PriorityLevelConfiguration) field.ErrorList {
	var e rule.Errors
	seen := rule.Unique{}
	for i, c := range o.Status.Conditions {
		condition(&e, string(c.Type), seen, statusPath.Child("conditions").Index(i).Child("type"))
	}
	return e.List()
}

func shares(e *rule.Errors, nominal, lendable *int32, p *field.Path) {
	if nominal != nil && *nominal < 0 {
		e.Invalid(p.Child("nominalConcurrencyShares"), *nominal, "must be a non-negative integer")
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		e.Invalid(p.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive")
	}
}

func limited(e *rule.Errors, l *flowcontrol.LimitedPriorityLevelConfiguration, p *field.Path) {
	shares(e, l.NominalConcurrencyShares, l.LendablePercent, p)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		e.Invalid(p.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer")
	}
	at, r := p.Child("limitResponse"), &l.LimitResponse
	switch queuing := at.Child("queuing"); r.Type {
	case flowcontrol.LimitResponseTypeReject:
		if r.Queuing != nil {
			e.Forbidden(queuing, "must be nil if limited.limitResponse.type is not Limited")
		}
	case flowcontrol.LimitResponseTypeQueue:
		if r.Queuing == nil {
			e.Required(queuing, "must not be empty if limited.limitResponse.type is Limited")
		} else {
			queues(e, r.Queuing, queuing)
		}
	default:
		rule.Among(e, at.Child("type"), r.Type, flowcontrol.LimitResponseTypeQueue, flowcontrol.LimitResponseTypeReject)
	}
}

const (
	mostQueues  = 10 * 1000 * 1000
	mostEntropy = 60 // bits of the hash that shuffle sharding deals hands from
)

func queues(e *rule.Errors, q *flowcontrol.QueuingConfiguration, p *field.Path) {
	if q.QueueLengthLimit <= 0 {
		e.Invalid(p.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive")
	}
	switch {
	case q.Queues <= 0:
		e.Invalid(p.Child("queues"), q.Queues, "must be positive")
	case q.Queues > mostQueues:
		e.Invalid(p.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", mostQueues))
	}
	switch hand := p.Child("handSize"); {
	case q.HandSize <= 0:
		e.Invalid(hand, q.HandSize, "must be positive")
	case q.HandSize > q.Queues:
		e.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues))
	default:
		if bits := entropy(q.Queues, q.HandSize); bits > mostEntropy {
			e.Invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, mostEntropy))
		}
	}
}

// entropy is the number of bits that a falling factorial of hand cards from a deck needs.
func entropy(deck, hand int32) int {
	bits := 0.0
	for i := range hand {
		bits += math.Log2(float64(deck - i))
	}
	return int(math.Ceil(bits))
}
