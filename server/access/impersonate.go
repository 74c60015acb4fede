package access

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/api"
	"orch/server/registry"
)

const extraHeader = "Impersonate-Extra-"

// impersonate replaces the user by the one that the Impersonate-* headers name,
// if the user may act as each part of it.
func (a *Access) impersonate(r *http.Request, u registry.User) (registry.User, error) {
	want, asked := impersonated(r.Header)
	if !asked {
		return u, nil
	}
	if want.Name == "" {
		// Upstream answers 500; the mistake is the client's, and nobody's alerts shall count it as ours.
		return registry.User{}, apierrors.NewBadRequest("requested impersonation of groups, uid or extra without impersonating a user")
	}
	for _, at := range impersonationChecks(want) {
		at.User, at.Verb, at.Version = u, "impersonate", "v1"
		if d := a.decide(r.Context(), &at); !d.allowed {
			return u, Forbidden(at, d.reason)
		}
	}
	for h := range r.Header {
		if strings.HasPrefix(h, "Impersonate-") {
			r.Header.Del(h)
		}
	}
	want.By = &u
	if ns, _, ok := serviceAccountOf(want.Name); ok && len(want.Groups) == 0 {
		want.Groups = serviceAccountGroups(ns)
	}
	if want.Name == api.UserAnonymous {
		if !slices.Contains(want.Groups, api.GroupUnauthenticated) {
			want.Groups = append(want.Groups, api.GroupUnauthenticated)
		}
		return want, nil
	}
	if slices.Contains(want.Groups, api.GroupUnauthenticated) {
		return want, nil
	}
	return authenticated(want), nil
}

func impersonated(h http.Header) (u registry.User, asked bool) {
	u = registry.User{Name: h.Get("Impersonate-User"), UID: h.Get("Impersonate-Uid"), Groups: slices.Clone(h["Impersonate-Group"])}
	for name, values := range h {
		if len(name) <= len(extraHeader) || !strings.EqualFold(name[:len(extraHeader)], extraHeader) {
			continue
		}
		key := strings.ToLower(name[len(extraHeader):])
		if dec, err := url.PathUnescape(key); err == nil {
			key = dec
		}
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[key] = append(u.Extra[key], values...)
	}
	return u, u.Name != "" || u.UID != "" || len(u.Groups) > 0 || len(u.Extra) > 0
}

// impersonationChecks are the permissions that acting as want takes.
func impersonationChecks(want registry.User) []Attributes {
	const authn = "authentication.k8s.io"
	var out []Attributes
	if ns, name, ok := serviceAccountOf(want.Name); ok {
		out = append(out, Attributes{Resource: "serviceaccounts", Namespace: ns, Name: name})
	} else {
		out = append(out, Attributes{Resource: "users", Name: want.Name})
	}
	for _, g := range want.Groups {
		out = append(out, Attributes{Resource: "groups", Name: g})
	}
	if want.UID != "" {
		out = append(out, Attributes{Group: authn, Resource: "uids", Name: want.UID})
	}
	for key, values := range want.Extra {
		for _, v := range values {
			out = append(out, Attributes{Group: authn, Resource: "userextras", Subresource: key, Name: v})
		}
	}
	return out
}
