package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// legacyIssuer is that of tokens kept in secrets; they do not run out.
const legacyIssuer = "kubernetes/serviceaccount"

// Labels of the secrets of legacy tokens, upstream's.
const (
	LegacyLastUsed     = "kubernetes.io/legacy-token-last-used"
	legacyInvalidSince = "kubernetes.io/legacy-token-invalid-since"
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
		cache: cfg.Cache, now: cfg.Now, known: newBounded[[32]byte, claims](4096), used: make(chan LegacyUse, 64),
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
	u, err := t.live(c)
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
func (t *tokens) live(c claims) (registry.User, error) {
	b := c.Bound
	if c.Issuer == legacyIssuer {
		b = boundTo{Namespace: c.Namespace, Account: named{c.Account, c.AccountUID}}
	}
	if c.Subject != serviceAccountUser(b.Namespace, b.Account.Name) {
		return registry.User{}, errors.New("sub claim does not match the service account")
	}
	sa := client.Cached(t.cache, api.ServiceAccounts, b.Namespace, b.Account.Name)
	if sa == nil || string(sa.UID) != b.Account.UID {
		return registry.User{}, errors.New("service account UID does not match or it is gone")
	}
	extra := map[string][]string{}
	if c.ID != "" {
		extra[credentialID] = []string{"JTI=" + c.ID}
	}
	if c.Issuer == legacyIssuer {
		s := client.Cached(t.cache, api.Secrets, c.Namespace, c.SecretName)
		if s == nil || s.DeletionTimestamp != nil || string(s.Data["token"]) == "" {
			return registry.User{}, errors.New("token has been invalidated")
		}
		if s.Labels[legacyInvalidSince] != "" {
			return registry.User{}, fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
				c.Namespace, c.SecretName, c.Namespace, c.Account, legacyInvalidSince)
		}
		if s.Labels[LegacyLastUsed] != t.now().UTC().Format(time.DateOnly) {
			select {
			case t.used <- LegacyUse{c.Namespace, c.SecretName}:
			default: // the next use tells it
			}
		}
	}
	if err := t.boundLive(b, extra); err != nil {
		return registry.User{}, err
	}
	return registry.User{Name: c.Subject, UID: string(sa.UID), Groups: serviceAccountGroups(b.Namespace), Extra: extra}, nil
}

func (t *tokens) boundLive(b boundTo, extra map[string][]string) error {
	gone := errors.New("service account token has been invalidated")
	if b.Secret != nil {
		if s := client.Cached(t.cache, api.Secrets, b.Namespace, b.Secret.Name); s == nil || string(s.UID) != b.Secret.UID {
			return gone
		}
	}
	if b.Pod != nil {
		p := client.Cached(t.cache, api.Pods, b.Namespace, b.Pod.Name)
		if p == nil || string(p.UID) != b.Pod.UID {
			return gone
		}
		if p.DeletionTimestamp != nil && t.now().After(p.DeletionTimestamp.Add(deletedLeeway)) {
			return gone
		}
		extra["authentication.kubernetes.io/pod-name"] = []string{b.Pod.Name}
		extra["authentication.kubernetes.io/pod-uid"] = []string{b.Pod.UID}
	}
	if b.Node != nil {
		// A token bound to a pod names its node for information only.
		if b.Pod == nil {
			if n := client.Cached(t.cache, api.Nodes, "", b.Node.Name); n == nil || string(n.UID) != b.Node.UID {
				return gone
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
