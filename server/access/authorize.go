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
)

// Authorize tells whether the request may go on. Order as upstream's: superusers,
// nodes, RBAC; the first yes decides. The reason of a no is what upstream appends
// to its message.
func (a *Access) Authorize(_ context.Context, at Attributes) (allowed bool, reason string, err error) {
	d := a.decide(&at)
	return d.allowed, d.reason, nil
}

// decision is the outcome; by is set where RBAC said yes.
type decision struct {
	allowed bool
	reason  string
	by      grant
}

// text is the reason that reviews show.
func (d decision) text() string {
	if d.allowed && d.by.binding != "" {
		return d.by.describe()
	}
	return d.reason
}

func (a *Access) decide(at *Attributes) decision {
	if slices.Contains(at.User.Groups, api.GroupMasters) {
		return decision{allowed: true}
	}
	if at.Name == "" && at.FieldSelector != "" {
		at.Name = selectedName(at.FieldSelector)
	}
	var reasons []string
	if node, is := nodeOf(at.User); is {
		ok, why := a.nodes.allows(node, at)
		if ok {
			return decision{allowed: true}
		}
		if why != "" {
			reasons = append(reasons, why)
		}
	}
	by, ok, why := a.rbac.allows(at)
	if ok {
		return decision{allowed: true, by: by}
	}
	if why != "" {
		reasons = append(reasons, why)
	}
	return decision{reason: strings.Join(reasons, "\n")}
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
