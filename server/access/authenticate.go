package access

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"orch/api"
	"orch/server/registry"
)

// credentialID is the extra under which users learn which credential they used.
const credentialID = "authentication.kubernetes.io/credential-id"

// knownCert is a client certificate that was verified before.
type knownCert struct {
	user  registry.User
	until time.Time
}

// Authenticate tells who makes the request: a front proxy's word, a client certificate,
// a bearer token, else nobody (system:anonymous), where that is allowed; then whom they
// act as. The first credential that is good counts; one that is there but wrong is an
// error if no other is good, never anonymous. It takes the credentials and impersonation
// headers out of r. With an error that is no 401 comes who was refused.
func (a *Access) Authenticate(r *http.Request) (registry.User, bool, error) {
	u, err := a.identify(r)
	if err != nil {
		return registry.User{}, false, err
	}
	r.Header.Del("Authorization")
	u, err = a.impersonate(r, u)
	return u, err == nil, err
}

func (a *Access) identify(r *http.Request) (registry.User, error) {
	shown := false
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		if u, ok := a.proxied(r); ok {
			return u, nil
		}
		if u, ok := a.certificate(r); ok {
			return u, nil
		}
		shown = true
	}
	if token, ok := bearer(r); ok {
		if u, _, err := a.byToken(r.Context(), token, nil); err == nil {
			return authenticated(u), nil
		}
		shown = true
	}
	if shown || !a.anonymousMay(r.URL.Path) {
		return registry.User{}, unauthorized()
	}
	return Anonymous(), nil
}

// byToken asks everybody who knows tokens, in upstream's order. An error is the
// collection of what was wrong with it.
func (a *Access) byToken(ctx context.Context, token string, audiences []string) (registry.User, []string, error) {
	v, err := a.tokens.verify(token, audiences)
	if err == nil {
		return v.user, v.audiences, nil
	}
	errs := []error{err}
	// The others know no audiences but the server's own.
	own := intersect(audiences, a.tokens.audiences)
	if len(audiences) > 0 && len(own) == 0 {
		return registry.User{}, nil, tokenError(errs)
	}
	for _, try := range []func(context.Context, string) (registry.User, bool, error){a.bootstrapToken, a.oidc, a.tokenHook} {
		u, known, err := try(ctx, token)
		if known && err == nil {
			return u, own, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return registry.User{}, nil, tokenError(errs)
}

// tokenError is what is wrong with a token, without those who do not know it at all.
func tokenError(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == errNotValid })
	if len(errs) == 0 {
		return errNotValid
	}
	return errors.Join(errs...)
}

func intersect(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}

func (a *Access) oidc(ctx context.Context, token string) (registry.User, bool, error) {
	return a.settings.Load().issuers.Verify(ctx, token)
}

// anonymousMay tells whether a path may be asked for without a credential. Without a
// word of the user's only health may: what is open is open to the whole network.
func (a *Access) anonymousMay(path string) bool {
	an := a.settings.Load().anonymous
	switch {
	case an == nil:
		return healthPath(path)
	case !an.Enabled:
		return false
	case len(an.Conditions) == 0:
		return true
	}
	return slices.ContainsFunc(an.Conditions, func(c configv1.AnonymousAuthCondition) bool { return c.Path == path })
}

func healthPath(path string) bool {
	for _, p := range []string{"/healthz", "/livez", "/readyz"} {
		if rest, ok := strings.CutPrefix(path, p); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// Anonymous is who sends no credential.
func Anonymous() registry.User {
	return registry.User{Name: api.UserAnonymous, Groups: []string{api.GroupUnauthenticated}}
}

// unauthorized has upstream's bare text: it does not say what is wrong with a credential.
func unauthorized() error { return apierrors.NewUnauthorized("Unauthorized") }

func bearer(r *http.Request) (string, bool) {
	h := strings.TrimSpace(r.Header.Get("Authorization"))
	scheme, token, _ := strings.Cut(h, " ")
	if strings.EqualFold(scheme, "bearer") {
		token = strings.TrimSpace(token)
		return token, token != ""
	}
	return websocketBearer(r)
}

// uidName is the attribute of a subject that carries a user's UID, upstream's.
var uidName = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}

func (a *Access) certificate(r *http.Request) (registry.User, bool) {
	leaf := r.TLS.PeerCertificates[0]
	id := sha256.Sum256(leaf.Raw)
	now := a.cfg.Now()
	if k, ok := a.certs.get(id); ok {
		if now.Before(k.until) {
			return k.user, true
		}
		a.certs.drop(id)
	}
	if err := a.cfg.Keys.VerifyClient(r.TLS.PeerCertificates); err != nil || leaf.Subject.CommonName == "" {
		return registry.User{}, false
	}
	uid, ok := subjectUID(leaf)
	if !ok {
		return registry.User{}, false
	}
	u := authenticated(registry.User{
		Name: leaf.Subject.CommonName, UID: uid, Groups: leaf.Subject.Organization,
		Extra: map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(id[:])}},
	})
	a.certs.put(id, knownCert{user: u, until: leaf.NotAfter})
	return u, true
}

// subjectUID reads the UID of a subject; false if it has several or one that is no text.
func subjectUID(c *x509.Certificate) (uid string, ok bool) {
	for _, n := range c.Subject.Names {
		if !n.Type.Equal(uidName) {
			continue
		}
		s, isText := n.Value.(string)
		if !isText || s == "" || uid != "" {
			return "", false
		}
		uid = s
	}
	return uid, true
}

// authenticated adds the group of everybody who has shown a credential.
func authenticated(u registry.User) registry.User {
	if !slices.Contains(u.Groups, api.GroupAuthenticated) {
		u.Groups = append(slices.Clip(slices.Clone(u.Groups)), api.GroupAuthenticated)
	}
	return u
}

func serviceAccountUser(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// serviceAccountOf splits the user name of a service account.
func serviceAccountOf(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, ":")
}

func serviceAccountGroups(namespace string) []string {
	return []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}
}

// errNotValid is the cause given for tokens that no authenticator knows.
var errNotValid = fmt.Errorf("invalid bearer token")
