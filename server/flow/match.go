package flow

import (
	"hash/maphash"
	"slices"
	"strings"

	flowcontrol "k8s.io/api/flowcontrol/v1"
)

// schema is a FlowSchema in force.
type schema struct {
	name  string
	spec  *flowcontrol.FlowSchemaSpec
	uid   []string // as a header has it
	level *level
}

// classify finds the first schema that matches, in order of precedence; catch-all
// matches everybody, and stands in where even that was not asked of the request's user.
func (p *plan) classify(q *Request) *schema {
	for _, s := range p.schemas {
		if matches(s.spec.Rules, q) {
			return s
		}
	}
	return p.catchAll
}

func matches(rules []flowcontrol.PolicyRulesWithSubjects, q *Request) bool {
	for i := range rules {
		r := &rules[i]
		if !anySubject(r.Subjects, q) {
			continue
		}
		if q.Path != "" && anyPath(r.NonResourceRules, q) || q.Path == "" && anyResource(r.ResourceRules, q) {
			return true
		}
	}
	return false
}

func anySubject(list []flowcontrol.Subject, q *Request) bool {
	for i := range list {
		s := &list[i]
		switch s.Kind {
		case flowcontrol.SubjectKindUser:
			if s.User != nil && (s.User.Name == flowcontrol.NameAll || s.User.Name == q.User) {
				return true
			}
		case flowcontrol.SubjectKindGroup:
			if s.Group != nil && (s.Group.Name == flowcontrol.NameAll || slices.Contains(q.Groups, s.Group.Name)) {
				return true
			}
		case flowcontrol.SubjectKindServiceAccount:
			if s.ServiceAccount != nil && isAccount(s.ServiceAccount, q.User) {
				return true
			}
		}
	}
	return false
}

func isAccount(a *flowcontrol.ServiceAccountSubject, user string) bool {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return false
	}
	if rest, ok = strings.CutPrefix(rest, a.Namespace); !ok {
		return false
	}
	name, ok := strings.CutPrefix(rest, ":")
	return ok && (a.Name == flowcontrol.NameAll || a.Name == name)
}

func anyResource(list []flowcontrol.ResourcePolicyRule, q *Request) bool {
	for i := range list {
		r := &list[i]
		if !names(r.Verbs, q.Verb) || !names(r.APIGroups, q.Group) || !namesResource(r.Resources, q) {
			continue
		}
		if q.Namespace == "" && r.ClusterScope || q.Namespace != "" && names(r.Namespaces, q.Namespace) {
			return true
		}
	}
	return false
}

// names tells whether the list has x, or is "*" alone.
func names(list []string, x string) bool {
	return len(list) == 1 && list[0] == "*" || slices.Contains(list, x)
}

func namesResource(list []string, q *Request) bool {
	if len(list) == 1 && list[0] == flowcontrol.ResourceAll {
		return true
	}
	for _, r := range list {
		resource, sub, _ := strings.Cut(r, "/")
		if resource == q.Resource && sub == q.Subresource {
			return true
		}
	}
	return false
}

func anyPath(list []flowcontrol.NonResourcePolicyRule, q *Request) bool {
	for i := range list {
		r := &list[i]
		if !names(r.Verbs, q.Verb) {
			continue
		}
		for _, u := range r.NonResourceURLs {
			// A path counts with everything below it, with or without a star.
			if u == flowcontrol.NonResourceAll || u == q.Path {
				return true
			}
			if below, ok := strings.CutPrefix(q.Path, strings.TrimSuffix(strings.TrimSuffix(u, "*"), "/")); ok && strings.HasPrefix(below, "/") {
				return true
			}
		}
	}
	return false
}

// hash names the request's flow: the schema, and the user or namespace where the schema
// tells them apart. It is another one in each process, so that nobody can aim at a queue.
func (s *schema) hash(seed maphash.Seed, q *Request) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = h.WriteString(s.name) // never fails
	_ = h.WriteByte(0)
	_, _ = h.WriteString(s.distinguish(q))
	return h.Sum64()
}

func (s *schema) distinguish(q *Request) string {
	if s.spec.DistinguisherMethod == nil {
		return ""
	}
	if s.spec.DistinguisherMethod.Type == flowcontrol.FlowDistinguisherMethodByNamespaceType {
		return q.Namespace
	}
	return q.User
}
