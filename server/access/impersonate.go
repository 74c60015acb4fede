package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/server/registry"
)

const (
	impersonationPrefix = "Impersonate-"
	extraHeader         = impersonationPrefix + "Extra-"
	authnGroup          = "authentication.k8s.io"
	associatedNode      = "associated-node"
	userInfoMode        = "user-info"
)

// impersonate replaces the user by the one that the Impersonate-* headers name, if a mode
// lets them: the constrained ones first (KEP-5284), which grant an identity for some
// requests only, then the one that grants it for all. The first refusal is the answer.
func (a *Access) impersonate(r *http.Request, u registry.User) (registry.User, error) {
	want := impersonated(r.Header)
	if want.Name == "" {
		if want.UID == "" && len(want.Groups) == 0 && want.Extra == nil {
			return u, nil
		}
		return registry.User{}, apierrors.NewBadRequest(fmt.Sprintf(
			"requested &user.DefaultInfo{Name:%#v, UID:%#v, Groups:%#v, Extra:%#v} without impersonating a user name", want.Name, want.UID, want.Groups, want.Extra))
	}
	for h := range r.Header {
		if strings.HasPrefix(h, impersonationPrefix) {
			r.Header.Del(h)
		}
	}
	var first error
	if a.cfg.Asked != nil {
		asked := a.cfg.Asked(r)
		for _, mode := range constrainedModes {
			if !mode.concerns(&want, &u) {
				continue
			}
			as, err := a.constrained(r.Context(), mode.name, u, want, asked)
			if err == nil {
				return as, nil
			}
			if first == nil {
				first = err
			}
		}
	}
	as, err := a.actAs(r.Context(), u, want)
	switch {
	case err == nil:
		return as, nil
	case first != nil:
		return u, first
	}
	return u, err
}

func impersonated(h http.Header) registry.User {
	u := registry.User{Name: h.Get("Impersonate-User"), UID: h.Get("Impersonate-Uid"), Groups: slices.Clone(h["Impersonate-Group"])}
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
	return u
}

// mode is a kind of identity that may be granted for some requests only.
type mode struct {
	name string
	// concerns tells whether the wanted identity is of the kind.
	concerns func(want, by *registry.User) bool
}

// constrainedModes in the order in which they are tried, upstream's.
var constrainedModes = []mode{
	{associatedNode, func(want, by *registry.User) bool {
		node, ok := nodeNamed(want.Name)
		if !ok || !nameOnly(want) {
			return false
		}
		return RunsOn(*by, node)
	}},
	{"arbitrary-node", func(want, _ *registry.User) bool {
		_, ok := nodeNamed(want.Name)
		return ok && nameOnly(want)
	}},
	{"serviceaccount", func(want, _ *registry.User) bool {
		_, _, ok := serviceAccountOf(want.Name)
		return ok && nameOnly(want)
	}},
	{userInfoMode, func(want, _ *registry.User) bool {
		_, node := nodeNamed(want.Name)
		_, _, account := serviceAccountOf(want.Name)
		return !node && !account
	}},
}

// RunsOn tells whether the user is the service account of a pod on that node, by what its token says.
func RunsOn(u registry.User, node string) bool {
	on := u.Extra["authentication.kubernetes.io/node-name"]
	_, _, account := serviceAccountOf(u.Name)
	return account && len(on) == 1 && on[0] == node
}

func nameOnly(u *registry.User) bool { return u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0 }

// nodeNamed is the node whose user has that name.
func nodeNamed(user string) (string, bool) {
	name, ok := strings.CutPrefix(user, api.UserNodePrefix)
	return name, ok && len(validation.IsDNS1123Subdomain(name)) == 0
}

// constrained asks whether the user may do what they ask for while being of the mode's kind,
// and then whether they may be the wanted one.
func (a *Access) constrained(ctx context.Context, mode string, by, want registry.User, asked Attributes) (registry.User, error) {
	asker := by
	if mode == associatedNode {
		asker = withoutPlace(by)
	}
	asked.User, asked.Verb = asker, "impersonate-on:"+mode+":"+asked.Verb
	if err := a.mustMay(ctx, asked); err != nil {
		return by, err
	}
	verb := "impersonate:" + mode
	if err := refusedInModes(&want); err != nil {
		return by, Forbidden(Attributes{User: asker, Verb: verb, Group: authnGroup, Resource: err.resource, Name: err.name}, err.text)
	}
	for _, at := range constrainedChecks(mode, want) {
		at.User, at.Verb, at.Group, at.Version = asker, verb, authnGroup, "v1"
		if at.any != nil && a.mustMay(ctx, at.any.of(at.Attributes)) == nil {
			continue
		}
		if err := a.mustMay(ctx, at.Attributes); err != nil {
			return by, err
		}
	}
	if _, is := nodeNamed(want.Name); is {
		want.Groups = []string{api.GroupNodes}
	}
	want.Mode = verb
	return become(by, want), nil
}

// withoutPlace is a service account on any node: what grants an identity to it must do so
// wherever its pods run.
func withoutPlace(u registry.User) registry.User {
	keys := make([]string, 0, len(u.Extra))
	for k := range u.Extra {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	u.Extra = map[string][]string{"authentication.kubernetes.io/associated-node-keys": keys}
	return u
}

// refusal is a wanted identity that no right makes possible.
type refusal struct{ resource, name, text string }

// refusedInModes refuses what the constrained modes never grant.
func refusedInModes(want *registry.User) *refusal {
	switch {
	case slices.Contains(want.Groups, ""):
		return &refusal{"groups", "", "impersonating the empty string group is not allowed"}
	case slices.Contains(want.Groups, api.GroupMasters):
		return &refusal{"groups", api.GroupMasters, "impersonating the system:masters group is not allowed"}
	}
	for key, values := range want.Extra {
		if err := refusedExtra(key, values); err != nil {
			return &refusal{"userextras", "", err.Error()}
		}
	}
	return nil
}

func refusedExtra(key string, values []string) error {
	if key == "" {
		return errors.New("impersonating the empty string key in extra is not allowed")
	}
	if err := validation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key).ToAggregate(); err != nil {
		return fmt.Errorf("impersonating an invalid key in extra is not allowed: %w", err)
	}
	switch {
	case key != strings.ToLower(key):
		return fmt.Errorf("impersonating a non-lowercase key in extra is not allowed: %q", key)
	case len(values) == 0:
		return errors.New("impersonating empty values in extra is not allowed")
	case slices.Contains(values, ""):
		return errors.New("impersonating the empty string value in extra is not allowed")
	}
	return nil
}

// check is a right that an identity takes; any is one that stands for all of its sort.
type check struct {
	Attributes
	any *wildcard
}

type wildcard struct{ sub, name string }

func (w *wildcard) of(at Attributes) Attributes {
	at.Subresource, at.Name = w.sub, w.name
	return at
}

// many is from how many groups or extras on one right for all of them is asked for first.
const many = 4

func constrainedChecks(mode string, want registry.User) []check {
	first := Attributes{Resource: "users", Name: want.Name}
	if node, is := nodeNamed(want.Name); is {
		first = Attributes{Resource: "nodes", Name: node}
		if mode == associatedNode {
			first.Name = "*"
		}
	}
	if ns, name, is := serviceAccountOf(want.Name); is {
		first = Attributes{Resource: "serviceaccounts", Namespace: ns, Name: name}
	}
	out := []check{{Attributes: first}}
	if want.UID != "" {
		out = append(out, check{Attributes: Attributes{Resource: "uids", Name: want.UID}})
	}
	var all *wildcard
	if len(want.Groups) >= many {
		all = &wildcard{"", "*"}
	}
	for _, g := range want.Groups {
		out = append(out, check{Attributes{Resource: "groups", Name: g}, all})
	}
	values := 0
	for _, v := range want.Extra {
		values += len(v)
	}
	all = nil
	if len(want.Extra) >= many || values >= many {
		all = &wildcard{"*", "*"}
	}
	for key, list := range want.Extra {
		for _, v := range list {
			out = append(out, check{Attributes{Resource: "userextras", Subresource: key, Name: v}, all})
		}
	}
	return out
}

// actAs asks for each part of the wanted identity, whatever the request is.
func (a *Access) actAs(ctx context.Context, by, want registry.User) (registry.User, error) {
	for _, at := range impersonationChecks(want) {
		at.User, at.Verb, at.Version = by, "impersonate", "v1"
		if err := a.mustMay(ctx, at); err != nil {
			return by, err
		}
	}
	return become(by, want), nil
}

func (a *Access) mustMay(ctx context.Context, at Attributes) error {
	if d := a.decide(ctx, &at); !d.allowed {
		return Forbidden(at, d.reason)
	}
	return nil
}

// become completes the groups of an identity.
func become(by, want registry.User) registry.User {
	want.By = &by
	if ns, _, ok := serviceAccountOf(want.Name); ok && len(want.Groups) == 0 {
		want.Groups = serviceAccountGroups(ns)
	}
	if want.Name == api.UserAnonymous {
		if !slices.Contains(want.Groups, api.GroupUnauthenticated) {
			want.Groups = append(want.Groups, api.GroupUnauthenticated)
		}
		return want
	}
	if slices.Contains(want.Groups, api.GroupUnauthenticated) {
		return want
	}
	return authenticated(want)
}

// impersonationChecks are the rights that acting as want for all requests takes.
func impersonationChecks(want registry.User) []Attributes {
	var out []Attributes
	if ns, name, ok := serviceAccountOf(want.Name); ok {
		out = append(out, Attributes{Resource: "serviceaccounts", Namespace: ns, Name: name})
	} else {
		out = append(out, Attributes{Resource: "users", Name: want.Name})
	}
	if want.UID != "" {
		out = append(out, Attributes{Group: authnGroup, Resource: "uids", Name: want.UID})
	}
	for _, g := range want.Groups {
		out = append(out, Attributes{Resource: "groups", Name: g})
	}
	for key, values := range want.Extra {
		for _, v := range values {
			out = append(out, Attributes{Group: authnGroup, Resource: "userextras", Subresource: key, Name: v})
		}
	}
	return out
}
