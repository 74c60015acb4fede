package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbac "k8s.io/api/rbac/v1"

	"orch/api"
	"orch/server/registry"
)

// Grant checks that a user gives away no more than they have: nil if they hold
// every rule in the namespace, or are superusers.
func (a *Access) Grant(u registry.User, namespace string, want []rbac.PolicyRule) error {
	if slices.Contains(u.Groups, api.GroupMasters) {
		return nil
	}
	have, problems := a.RulesFor(u, namespace)
	missing := mergePieces(uncovered(have, want))
	if len(missing) == 0 {
		return nil
	}
	var lines []string
	for _, m := range missing {
		lines = append(lines, compactText(m))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.Name, u.Groups, strings.Join(slices.Compact(lines), "\n"))
	if len(problems) > 0 {
		text += fmt.Sprintf("; resolution errors: %v", problems)
	}
	return errors.New(text)
}

// HoldsAll tells whether a user has every right there is, which writing an
// aggregation rule takes.
func (a *Access) HoldsAll(u registry.User) bool { return a.Grant(u, "", everything) == nil }

// May is Authorize for admission steps.
func (a *Access) May(at Attributes) bool { return a.decide(context.Background(), &at).allowed }

// Judge is May, with the answer that a no deserves.
func (a *Access) Judge(ctx context.Context, at Attributes) error {
	if d := a.decide(ctx, &at); !d.allowed {
		return Forbidden(at, d.reason)
	}
	return nil
}
