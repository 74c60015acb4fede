package join

import (
	"strings"
	"testing"
)

// FuzzToken: a token is refused, or holds a secret.
func FuzzToken(f *testing.F) {
	f.Add("K10" + strings.Repeat("a1", 32) + "::node:secret")
	f.Add("abcdef.0123456789abcdef")
	f.Add("K10x::y")
	f.Fuzz(func(t *testing.T, s string) {
		if token, err := ParseToken(s); err == nil && token.Secret == "" {
			t.Errorf("%q gave %+v", s, token)
		}
		if u, err := parseURL(s); err == nil && (u.Scheme != "https" || u.Host == "") {
			t.Errorf("%q gave %v", s, u)
		}
	})
}
