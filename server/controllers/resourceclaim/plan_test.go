package resourceclaim

import (
	"strings"
	"testing"
)

func TestNameBase(t *testing.T) {
	for _, tc := range []struct{ name, pod, claim, want string }{
		{"short", "web-0", "gpu", "web-0-gpu-"},
		{"just fits", strings.Repeat("p", 50), "claim", strings.Repeat("p", 50) + "-claim-"},
		{"both give way in proportion", strings.Repeat("p", 100), strings.Repeat("c", 50), strings.Repeat("p", 37) + "-" + strings.Repeat("c", 18)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := nameBase(tc.pod, tc.claim); got != tc.want || len(got) > baseLimit {
				t.Errorf("got %q (%d), want %q", got, len(got), tc.want)
			}
		})
	}
}
