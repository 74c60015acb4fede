package issuer

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/google/cel-go/common/types/ref"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"orch/server/access/condition"
	"orch/server/registry"
)

// credentialID is the extra under which users learn which credential they used.
const credentialID = "authentication.kubernetes.io/credential-id"

// rules are the compiled expressions of one issuer; nil where it has none.
type rules struct {
	username, groups, uid *condition.Program
	extra                 []*condition.Program
	claims, users         []*condition.Program // nil where the rule has no expression
}

func compile(j *configv1.JWTAuthenticator) (*rules, error) {
	claims, users := &condition.Compiler{Variable: "claims"}, &condition.Compiler{Variable: "user"}
	m := &j.ClaimMappings
	r := &rules{
		username: claims.Compile("claimMappings.username.expression", m.Username.Expression, condition.Any),
		groups:   claims.Compile("claimMappings.groups.expression", m.Groups.Expression, condition.Any),
		uid:      claims.Compile("claimMappings.uid.expression", m.UID.Expression, condition.Any),
	}
	for i, x := range m.Extra {
		r.extra = append(r.extra, claims.Compile(fmt.Sprintf("claimMappings.extra[%d].valueExpression", i), x.ValueExpression, condition.Any))
	}
	for i, v := range j.ClaimValidationRules {
		r.claims = append(r.claims, claims.Compile(fmt.Sprintf("claimValidationRules[%d].expression", i), v.Expression, condition.Bool))
	}
	for i, v := range j.UserValidationRules {
		r.users = append(r.users, users.Compile(fmt.Sprintf("userValidationRules[%d].expression", i), v.Expression, condition.Bool))
	}
	return r, errors.Join(claims.Err(), users.Err())
}

// user goes from claims to a user, in upstream's order: username, groups, uid, extra,
// then the rules about claims, then those about the user.
func (r *rules) user(ctx context.Context, cfg *configv1.JWTAuthenticator, claims map[string]any) (registry.User, error) {
	u := registry.User{Extra: map[string][]string{}}
	var err error
	if u.Name, err = r.name(ctx, cfg, claims); err != nil {
		return u, err
	}
	if u.Groups, err = r.groupsOf(ctx, cfg, claims); err != nil {
		return u, err
	}
	if u.UID, err = r.uidOf(ctx, cfg, claims); err != nil {
		return u, err
	}
	for i, x := range cfg.ClaimMappings.Extra {
		v, err := r.extra[i].Eval(ctx, claims)
		if err != nil {
			return u, fmt.Errorf("oidc: error evaluating extra claim expression: %w", err)
		}
		list, err := listOf(v)
		if err != nil {
			return u, fmt.Errorf("oidc: error evaluating extra claim expression %q: %w", x.ValueExpression, err)
		}
		if len(list) > 0 {
			u.Extra[x.Key] = list
		}
	}
	if id, ok := claims["jti"].(string); ok && id != "" {
		u.Extra[credentialID] = []string{"JTI=" + id}
	}
	if err := r.checkClaims(ctx, cfg, claims); err != nil {
		return u, err
	}
	return u, r.checkUser(ctx, cfg, &u)
}

func (r *rules) name(ctx context.Context, cfg *configv1.JWTAuthenticator, claims map[string]any) (string, error) {
	m := cfg.ClaimMappings.Username
	if r.username != nil {
		v, err := r.username.Eval(ctx, claims)
		if err != nil {
			return "", fmt.Errorf("oidc: error evaluating username claim expression: %w", err)
		}
		s, ok := v.Value().(string)
		switch {
		case !ok:
			return "", errors.New("oidc: error evaluating username claim expression: username claim expression must return a string")
		case s == "":
			return "", errors.New("oidc: empty username via CEL expression is not allowed")
		}
		return s, nil
	}
	s, ok := claims[m.Claim].(string)
	if !ok {
		return "", fmt.Errorf("oidc: parse username claims %q: claim not present", m.Claim)
	}
	if m.Claim == "email" {
		// Where the provider says whether an address is verified, it must be.
		if verified, there := claims["email_verified"]; there && verified != true {
			return "", errors.New("oidc: email not verified")
		}
	}
	return *m.Prefix + s, nil
}

func (r *rules) groupsOf(ctx context.Context, cfg *configv1.JWTAuthenticator, claims map[string]any) ([]string, error) {
	m := cfg.ClaimMappings.Groups
	if r.groups != nil {
		v, err := r.groups.Eval(ctx, claims)
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating group claim expression: %w", err)
		}
		list, err := listOf(v)
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating group claim expression: %w", err)
		}
		return list, nil
	}
	v, there := claims[m.Claim]
	if m.Claim == "" || !there || v == nil {
		return nil, nil
	}
	list := texts(v)
	if all, isList := v.([]any); list == nil && !(isList && len(all) == 0) || isList && len(all) != len(list) {
		return nil, fmt.Errorf("oidc: parse groups claim %q: it is neither a string nor a list of strings", m.Claim)
	}
	for i := range list {
		list[i] = *m.Prefix + list[i]
	}
	return list, nil
}

func (r *rules) uidOf(ctx context.Context, cfg *configv1.JWTAuthenticator, claims map[string]any) (string, error) {
	m := cfg.ClaimMappings.UID
	if r.uid != nil {
		v, err := r.uid.Eval(ctx, claims)
		if err != nil {
			return "", fmt.Errorf("oidc: error evaluating uid claim expression: %w", err)
		}
		s, ok := v.Value().(string)
		if !ok {
			return "", errors.New("oidc: error evaluating uid claim expression: uid claim expression must return a string")
		}
		return s, nil
	}
	if m.Claim == "" {
		return "", nil
	}
	s, ok := claims[m.Claim].(string)
	if !ok {
		return "", fmt.Errorf("oidc: parse uid claims %q: claim not present", m.Claim)
	}
	return s, nil
}

func (r *rules) checkClaims(ctx context.Context, cfg *configv1.JWTAuthenticator, claims map[string]any) error {
	for i, rule := range cfg.ClaimValidationRules {
		if r.claims[i] == nil {
			v, there := claims[rule.Claim]
			if !there {
				return fmt.Errorf("oidc: required claim %s not present in ID token", rule.Claim)
			}
			if v != rule.RequiredValue {
				return fmt.Errorf("oidc: required claim %s value does not match. Got = %v, want = %s", rule.Claim, v, rule.RequiredValue)
			}
			continue
		}
		if err := holds(ctx, r.claims[i], claims, rule.Message); err != nil {
			return fmt.Errorf("oidc: error evaluating claim validation expression: %w", err)
		}
	}
	return nil
}

func (r *rules) checkUser(ctx context.Context, cfg *configv1.JWTAuthenticator, u *registry.User) error {
	if len(r.users) == 0 {
		return nil
	}
	groups := u.Groups
	if groups == nil {
		groups = []string{}
	}
	v := map[string]any{"username": u.Name, "uid": u.UID, "groups": groups, "extra": u.Extra}
	for i, rule := range cfg.UserValidationRules {
		if err := holds(ctx, r.users[i], v, rule.Message); err != nil {
			return fmt.Errorf("oidc: error evaluating user info validation rule: %w", err)
		}
	}
	return nil
}

func holds(ctx context.Context, p *condition.Program, v any, message string) error {
	if yes, err := p.True(ctx, v); err != nil || yes {
		return err
	}
	if message == "" {
		message = "expression returned false"
	}
	return fmt.Errorf("validation expression failed: %s", message)
}

// listOf reads what an expression for groups or extra gives: null, a text or a list of texts.
func listOf(v ref.Val) ([]string, error) {
	switch x := v.Value().(type) {
	case string:
		if x == "" {
			return nil, nil
		}
		return []string{x}, nil
	case nil:
		return nil, nil
	}
	if v.Type().TypeName() == "null_type" {
		return nil, nil
	}
	n, err := v.ConvertToNative(reflect.TypeFor[[]string]())
	if err != nil {
		return nil, errors.New("expression must return a string or a list of strings")
	}
	var out []string
	for _, s := range n.([]string) {
		if s != "" {
			out = append(out, s)
		}
	}
	return out, nil
}
