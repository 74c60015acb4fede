package webhooks

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/api"
	"orch/server/admission/match"
	"orch/server/expression"
	"orch/server/registry"
)

// asked is all of a request that rules look at.
type asked struct {
	kind      *api.Facts
	operation registry.Operation
	sub       string
	cluster   bool // no namespace, or a Namespace itself
	mutating  bool
}

// candidate is a hook one of whose rules is about the request.
type candidate struct {
	*hook
	// index among all hooks of its sort.
	index int
	// as is the kind in whose version the hook sees the object.
	as *api.Facts
}

// exempt kinds are never shown to webhooks: what governs admission itself, as nobody could
// mend it then; and reviews, which are questions, not writes.
func exempt(f *api.Facts) bool {
	switch f.Group {
	case "admissionregistration.k8s.io":
		return true
	case "authentication.k8s.io", "authorization.k8s.io":
		return f.Computed
	}
	return false
}

// candidates are the hooks whose rules are about the request, in order. Most kinds
// of requests concern nobody; that is found out once for each.
func (w *Webhooks) candidates(a *registry.Attributes, mutating bool) []candidate {
	c := w.current()
	hooks := c.validating
	if mutating {
		hooks = c.mutating
	}
	if len(hooks) == 0 || exempt(a.Resource.Facts) {
		return nil
	}
	key := asked{a.Resource.Facts, a.Operation, a.Subresource, a.Resource.Facts == api.Namespaces.Facts || a.Namespace == "", mutating}
	c.mu.Lock()
	defer c.mu.Unlock()
	if list, ok := c.matched[key]; ok {
		return list
	}
	var list []candidate
	r := w.matcher.Request(a)
	for i, h := range hooks {
		if as := r.Ruled(h.criteria); as != nil {
			list = append(list, candidate{h, i, as})
		}
	}
	if len(c.matched) >= maxMatched {
		clear(c.matched)
	}
	c.matched[key] = list
	return list
}

// wanted asks selectors and conditions of a candidate.
func (w *Webhooks) wanted(ctx context.Context, c *candidate, r *match.Request, kind string) (bool, error) {
	ok, err := r.Selected(c.criteria)
	if err != nil {
		if !apierrors.IsNotFound(err) { // the namespace
			err = apierrors.NewInternalError(err)
		}
		return false, err
	}
	conditions := c.conditions()
	if !ok || conditions == nil {
		return ok, nil
	}
	shown, err := r.As(c.as)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	ok, err = r.Meets(ctx, conditions, shown, expression.Bindings{Authorizer: w.cfg.Authorizer}, match.Owner{Numbers: &w.numbers, Name: c.name, Kind: "webhook", Type: kind, Failure: c.failure()})
	if err != nil {
		err = apierrors.NewForbidden(r.A.Resource.GroupResource(), r.A.Name, err)
	}
	return ok, err
}
