package document

import (
	"strings"

	"orch/api"
)

// groupWord is the group in operation ids: rbac.authorization.k8s.io is RbacAuthorization.
func groupWord(group string) string {
	if group == "" {
		return "Core"
	}
	var b strings.Builder
	for _, part := range strings.Split(strings.TrimSuffix(group, ".k8s.io"), ".") {
		b.WriteString(title(part))
	}
	return b.String()
}

func tag(f *api.Facts) string { return lowerFirst(groupWord(f.Group)) + "_" + f.Version }

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// article puts the indefinite article in front of a kind.
func article(kind string) string {
	if strings.ContainsAny(kind[:1], "AEIOU") {
		return "an " + kind
	}
	return "a " + kind
}
