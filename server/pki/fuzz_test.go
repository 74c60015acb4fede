package pki

import (
	"strings"
	"testing"
)

// FuzzToken: a token is refused, or writes itself so that it is read as the same one.
func FuzzToken(f *testing.F) {
	f.Add("K10" + strings.Repeat("a1", 32) + "::server:secret")
	f.Add("K10" + strings.Repeat("A1", 32) + "::abcdef.0123456789abcdef")
	f.Add(" secret\n")
	f.Add("K10::")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			return
		}
		again, err := ParseToken(token.String())
		if err != nil || again != token {
			t.Errorf("%q: %+v became %+v, %v", s, token, again, err)
		}
	})
}
