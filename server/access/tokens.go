package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// legacyIssuer is that of tokens kept in secrets; they do not run out.
const legacyIssuer = "kubernetes/serviceaccount"

// Labels of the secrets of legacy tokens, upstream's.
const (
	LegacyLastUsed     = "kubernetes.io/legacy-token-last-used"
	LegacyInvalidSince = "kubernetes.io/legacy-token-invalid-since"
)

// LegacyUse names the secret of a legacy token that somebody has shown.
type LegacyUse struct{ Namespace, Secret string }

// LegacyUses tells of legacy tokens that are used for the first time on a day.
func (a *Access) LegacyUses() <-chan LegacyUse { return a.tokens.used }

// deletedLeeway is how long the token of a pod under deletion still works, so
// that its last words get through.
const deletedLeeway = 60 * time.Second

// written is no later than any right clock.
var written = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// tokens issues and verifies service account tokens.
type tokens struct {
	issuer    string
	audiences []string
	key       *ecdsa.PrivateKey
	keyID     string
	signer    jose.Signer
	cache     client.Cache
	now       func() time.Time
	// used tells of legacy tokens whose use today is not noted yet; when it is full the next use tells.
	used chan LegacyUse
	// known are tokens whose signature was checked; everything else is checked each time.
	known *bounded[[32]byte, claims]
	uses  *uses
}

// claims of a token. The kubernetes.io part binds it to objects that must live.
type claims struct {
	jwt.Claims
	Bound boundTo `json:"kubernetes.io,omitzero"`

	// Legacy tokens say the same in these.
	Namespace  string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	SecretName string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	Account    string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	AccountUID string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

type boundTo struct {
	Namespace string           `json:"namespace,omitempty"`
	Account   named            `json:"serviceaccount,omitzero"`
	Pod       *named           `json:"pod,omitempty"`
	Secret    *named           `json:"secret,omitempty"`
	Node      *named           `json:"node,omitempty"`
	WarnAfter *jwt.NumericDate `json:"warnafter,omitempty"`
}

type named struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

func newTokens(cfg Config) (*tokens, error) {
	key := cfg.Keys.ServiceKey()
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("setting up service account tokens: %w", err)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(jose.ES256), Use: "sig"}}, nil)
	if err != nil {
		return nil, fmt.Errorf("setting up service account tokens: %w", err)
	}
	return &tokens{
		issuer: cfg.Issuer, audiences: cfg.Audiences, key: key, keyID: id, signer: signer,
		cache: cfg.Cache, now: cfg.Now, known: newBounded[[32]byte, claims](4096), uses: newUses(), used: make(chan LegacyUse, 64),
	}, nil
}

// keyID is the hash of the public key, as upstream names keys.
func keyID(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(h[:]), nil
}

func (t *tokens) sign(c claims) (string, error) {
	return jwt.Signed(t.signer).Claims(c).Serialize()
}

// verified is what a good token says.
type verified struct {
	user      registry.User
	audiences []string
}

// verify checks a token for one of the audiences (nil: the server's own).
func (t *tokens) verify(token string, audiences []string) (verified, error) {
	c, err := t.parse(token)
	if err != nil {
		return verified{}, err
	}
	now := t.now()
	if c.Expiry != nil && now.After(c.Expiry.Time()) {
		return verified{}, errors.New("service account token has expired")
	}
	// A clock from before this program was written is not set yet: boards without a
	// battery wake so, and their pods must get on.
	if c.NotBefore != nil && !now.Before(written) && now.Before(c.NotBefore.Time().Add(-time.Minute)) {
		return verified{}, errors.New("service account token is not valid yet")
	}
	if len(audiences) == 0 {
		audiences = t.audiences
	}
	var has []string
	if c.Issuer == legacyIssuer {
		has = t.audiences
	} else {
		has = c.Audience
	}
	both := slices.DeleteFunc(slices.Clone(audiences), func(a string) bool { return !slices.Contains(has, a) })
	if len(both) == 0 {
		return verified{}, fmt.Errorf("token audiences %q is invalid for the target audiences %q", has, audiences)
	}
	u, err := t.live(c, token)
	return verified{user: u, audiences: both}, err
}

// parse checks form, issuer and signature.
func (t *tokens) parse(token string) (claims, error) {
	if len(token) > 16<<10 || strings.Count(token, ".") != 2 {
		return claims{}, errNotValid
	}
	id := sha256.Sum256([]byte(token))
	if c, ok := t.known.get(id); ok {
		return c, nil
	}
	tok, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return claims{}, errNotValid
	}
	var c claims
	if err := tok.Claims(&t.key.PublicKey, &c); err != nil {
		return claims{}, errNotValid
	}
	if c.Issuer != t.issuer && c.Issuer != legacyIssuer {
		return claims{}, errNotValid
	}
	if c.Issuer == t.issuer && c.Expiry == nil {
		return claims{}, errors.New("token has no expiry")
	}
	t.known.put(id, c)
	return c, nil
}

// live checks that what the token is bound to still exists and makes the user.
func (t *tokens) live(c claims, token string) (registry.User, error) {
	b := c.Bound
	if c.Issuer == legacyIssuer {
		b = boundTo{Namespace: c.Namespace, Account: named{c.Account, c.AccountUID}}
	}
	if c.Subject != serviceAccountUser(b.Namespace, b.Account.Name) {
		return registry.User{}, errors.New("sub claim is invalid")
	}
	sa, err := t.account(b)
	if err != nil {
		return registry.User{}, err
	}
	extra := map[string][]string{}
	if c.ID != "" {
		extra[credentialID] = []string{"JTI=" + c.ID}
	}
	var tell *registry.Credential
	if c.Issuer == legacyIssuer {
		if tell, err = t.legacy(c, token, sa); err != nil {
			return registry.User{}, err
		}
		t.uses.legacy.Add(1)
	} else if b.WarnAfter != nil && !t.now().After(b.WarnAfter.Time()) {
		t.uses.valid.Add(1)
	} else if b.WarnAfter != nil {
		t.uses.stale.Add(1)
		tell = &registry.Credential{Notes: map[string]string{"authentication.k8s.io/stale-token": fmt.Sprintf(
			"subject: %s, seconds after warning threshold: %d", c.Subject, t.now().Unix()-b.WarnAfter.Time().Unix())}}
	}
	if err := t.boundLive(b, extra); err != nil {
		return registry.User{}, err
	}
	return registry.User{Name: c.Subject, UID: string(sa.UID), Groups: serviceAccountGroups(b.Namespace), Extra: extra, Credential: tell}, nil
}

// account is the service account of a token, as it is now.
func (t *tokens) account(b boundTo) (*core.ServiceAccount, error) {
	sa := client.Cached(t.cache, api.ServiceAccounts, b.Namespace, b.Account.Name)
	switch {
	case sa == nil:
		return nil, fmt.Errorf("serviceaccounts %q not found", b.Account.Name)
	case string(sa.UID) != b.Account.UID:
		return nil, fmt.Errorf("service account UID (%s) does not match claim (%s)", sa.UID, b.Account.UID)
	case t.deleted(sa):
		return nil, fmt.Errorf("service account %s/%s has been deleted", b.Namespace, b.Account.Name)
	}
	return sa, nil
}

// deleted tells that an object was deleted long enough ago for its tokens to be over.
func (t *tokens) deleted(o api.Object) bool {
	d := o.GetDeletionTimestamp()
	return d != nil && t.now().After(d.Add(deletedLeeway))
}

// legacy checks the secret of a legacy token, and gives what its user is to be told.
func (t *tokens) legacy(c claims, token string, sa *core.ServiceAccount) (*registry.Credential, error) {
	s := client.Cached(t.cache, api.Secrets, c.Namespace, c.SecretName)
	if s == nil || s.DeletionTimestamp != nil {
		return nil, errors.New("Token has been invalidated") //nolint:staticcheck // upstream's text
	}
	if subtle.ConstantTimeCompare(s.Data[core.ServiceAccountTokenKey], []byte(token)) == 0 {
		return nil, errors.New("Token does not match server's copy") //nolint:staticcheck // upstream's text
	}
	now := t.now().UTC()
	if used := s.Labels[LegacyLastUsed]; used != now.Format(time.DateOnly) && used != now.AddDate(0, 0, 1).Format(time.DateOnly) {
		select {
		case t.used <- LegacyUse{c.Namespace, c.SecretName}:
		default: // the next use tells it
		}
	}
	if s.Labels[LegacyInvalidSince] != "" {
		t.uses.invalid.Add(1)
		return nil, fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			c.Namespace, c.SecretName, c.Namespace, c.Account, LegacyInvalidSince)
	}
	if !slices.ContainsFunc(sa.Secrets, func(r core.ObjectReference) bool { return r.Name == s.Name }) {
		t.uses.manual.Add(1)
		return &registry.Credential{Notes: map[string]string{"authentication.k8s.io/legacy-token-manual-secret": s.Name}}, nil
	}
	t.uses.auto.Add(1)
	return &registry.Credential{
		Warning: "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.",
		Notes:   map[string]string{"authentication.k8s.io/legacy-token-autogenerated-secret": s.Name},
	}, nil
}

func (t *tokens) boundLive(b boundTo, extra map[string][]string) error {
	gone := errors.New("service account token has been invalidated")
	if b.Secret != nil {
		s := client.Cached(t.cache, api.Secrets, b.Namespace, b.Secret.Name)
		if s == nil || t.deleted(s) {
			return gone
		}
		if string(s.UID) != b.Secret.UID {
			return fmt.Errorf("secret UID (%s) does not match service account secret ref claim (%s)", s.UID, b.Secret.UID)
		}
	}
	if b.Pod != nil {
		p := client.Cached(t.cache, api.Pods, b.Namespace, b.Pod.Name)
		if p == nil || t.deleted(p) {
			return gone
		}
		if string(p.UID) != b.Pod.UID {
			return fmt.Errorf("pod UID (%s) does not match service account pod ref claim (%s)", p.UID, b.Pod.UID)
		}
		extra["authentication.kubernetes.io/pod-name"] = []string{b.Pod.Name}
		extra["authentication.kubernetes.io/pod-uid"] = []string{b.Pod.UID}
	}
	if b.Node != nil {
		// A token bound to a pod names its node for information only.
		if b.Pod == nil {
			n := client.Cached(t.cache, api.Nodes, "", b.Node.Name)
			if n == nil || t.deleted(n) {
				return gone
			}
			if string(n.UID) != b.Node.UID {
				return fmt.Errorf("node UID (%s) does not match service account node ref claim (%s)", n.UID, b.Node.UID)
			}
		}
		extra["authentication.kubernetes.io/node-name"] = []string{b.Node.Name}
		extra["authentication.kubernetes.io/node-uid"] = []string{b.Node.UID}
	}
	return nil
}

// Legacy makes the token of a secret of type kubernetes.io/service-account-token.
func (a *Access) Legacy(namespace, account, accountUID, secret string) (string, error) {
	return a.tokens.sign(claims{
		Claims:    jwt.Claims{Issuer: legacyIssuer, Subject: serviceAccountUser(namespace, account)},
		Namespace: namespace, SecretName: secret, Account: account, AccountUID: accountUID,
	})
}
