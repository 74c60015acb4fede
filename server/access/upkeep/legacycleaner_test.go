package upkeep

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/server/access"
)

func TestLegacyStep(t *testing.T) {
	now := time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		since, used, marked string
		born                time.Time
		want                legacyAction
	}{
		"tracked for too short a time":    {since: "2029-07-01", want: legacyKeep},
		"never used since tracking began": {since: "2028-01-01", want: legacyMark},
		"used lately":                     {since: "2028-01-01", used: "2029-12-01", want: legacyKeep},
		"used long ago":                   {since: "2028-01-01", used: "2029-05-01", want: legacyMark},
		"used, but when":                  {since: "2028-01-01", used: "yesterday", want: legacyKeep},
		"young":                           {since: "2028-01-01", born: now.AddDate(0, -1, 0), want: legacyKeep},
		"marked lately":                   {since: "2027-01-01", used: "2028-01-01", marked: "2029-12-01", want: legacyKeep},
		"marked long ago":                 {since: "2027-01-01", used: "2028-01-01", marked: "2029-05-01", want: legacyDelete},
		"marked by a word":                {since: "2027-01-01", used: "2028-01-01", marked: "x", want: legacyMark},
		"used after the mark":             {since: "2027-01-01", used: "2030-05-01", marked: "2029-05-01", want: legacyKeep},
		"no day of tracking":              {want: legacyKeep},
	} {
		s := &core.Secret{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(tc.born), Labels: map[string]string{}}}
		for k, v := range map[string]string{access.LegacyLastUsed: tc.used, access.LegacyInvalidSince: tc.marked} {
			if v != "" {
				s.Labels[k] = v
			}
		}
		if got, wait := legacyStep(s, tc.since, now); got != tc.want || got == legacyKeep && wait <= 0 {
			t.Errorf("%s: %v %v, want %v", name, got, wait, tc.want)
		}
	}
}
