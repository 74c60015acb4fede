package access

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

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

// Authenticate tells who makes the request: a client certificate, else a bearer
// token, else nobody (system:anonymous); then whom they act as. A credential that
// is there but wrong is an error, never anonymous. It takes the credentials and
// impersonation headers out of r.
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
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return a.certificate(r)
	}
	token, ok := bearer(r)
	if !ok {
		return Anonymous(), nil
	}
	v, err := a.tokens.verify(token, nil)
	if err != nil {
		return registry.User{}, unauthorized()
	}
	return authenticated(v.user), nil
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

func (a *Access) certificate(r *http.Request) (registry.User, error) {
	leaf := r.TLS.PeerCertificates[0]
	id := sha256.Sum256(leaf.Raw)
	now := a.cfg.Now()
	if k, ok := a.certs.get(id); ok {
		if now.Before(k.until) {
			return k.user, nil
		}
		a.certs.drop(id)
	}
	if err := a.cfg.Keys.VerifyClient(r.TLS.PeerCertificates); err != nil || leaf.Subject.CommonName == "" {
		return registry.User{}, unauthorized()
	}
	u := authenticated(registry.User{
		Name: leaf.Subject.CommonName, Groups: leaf.Subject.Organization,
		Extra: map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(id[:])}},
	})
	a.certs.put(id, knownCert{user: u, until: leaf.NotAfter})
	return u, nil
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
