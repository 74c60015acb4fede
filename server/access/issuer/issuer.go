// Package issuer takes the tokens of identity providers for users: OpenID Connect as the
// --oidc-* flags and the AuthenticationConfiguration of apiserver.config.k8s.io/v1 have
// it. It owns the configuration's meaning, the providers' keys, and the way from claims
// to a user, by names or by CEL. It refuses to know anything else that authenticates.
//
// Start reading at Set.Verify; config.go checks configurations, keys.go fetches keys,
// claims.go maps.
package issuer

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"orch/server/registry"
)

// maxToken bounds what is looked at.
const maxToken = 64 << 10

// allAlgorithms are those of a structured configuration; flags choose their own.
var allAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512}

// Set is the issuers of one configuration. It does not change.
type Set struct {
	byURL map[string]*issuer
	now   func() time.Time
}

type issuer struct {
	cfg        *configv1.JWTAuthenticator
	algorithms []jose.SignatureAlgorithm
	keys       *keySet
	rules      *rules
}

// New compiles a configuration that has been validated. Nothing is fetched before the
// first token comes. algorithms empty is all.
func New(c *configv1.AuthenticationConfiguration, algorithms []string, now func() time.Time) (*Set, error) {
	s := &Set{byURL: map[string]*issuer{}, now: now}
	algs := allAlgorithms
	if len(algorithms) > 0 {
		algs = nil
		for _, a := range algorithms {
			if !slices.Contains(allAlgorithms, jose.SignatureAlgorithm(a)) {
				return nil, fmt.Errorf("unsupported signing alg: %q", a)
			}
			algs = append(algs, jose.SignatureAlgorithm(a))
		}
	}
	for i := range c.JWT {
		j := &c.JWT[i]
		r, err := compile(j)
		if err != nil {
			return nil, fmt.Errorf("jwt[%d].%w", i, err)
		}
		keys, err := newKeySet(&j.Issuer, now)
		if err != nil {
			return nil, fmt.Errorf("jwt[%d].issuer: %w", i, err)
		}
		s.byURL[j.Issuer.URL] = &issuer{cfg: j, algorithms: algs, keys: keys, rules: r}
	}
	return s, nil
}

// Verify makes a user of a token. ok is false for tokens of nobody in the set; an error
// is the reason why a token of one of them is not taken.
func (s *Set) Verify(ctx context.Context, token string) (u registry.User, ok bool, err error) {
	if s == nil || len(s.byURL) == 0 || len(token) > maxToken || strings.Count(token, ".") != 2 {
		return u, false, nil
	}
	is := s.byURL[issuerOf(token)]
	if is == nil {
		return u, false, nil
	}
	claims, err := is.verified(ctx, token)
	if err != nil {
		return u, true, err
	}
	if err := is.timely(claims, s.now()); err != nil {
		return u, true, err
	}
	u, err = is.rules.user(ctx, is.cfg, claims)
	return u, true, err
}

// issuerOf reads who says to have made a token; nothing is believed yet.
func issuerOf(token string) string {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return ""
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(raw, &c) != nil {
		return ""
	}
	return c.Issuer
}

// verified checks the signature and gives the claims.
func (is *issuer) verified(ctx context.Context, token string) (map[string]any, error) {
	sig, err := jose.ParseSigned(token, is.algorithms)
	if err != nil {
		return nil, errors.New("oidc: verify token: malformed jwt or an algorithm that is not allowed")
	}
	raw, err := is.keys.verify(ctx, sig)
	if err != nil {
		return nil, fmt.Errorf("oidc: verify token: %w", err)
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		return nil, errors.New("oidc: parse claims: the payload is no JSON object")
	}
	return claims, nil
}

// timely checks audience and times.
func (is *issuer) timely(claims map[string]any, now time.Time) error {
	if claims["iss"] != is.cfg.Issuer.URL {
		return errors.New("oidc: verify token: issued by another issuer")
	}
	if !slices.ContainsFunc(texts(claims["aud"]), func(a string) bool { return slices.Contains(is.cfg.Issuer.Audiences, a) }) {
		return fmt.Errorf("oidc: verify token: expected audience in %q got %q", is.cfg.Issuer.Audiences, texts(claims["aud"]))
	}
	exp, ok := claims["exp"].(float64)
	if !ok || !now.Before(time.Unix(int64(exp), 0)) {
		return errors.New("oidc: verify token: oidc: token is expired")
	}
	// As upstream's library: clocks may differ by five minutes.
	if nbf, ok := claims["nbf"].(float64); ok && now.Add(5*time.Minute).Before(time.Unix(int64(nbf), 0)) {
		return errors.New("oidc: verify token: oidc: current time is before the nbf (not before) time")
	}
	return nil
}

// texts reads a claim that is a text or a list of them.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}
