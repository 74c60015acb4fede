package access

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"orch/server/registry"
)

// RequestHeaders says which front proxies may tell us whom a request is from, and how.
type RequestHeaders struct {
	// AllowedNames are the common names of their certificates; empty is any.
	AllowedNames                                             []string
	UsernameHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// usualHeaders are those that aggregation uses and publishes.
func usualHeaders(name string) RequestHeaders {
	return RequestHeaders{
		AllowedNames: []string{name}, UsernameHeaders: []string{"X-Remote-User"}, UIDHeaders: []string{"X-Remote-Uid"},
		GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"},
	}
}

// proxied is the user that a front proxy names; false if the caller is no front proxy or
// names nobody. The headers are taken out of the request in any case: nobody else's word counts.
func (a *Access) proxied(r *http.Request) (registry.User, bool) {
	h := &a.cfg.RequestHeaders
	u := registry.User{Name: firstHeader(r.Header, h.UsernameHeaders)}
	if u.Name == "" {
		return u, false
	}
	leaf := r.TLS.PeerCertificates[0]
	if a.cfg.Keys.VerifyFrontProxy(r.TLS.PeerCertificates) != nil ||
		len(h.AllowedNames) > 0 && !slices.Contains(h.AllowedNames, leaf.Subject.CommonName) {
		return u, false
	}
	u.UID = firstHeader(r.Header, h.UIDHeaders)
	for _, name := range h.GroupHeaders {
		u.Groups = append(u.Groups, r.Header.Values(name)...)
	}
	u.Extra = proxiedExtra(r.Header, h.ExtraPrefixes)
	for _, name := range slices.Concat(h.UsernameHeaders, h.UIDHeaders, h.GroupHeaders) {
		r.Header.Del(name)
	}
	for name := range r.Header {
		if _, is := extraKey(name, h.ExtraPrefixes); is {
			r.Header.Del(name)
		}
	}
	if slices.Contains(u.Groups, "system:unauthenticated") {
		return u, true
	}
	return authenticated(u), true
}

func firstHeader(h http.Header, names []string) string {
	for _, n := range names {
		if v := h.Get(n); v != "" {
			return v
		}
	}
	return ""
}

// extraKey is the key in the name of a header that begins with a prefix.
func extraKey(name string, prefixes []string) (string, bool) {
	for _, p := range prefixes {
		if len(name) > len(p) && strings.EqualFold(name[:len(p)], p) {
			key := strings.ToLower(name[len(p):])
			if dec, err := url.PathUnescape(key); err == nil {
				key = dec
			}
			return key, true
		}
	}
	return "", false
}

func proxiedExtra(h http.Header, prefixes []string) map[string][]string {
	var out map[string][]string
	for name, values := range h {
		if key, is := extraKey(name, prefixes); is {
			if out == nil {
				out = map[string][]string{}
			}
			out[key] = append(out[key], values...)
		}
	}
	return out
}
