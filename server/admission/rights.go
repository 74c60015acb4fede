package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"orch/server/access"
	"orch/server/expression"
	"orch/server/registry"
)

// rights answers what expressions ask of a user's rights.
type rights struct{ access *access.Access }

var _ expression.Authorizer = rights{}

// Authorize is part of expression.Authorizer.
func (r rights) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	at := access.Attributes{
		User: registry.User{Name: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: u.GetExtra()},
		Verb: a.GetVerb(), Namespace: a.GetNamespace(), Group: a.GetAPIGroup(), Version: a.GetAPIVersion(),
		Resource: a.GetResource(), Subresource: a.GetSubresource(), Name: a.GetName(), Path: a.GetPath(),
	}
	// What cannot be parsed asks for more, not for less, as upstream has it.
	if list, _ := a.GetFieldSelector(); len(list) > 0 {
		at.FieldSelector = access.FieldSelector(list)
	}
	if list, _ := a.GetLabelSelector(); len(list) > 0 {
		at.LabelSelector = labels.NewSelector().Add(list...).String()
	}
	ok, reason, err := r.access.Authorize(ctx, at)
	if ok {
		return authorizer.DecisionAllow, reason, err
	}
	return authorizer.DecisionNoOpinion, reason, err
}
