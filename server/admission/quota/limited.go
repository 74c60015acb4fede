package quota

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/server/admission/settings"
)

// This file is pure: what an administrator lets be used only under a quota.

// grows tells whether usage is anywhere beyond had.
func grows(usage, had core.ResourceList) bool {
	for k, v := range usage {
		if v.Cmp(had[k]) > 0 {
			return true
		}
	}
	return false
}

// uncovered says what an object uses, and in which scopes it is, that is limited and that no
// quota which concerns the object speaks of.
func uncovered(limited []settings.Limited, quotas []*core.ResourceQuota, f *api.Facts, o api.Object, usage core.ResourceList) error {
	covered, scopes := map[core.ResourceName]bool{}, map[core.ResourceQuotaScope]bool{}
	for _, q := range quotas {
		for _, r := range requirements(q) {
			if satisfies(o, r) {
				scopes[r.ScopeName] = true
			}
		}
		if Matches(q, o) {
			for k := range q.Spec.Hard {
				covered[k] = true
			}
		}
	}
	var names []string
	var open []core.ScopedResourceSelectorRequirement
	for _, l := range limited {
		for k, v := range usage {
			about := l.APIGroup == f.Group && l.Resource == f.Plural && v.Sign() > 0
			if about && !covered[k] && slices.ContainsFunc(l.MatchContains, func(part string) bool { return strings.Contains(string(k), part) }) {
				names = append(names, string(k))
			}
		}
		for _, r := range l.MatchScopes {
			if satisfies(o, r) && !scopes[r.ScopeName] {
				open = append(open, r)
			}
		}
	}
	switch {
	case len(names) > 0:
		slices.Sort(names)
		return fmt.Errorf("insufficient quota to consume: %s", strings.Join(slices.Compact(names), ","))
	case len(open) > 0:
		return fmt.Errorf("insufficient quota to match these scopes: %v", open)
	}
	return nil
}
