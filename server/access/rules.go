package access

import (
	"fmt"
	"slices"
	"strings"

	rbac "k8s.io/api/rbac/v1"
)

// This file is pure: rules in, yes or no out. It follows upstream's
// RuleAllows, Covers, BreakdownRule and CompactString.

// ruleAllows tells whether one rule permits the request.
func ruleAllows(r *rbac.PolicyRule, at *Attributes) bool {
	if !oneOf(r.Verbs, at.Verb) {
		return false
	}
	if at.Resource == "" {
		return pathAllowed(r.NonResourceURLs, at.Path)
	}
	return oneOf(r.APIGroups, at.Group) && resourceAllowed(r.Resources, at.Resource, at.Subresource) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, at.Name))
}

func oneOf(list []string, s string) bool {
	for _, x := range list {
		if x == rbac.VerbAll || x == s {
			return true
		}
	}
	return false
}

// resourceAllowed knows "*", "pods", "pods/log" and "*/scale".
func resourceAllowed(list []string, resource, sub string) bool {
	for _, x := range list {
		if x == rbac.ResourceAll {
			return true
		}
		if sub == "" {
			if x == resource {
				return true
			}
			continue
		}
		left, right, ok := strings.Cut(x, "/")
		if ok && right == sub && (left == resource || left == "*") {
			return true
		}
	}
	return false
}

func pathAllowed(list []string, path string) bool {
	for _, x := range list {
		if x == rbac.NonResourceAll || x == path {
			return true
		}
		if p, ok := strings.CutSuffix(x, "*"); ok && strings.HasPrefix(path, strings.TrimRight(p, "*")) {
			return true
		}
	}
	return false
}

// uncovered returns the parts of want that have does not grant.
func uncovered(have, want []rbac.PolicyRule) []rbac.PolicyRule {
	var missing []rbac.PolicyRule
	for _, w := range want {
		for _, piece := range breakDown(w) {
			if !slices.ContainsFunc(have, func(h rbac.PolicyRule) bool { return ruleCovers(h, piece) }) {
				missing = append(missing, piece)
			}
		}
	}
	return missing
}

// breakDown splits a rule into pieces with one verb, one group, one resource and
// at most one name each.
func breakDown(r rbac.PolicyRule) []rbac.PolicyRule {
	var out []rbac.PolicyRule
	names := r.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	for _, verb := range r.Verbs {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, name := range names {
					p := rbac.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}}
					if name != "" {
						p.ResourceNames = []string{name}
					}
					out = append(out, p)
				}
			}
		}
		for _, u := range r.NonResourceURLs {
			out = append(out, rbac.PolicyRule{NonResourceURLs: []string{u}, Verbs: []string{verb}})
		}
	}
	return out
}

// ruleCovers tells whether have grants all of a single piece.
func ruleCovers(have, piece rbac.PolicyRule) bool {
	if !oneOf(have.Verbs, piece.Verbs[0]) {
		return false
	}
	if len(piece.NonResourceURLs) > 0 {
		return pathAllowed(have.NonResourceURLs, piece.NonResourceURLs[0])
	}
	resource, sub, _ := strings.Cut(piece.Resources[0], "/")
	if !oneOf(have.APIGroups, piece.APIGroups[0]) || !resourceAllowed(have.Resources, resource, sub) {
		return false
	}
	return len(have.ResourceNames) == 0 || (len(piece.ResourceNames) > 0 && slices.Contains(have.ResourceNames, piece.ResourceNames[0]))
}

// compactText prints a rule as upstream's messages do.
func compactText(r rbac.PolicyRule) string {
	var parts []string
	add := func(name string, list []string) {
		if len(list) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", name, list))
		}
	}
	add("APIGroups", r.APIGroups)
	add("Resources", r.Resources)
	add("NonResourceURLs", r.NonResourceURLs)
	add("ResourceNames", r.ResourceNames)
	add("Verbs", r.Verbs)
	return "{" + strings.Join(parts, ", ") + "}"
}

// mergePieces puts pieces that differ only in their verb back together.
func mergePieces(pieces []rbac.PolicyRule) []rbac.PolicyRule {
	var out []rbac.PolicyRule
next:
	for _, p := range pieces {
		for i, o := range out {
			if slices.Equal(o.APIGroups, p.APIGroups) && slices.Equal(o.Resources, p.Resources) &&
				slices.Equal(o.ResourceNames, p.ResourceNames) && slices.Equal(o.NonResourceURLs, p.NonResourceURLs) {
				if !slices.Contains(o.Verbs, p.Verbs[0]) {
					out[i].Verbs = append(slices.Clone(o.Verbs), p.Verbs[0])
				}
				continue next
			}
		}
		out = append(out, p)
	}
	return out
}
