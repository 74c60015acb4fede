package rest

import (
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestWarningsAreCutAsUpstreamDoes: together they take 4096 runes as they are, else 256 each.
func TestWarningsAreCutAsUpstreamDoes(t *testing.T) {
	for _, tc := range []struct {
		name         string
		texts        []string
		count, first int
	}{
		{"few", []string{"a", "b", "a", ""}, 2, 1},
		{"one long", []string{strings.Repeat("x", 4096)}, 1, 4096},
		{"too long", []string{strings.Repeat("\u00e4", 4097), "b"}, 2, 256},
		{"many", many(40, 300), 16, 256},
	} {
		var c warnings
		for _, s := range tc.texts {
			c.add(s)
		}
		h := http.Header{}
		c.write(h)
		got := h.Values("Warning")
		if len(got) != tc.count || utf8.RuneCountInString(got[0])-len(`299 - ""`) != tc.first {
			t.Errorf("%s: %d warnings, the first %d runes long", tc.name, len(got), utf8.RuneCountInString(got[0])-8)
		}
	}
}

func many(n, long int) (out []string) {
	for i := range n {
		out = append(out, strings.Repeat(string(rune('A'+i)), long))
	}
	return out
}
