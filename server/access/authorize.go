package access

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/server/access/reviewer"
	"orch/server/audit"
)

// Authorize tells whether the request may go on. Order as upstream's: superusers,
// nodes, RBAC; the first yes decides. The reason of a no is what upstream appends
// to its message.
func (a *Access) Authorize(ctx context.Context, at Attributes) (allowed bool, reason string, err error) {
	d := a.decide(ctx, &at)
	if a.cfg.Audited {
		word := "forbid"
		if d.allowed {
			word = "allow"
		}
		audit.Annotate(ctx, "authorization.k8s.io/decision", word)
		audit.Annotate(ctx, "authorization.k8s.io/reason", d.text())
	}
	return d.allowed, d.reason, nil
}

// decision is the outcome; by is set where RBAC said yes.
type decision struct {
	allowed bool
	// denied: somebody said no, whatever others would have said.
	denied bool
	reason string
	by     grant
}

// text is the reason that reviews show.
func (d decision) text() string {
	if d.allowed && d.by.binding != "" {
		return d.by.describe()
	}
	return d.reason
}

// decide asks the chain: superusers need nobody's word; then the first that has an opinion counts.
func (a *Access) decide(ctx context.Context, at *Attributes) decision {
	if slices.Contains(at.User.Groups, api.GroupMasters) {
		return decision{allowed: true}
	}
	if at.Name == "" && at.FieldSelector != "" {
		at.Name = selectedName(at.FieldSelector)
	}
	var reasons []string
	for _, z := range a.settings.Load().chain {
		opinion, d := z.decide(ctx, at)
		if opinion == reviewer.Allow {
			return d
		}
		if d.reason != "" {
			reasons = append(reasons, d.reason)
		}
		if opinion == reviewer.Deny {
			return decision{denied: true, reason: strings.Join(reasons, "\n")}
		}
	}
	return decision{reason: strings.Join(reasons, "\n")}
}

func (a *Access) askNode(_ context.Context, at *Attributes) (reviewer.Decision, decision) {
	node, is := nodeOf(at.User)
	if !is {
		return reviewer.NoOpinion, decision{}
	}
	ok, why := a.nodes.allows(node, at)
	if ok {
		return reviewer.Allow, decision{allowed: true}
	}
	return reviewer.NoOpinion, decision{reason: why}
}

func (a *Access) askRBAC(_ context.Context, at *Attributes) (reviewer.Decision, decision) {
	by, ok, why := a.rbac.allows(at)
	if ok {
		return reviewer.Allow, decision{allowed: true, by: by}
	}
	return reviewer.NoOpinion, decision{reason: why}
}

func (a *Access) askWebhook(name string, s *reviewer.Subject) func(context.Context, *Attributes) (reviewer.Decision, decision) {
	return func(ctx context.Context, at *Attributes) (reviewer.Decision, decision) {
		spec := reviewOf(at)
		opinion, reason, err := s.Review(ctx, &spec)
		if err != nil {
			a.log().Error("a webhook did not decide about a request", "authorizer", name, "err", err)
		}
		return opinion, decision{allowed: opinion == reviewer.Allow, reason: reason}
	}
}

// selectedName is the one name that a field selector asks for, empty for others:
// such a list or watch counts as one of that object.
func selectedName(selector string) string {
	s, err := fields.ParseSelector(selector)
	if err != nil {
		return ""
	}
	name, _ := s.RequiresExactMatch("metadata.name")
	return name
}

// Forbidden is the answer to a request that Authorize refused, in upstream's words.
func Forbidden(at Attributes, reason string) *apierrors.StatusError {
	msg := forbiddenText(at)
	if reason != "" {
		msg += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: at.Group, Resource: at.Resource}, at.Name, fmt.Errorf("%s", msg))
}

func forbiddenText(at Attributes) string {
	if at.Resource == "" {
		return fmt.Sprintf("User %q cannot %s path %q", at.User.Name, at.Verb, at.Path)
	}
	resource := at.Resource
	if at.Subresource != "" {
		resource += "/" + at.Subresource
	}
	if at.Namespace != "" {
		return fmt.Sprintf("User %q cannot %s resource %q in API group %q in the namespace %q", at.User.Name, at.Verb, resource, at.Group, at.Namespace)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q at the cluster scope", at.User.Name, at.Verb, resource, at.Group)
}
