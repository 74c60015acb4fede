package access

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"strings"
	"time"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// Names of bootstrap tokens, upstream's: secrets of kube-system.
const (
	BootstrapPrefix = "bootstrap-token-"
	// BootstrapGroup is that of everybody who logs in with one.
	BootstrapGroup = "system:bootstrappers"
)

var (
	bootstrapTokenForm = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapGroupForm = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

// bootstrapToken knows the tokens of machines that are about to join.
func (a *Access) bootstrapToken(_ context.Context, token string) (registry.User, bool, error) {
	m := bootstrapTokenForm.FindStringSubmatch(token)
	if m == nil {
		return registry.User{}, false, nil
	}
	s := client.Cached(a.cfg.Cache, api.Secrets, api.NamespaceSystem, BootstrapPrefix+m[1])
	if s == nil || !bootstrapGood(s, m[1], m[2], "usage-bootstrap-authentication", a.cfg.Now()) {
		return registry.User{}, false, nil
	}
	groups := []string{BootstrapGroup}
	for g := range strings.SplitSeq(string(s.Data["auth-extra-groups"]), ",") {
		if g == "" {
			continue
		}
		if !bootstrapGroupForm.MatchString(g) {
			return registry.User{}, true, fmt.Errorf("bootstrap group %q is invalid (must match %s)", g, bootstrapGroupForm)
		}
		groups = append(groups, g)
	}
	return registry.User{Name: "system:bootstrap:" + m[1], Groups: groups}, true, nil
}

// bootstrapGood tells whether a secret is the token that somebody shows, and may be used so.
func bootstrapGood(s *core.Secret, id, secret, usage string, now time.Time) bool {
	if s.DeletionTimestamp != nil || s.Type != core.SecretTypeBootstrapToken || string(s.Data["token-id"]) != id || string(s.Data[usage]) != "true" {
		return false
	}
	if subtle.ConstantTimeCompare(s.Data["token-secret"], []byte(secret)) != 1 || len(secret) == 0 {
		return false
	}
	if text := string(s.Data["expiration"]); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		return err == nil && now.Before(at)
	}
	return true
}

// JoinsWith tells whether a bootstrap token lets a node join: one that may authenticate.
func (a *Access) JoinsWith(id, secret string) bool {
	s := client.Cached(a.cfg.Cache, api.Secrets, api.NamespaceSystem, BootstrapPrefix+id)
	return s != nil && bootstrapTokenForm.MatchString(id+"."+secret) && bootstrapGood(s, id, secret, "usage-bootstrap-authentication", a.cfg.Now())
}
