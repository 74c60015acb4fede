package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authn "k8s.io/api/authentication/v1"
	authz "k8s.io/api/authorization/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/server/access/issuer"
)

// provider is an OpenID provider on loopback.
type provider struct {
	*httptest.Server
	key  *ecdsa.PrivateKey
	asks atomic.Int32
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{}
	p.newKey(t)
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asks.Add(1)
		switch r.URL.Path {
		case "/.well-known/openid-configuration", "/elsewhere":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL, p.URL+"/keys")
		case "/keys":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &p.key.PublicKey, KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
		default:
			w.WriteHeader(404)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) newKey(t *testing.T) {
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
}

func (p *provider) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
}

// token signs claims; those of a good token are filled in.
func (p *provider) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": p.URL, "aud": "orch", "sub": "s-1", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(s).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// bearing sends a token, and nothing else.
func bearing(t testing.TB, s *Server, token string) *caller {
	c := as(t, s, nil, nil)
	c.header.Set("Authorization", "Bearer "+token)
	return c
}

// whoami is what SelfSubjectReview says; zero if the answer is not 201.
func (c *caller) whoami() (int, authn.UserInfo) {
	c.t.Helper()
	code, body := c.do("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`)
	var r authn.SelfSubjectReview
	_ = json.Unmarshal([]byte(body), &r)
	return code, r.Status.UserInfo
}

func indent(text, by string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

// structured takes URL and CA of one provider, URL, discovery URL and CA of another, and more.
const structured = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous: {enabled: true, conditions: [{path: /livez}]}
jwt:
- issuer:
    url: %s
    audiences: [orch, other]
    audienceMatchPolicy: MatchAny
    certificateAuthority: |
      %s
  claimValidationRules:
  - {claim: hd, requiredValue: example.com}
  - {expression: 'claims.exp - claims.iat <= 86400', message: too long a life}
  claimMappings:
    username: {expression: '"oidc:" + claims.sub'}
    groups: {expression: 'claims.?roles.orValue([])'}
    uid: {claim: oid}
    extra:
    - {key: example.com/tenant, valueExpression: claims.tenant}
  userValidationRules:
  - {expression: "!user.username.startsWith('oidc:system:')", message: reserved}
  - {expression: "user.groups.all(g, !g.startsWith('system:'))"}
- issuer:
    url: %s
    discoveryURL: %s
    audiences: [orch]
    certificateAuthority: |
      %s
  claimMappings:
    username: {claim: sub, prefix: 'q-'}
    groups: {claim: groups, prefix: 'q:'}
%s`

func TestStructuredAuthentication(t *testing.T) {
	p, q := newProvider(t), newProvider(t)
	file := filepath.Join(t.TempDir(), "authn.yaml")
	write := func(extra string) {
		t.Helper()
		text := fmt.Sprintf(structured, p.URL, indent(p.ca(), "      "), q.URL, q.URL+"/elsewhere", indent(q.ca(), "      "), extra)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	s := start(t, memory.New(), func(c *Config) { c.Access.AuthenticationConfig = file })
	good := map[string]any{"hd": "example.com", "iat": time.Now().Unix(), "roles": []string{"dev", "ops"}, "oid": "u-9", "tenant": "acme", "jti": "j1"}
	with := func(k string, v any) map[string]any {
		m := map[string]any{k: v}
		for key, val := range good {
			if key != k {
				m[key] = val
			}
		}
		return m
	}
	code, u := bearing(t, s, p.token(t, good)).whoami()
	if code != 201 || u.Username != "oidc:s-1" || u.UID != "u-9" || !slices.Equal(u.Groups, []string{"dev", "ops", "system:authenticated"}) ||
		!slices.Equal(u.Extra["example.com/tenant"], []string{"acme"}) || !slices.Equal(u.Extra["authentication.kubernetes.io/credential-id"], []string{"JTI=j1"}) {
		t.Errorf("%d %+v", code, u)
	}
	if code, u := bearing(t, s, q.token(t, map[string]any{"groups": "one"})).whoami(); code != 201 || u.Username != "q-s-1" || !slices.Contains(u.Groups, "q:one") {
		t.Errorf("%d %+v", code, u)
	}
	root := user(t, s, "root", "system:masters")
	forged := p.token(t, good)
	forged = forged[:len(forged)-6] + "AAAAAA"
	for name, tc := range map[string]struct{ token, says string }{
		"another domain": {p.token(t, with("hd", "evil.com")), "required claim hd value does not match"},
		"too long":       {p.token(t, with("iat", time.Now().Add(-48*time.Hour).Unix())), "too long a life"},
		"expired":        {p.token(t, with("exp", time.Now().Add(-time.Minute).Unix())), "token is expired"},
		"not yet":        {p.token(t, with("nbf", time.Now().Add(time.Hour).Unix())), "before the nbf"},
		"another client": {p.token(t, with("aud", "someone")), "expected audience in"},
		"system user":    {p.token(t, with("sub", "system:admin")), "reserved"},
		"system group":   {p.token(t, with("roles", []string{"system:masters"})), "validation expression failed"},
		"no claim":       {p.token(t, map[string]any{"hd": "example.com", "iat": time.Now().Unix()}), "claim not present"},
		"forged":         {forged, "failed to verify id token signature"},
		"another's key":  {strings.Replace(q.token(t, with("iss", p.URL)), "", "", 0), "failed to verify id token signature"},
		"unknown issuer": {p.token(t, with("iss", "https://nobody.example")), "invalid bearer token"},
	} {
		if code, _ := bearing(t, s, tc.token).whoami(); code != 401 {
			t.Errorf("%s: %d", name, code)
		}
		_, body := root.do("POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"`+tc.token+`"}}`)
		if !strings.Contains(body, tc.says) || strings.Contains(body, `"authenticated":true`) {
			t.Errorf("%s: %s, want %q", name, body, tc.says)
		}
	}
	nobody := as(t, s, nil, nil)
	for path, want := range map[string]int{"/livez": 200, "/readyz": 401, "/api": 401} {
		if code, _ := nobody.do("GET", path, ""); code != want {
			t.Errorf("anonymous %s: %d, want %d", path, code, want)
		}
	}
	// A wrong file changes nothing; a right one counts without a restart.
	write("  nonsense: true\n")
	reloads := func(status string) bool {
		_, page := root.do("GET", "/metrics", "")
		return regexp.MustCompile(`apiserver_authentication_config_controller_automatic_reloads_total\{apiserver_id_hash="sha256:[0-9a-f]{64}",status="` + status + `"\} [1-9]`).MatchString(page)
	}
	waitFor(t, "the wrong file to be refused", func() bool { return reloads("failure") })
	if code, _ := bearing(t, s, p.token(t, good)).whoami(); code != 201 {
		t.Errorf("a wrong configuration replaced the one in force: %d", code)
	}
	write("  userValidationRules: [{expression: \"user.username == 'q-chosen'\"}]\n")
	waitFor(t, "the new configuration", func() bool { code, _ := bearing(t, s, q.token(t, nil)).whoami(); return code == 401 })
	if code, _ := bearing(t, s, q.token(t, map[string]any{"sub": "chosen"})).whoami(); code != 201 {
		t.Errorf("%d", code)
	}
	waitFor(t, "the reload to be counted", func() bool { return reloads("success") })
}

func TestOIDCFlags(t *testing.T) {
	p := newProvider(t)
	ca := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(ca, []byte(p.ca()), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, memory.New(), func(c *Config) {
		c.Access.OIDC = issuer.Flags{IssuerURL: p.URL, ClientID: "orch", CAFile: ca, GroupsClaim: "groups", GroupsPrefix: "g:", Algorithms: []string{"ES256"}}
	})
	if code, u := bearing(t, s, p.token(t, map[string]any{"groups": []string{"a"}})).whoami(); code != 201 || u.Username != p.URL+"#s-1" || !slices.Contains(u.Groups, "g:a") {
		t.Errorf("%d %+v", code, u)
	}
	before := p.asks.Load()
	for range 20 {
		bad := p.token(t, nil)
		bearing(t, s, bad[:len(bad)-8]+"AAAAAAAA").whoami()
	}
	if n := p.asks.Load() - before; n > 2 {
		t.Errorf("forged tokens made the server ask the provider %d times", n)
	}
}

func TestTokenWebhook(t *testing.T) {
	var asks atomic.Int32
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asks.Add(1)
		var v authn.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&v); err != nil || v.Kind != "TokenReview" || v.APIVersion != "authentication.k8s.io/v1" {
			t.Errorf("%v %+v", err, v)
		}
		if v.Spec.Token == "open-sesame" {
			v.Status = authn.TokenReviewStatus{Authenticated: true, User: authn.UserInfo{Username: "ali", UID: "1", Groups: []string{"forty"}, Extra: map[string]authn.ExtraValue{"a": {"b"}}}}
		} else {
			v.Status = authn.TokenReviewStatus{Error: "no such token here"}
		}
		_ = json.NewEncoder(w).Encode(v)
	}))
	defer hook.Close()
	s := start(t, memory.New(), func(c *Config) {
		c.Access.TokenWebhook, c.Access.TokenWebhookTTL = kubeconfigFor(t, hook.URL), time.Minute
	})
	for range 3 {
		if code, u := bearing(t, s, "open-sesame").whoami(); code != 201 || u.Username != "ali" || !slices.Contains(u.Groups, "forty") || u.Extra["a"][0] != "b" {
			t.Errorf("%d %+v", code, u)
		}
	}
	if n := asks.Load(); n != 1 {
		t.Errorf("the webhook was asked %d times", n)
	}
	if code, _ := bearing(t, s, "open-barley").whoami(); code != 401 {
		t.Errorf("%d", code)
	}
}

func kubeconfigFor(t *testing.T, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{apiVersion: v1, kind: Config, clusters: [{name: a, cluster: {server: "` + url + `"}}], users: [{name: a}], contexts: [{name: a, context: {cluster: a, user: a}}], current-context: a}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFrontProxies(t *testing.T) {
	s := start(t, memory.New(), nil)
	proxy := as(t, s, nil, nil)
	proxy.http.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{*s.PKI().FrontProxy()}
	h := proxy.header
	h.Set("X-Remote-User", "carol")
	h.Set("X-Remote-Uid", "7")
	h.Add("X-Remote-Group", "a")
	h.Add("X-Remote-Group", "b")
	h.Set("X-Remote-Extra-Example.com%2fkey", "v")
	if code, u := proxy.whoami(); code != 201 || u.Username != "carol" || u.UID != "7" || !slices.Equal(u.Groups, []string{"a", "b", "system:authenticated"}) || u.Extra["example.com/key"][0] != "v" {
		t.Errorf("%d %+v", code, u)
	}
	h.Del("X-Remote-User")
	if code, _ := proxy.whoami(); code != 401 {
		t.Errorf("a front proxy without a user: %d", code)
	}
	eve := user(t, s, "eve")
	eve.header.Set("X-Remote-User", "root")
	eve.header.Set("X-Remote-Group", "system:masters")
	if code, u := eve.whoami(); code != 201 || u.Username != "eve" || slices.Contains(u.Groups, "system:masters") {
		t.Errorf("a user's own word about herself counted: %d %+v", code, u)
	}
	// A header alone is no credential.
	nobody := as(t, s, nil, nil)
	nobody.header.Set("X-Remote-User", "root")
	if code, _ := nobody.whoami(); code != 401 {
		t.Errorf("%d", code)
	}
}

func TestBootstrapTokens(t *testing.T) {
	s := start(t, memory.New(), nil)
	root := user(t, s, "root", "system:masters")
	put := func(id, more string) {
		t.Helper()
		body := fmt.Sprintf(`{"metadata":{"name":"bootstrap-token-%s"},"type":"bootstrap.kubernetes.io/token","stringData":{"token-id":%q,"token-secret":"0123456789abcdef"%s}}`, id, id, more)
		if code, answer := root.do("POST", "/api/v1/namespaces/kube-system/secrets", body); code != 201 {
			t.Fatalf("%d %s", code, answer)
		}
	}
	soon := time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339)
	put("aaaaaa", `,"usage-bootstrap-authentication":"true","usage-bootstrap-signing":"true","auth-extra-groups":"system:bootstrappers:x:y"`)
	put("bbbbbb", `,"usage-bootstrap-signing":"true"`)
	put("cccccc", `,"usage-bootstrap-authentication":"true","auth-extra-groups":"system:masters"`)
	put("dddddd", `,"usage-bootstrap-authentication":"true","expiration":"`+soon+`"`)
	if code, u := bearing(t, s, "aaaaaa.0123456789abcdef").whoami(); code != 201 || u.Username != "system:bootstrap:aaaaaa" ||
		!slices.Equal(u.Groups, []string{"system:bootstrappers", "system:bootstrappers:x:y", "system:authenticated"}) {
		t.Errorf("%d %+v", code, u)
	}
	for _, bad := range []string{"aaaaaa.0123456789abcdeX", "aaaaaa.fedcba9876543210", "bbbbbb.0123456789abcdef", "cccccc.0123456789abcdef", "eeeeee.0123456789abcdef"} {
		if code, u := bearing(t, s, bad).whoami(); code != 401 {
			t.Errorf("%s: %d %+v", bad, code, u)
		}
	}
	if !s.joinsWith("server", "aaaaaa.0123456789abcdef") || s.joinsWith("server", "bbbbbb.0123456789abcdef") || s.joinsWith("server", "aaaaaa.fedcba9876543210") {
		t.Error("the wrong tokens let nodes join")
	}
	c := s.Client("test")
	waitFor(t, "the signatures", func() bool {
		m := client.Cached(c, api.ConfigMaps, "kube-public", "cluster-info")
		return m != nil && m.Data["jws-kubeconfig-aaaaaa"] != "" && m.Data["jws-kubeconfig-bbbbbb"] != "" && m.Data["jws-kubeconfig-cccccc"] == ""
	})
	m := client.Cached(c, api.ConfigMaps, "kube-public", "cluster-info")
	header, signature, _ := strings.Cut(m.Data["jws-kubeconfig-aaaaaa"], "..")
	mac := hmac.New(sha256.New, []byte("aaaaaa.0123456789abcdef"))
	mac.Write([]byte(header + "." + base64.RawURLEncoding.EncodeToString([]byte(m.Data["kubeconfig"]))))
	if head, _ := base64.RawURLEncoding.DecodeString(header); string(head) != `{"alg":"HS256","kid":"aaaaaa"}` || signature != base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) {
		t.Errorf("%s %s", head, signature)
	}
	waitFor(t, "the token that is over to go", func() bool { return client.Cached(c, api.Secrets, "kube-system", "bootstrap-token-dddddd") == nil })
	if code, _ := root.do("DELETE", "/api/v1/namespaces/kube-system/secrets/bootstrap-token-bbbbbb", ""); code != 200 {
		t.Errorf("%d", code)
	}
	waitFor(t, "its signature to go", func() bool {
		return client.Cached(c, api.ConfigMaps, "kube-public", "cluster-info").Data["jws-kubeconfig-bbbbbb"] == ""
	})
}

func TestAnonymousMayAskForHealthOnly(t *testing.T) {
	s := start(t, memory.New(), nil)
	nobody := as(t, s, nil, nil)
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/healthz": 200, "/readyz/ping": 403, "/version": 401, "/api/v1/nodes": 401, "/livezz": 401} {
		if code, _ := nobody.do("GET", path, ""); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	on := true
	s = start(t, memory.New(), func(c *Config) { c.Access.AnonymousAuth = &on })
	if code, _ := as(t, s, nil, nil).do("GET", "/api/v1/nodes", ""); code != 403 {
		t.Errorf("with --anonymous-auth: %d", code)
	}
	off := false
	s = start(t, memory.New(), func(c *Config) { c.Access.AnonymousAuth = &off })
	if code, _ := as(t, s, nil, nil).do("GET", "/livez", ""); code != 401 {
		t.Errorf("with --anonymous-auth=false: %d", code)
	}
}

func TestAuthorizationConfiguration(t *testing.T) {
	var asks atomic.Int32
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asks.Add(1)
		var v authz.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&v); err != nil || v.Kind != "SubjectAccessReview" {
			t.Errorf("%v %+v", err, v)
		}
		ra := v.Spec.ResourceAttributes
		switch {
		case ra.Resource == "nodes":
			v.Status = authz.SubjectAccessReviewStatus{Denied: true, Reason: "nodes are holy"}
		case ra.Resource == "configmaps" && ra.LabelSelector != nil && ra.LabelSelector.Requirements[0].Key == "mine":
			v.Status = authz.SubjectAccessReviewStatus{Allowed: true, Reason: "your own"}
		}
		_ = json.NewEncoder(w).Encode(v)
	}))
	defer hook.Close()
	file := filepath.Join(t.TempDir(), "authz.yaml")
	text := `apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: guard
  webhook:
    timeout: 30s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: ` + kubeconfigFor(t, hook.URL) + `}
    matchConditions:
    - expression: has(request.resourceAttributes)
    - expression: "'devs' in request.groups"
- {type: Node, name: node}
- {type: RBAC, name: rbac}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, memory.New(), func(c *Config) { c.Access.AuthorizationConfig = file })
	root := user(t, s, "root", "system:masters")
	root.do("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"metadata":{"name":"all"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"Group","name":"devs","apiGroup":"rbac.authorization.k8s.io"}]}`)
	dev := user(t, s, "dan", "devs")
	waitFor(t, "the binding", func() bool { code, _ := dev.do("GET", "/api/v1/pods", ""); return code == 200 })
	if code, text := dev.message("GET", "/api/v1/nodes", ""); code != 403 || !strings.Contains(text, "nodes are holy") {
		t.Errorf("the webhook's no did not count: %d %s", code, text)
	}
	before := asks.Load()
	dev.do("GET", "/api/v1/nodes", "")
	if asks.Load() != before {
		t.Error("the no was not kept")
	}
	if code, _ := root.do("GET", "/api/v1/nodes", ""); code != 200 {
		t.Errorf("superusers need nobody's word: %d", code)
	}
	other := user(t, s, "olga")
	if code, _ := other.do("GET", "/api/v1/nodes", ""); code != 403 || asks.Load() != before {
		t.Errorf("a match condition did not count: %d", code)
	}
	_, body := root.do("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"dan","groups":["devs"],"resourceAttributes":{"verb":"list","resource":"nodes"}}}`)
	if !strings.Contains(body, `"denied":true`) || !strings.Contains(body, `nodes are holy`) {
		t.Errorf("%s", body)
	}
	_, body = root.do("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"dora","groups":["devs"],"resourceAttributes":{"verb":"list","resource":"configmaps","labelSelector":{"rawSelector":"mine=true"}}}}`)
	if !strings.Contains(body, `"allowed":true`) || !strings.Contains(body, `your own`) {
		t.Errorf("%s", body)
	}
	hook.Close()
	if code, _ := user(t, s, "dave", "devs").do("GET", "/api/v1/secrets", ""); code != 403 {
		t.Errorf("failurePolicy Deny, and the webhook is away: %d", code)
	}
}

func TestTokenRotation(t *testing.T) {
	s := start(t, memory.New(), nil)
	old := s.PKI().Token()
	root := user(t, s, "root", "system:masters")
	if code, body := root.do("POST", api.PathToken, `{"secret":"a-new-secret-of-length"}`); code != 200 || strings.Contains(body, "a-new-secret") {
		t.Fatalf("%d %s", code, body)
	}
	if s.joinsWith("server", old.Secret) || !s.joinsWith("server", "a-new-secret-of-length") {
		t.Error("the old token still counts, or the new one does not")
	}
	if code, _ := user(t, s, "bob").do("POST", api.PathToken, `{}`); code != 403 {
		t.Errorf("anybody may rotate the token: %d", code)
	}
}

func TestLegacyTokensAreTracked(t *testing.T) {
	s := start(t, memory.New(), nil)
	root := user(t, s, "root", "system:masters")
	root.do("POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"robot"}}`)
	root.do("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"robot-token","annotations":{"kubernetes.io/service-account.name":"robot"}},"type":"kubernetes.io/service-account-token"}`)
	c := s.Client("test")
	waitFor(t, "the token", func() bool {
		x := client.Cached(c, api.Secrets, "default", "robot-token")
		return x != nil && len(x.Data["token"]) > 0
	})
	robot := bearing(t, s, string(client.Cached(c, api.Secrets, "default", "robot-token").Data["token"]))
	before := time.Now().UTC().Format(time.DateOnly)
	if code, u := robot.whoami(); code != 201 || u.Username != "system:serviceaccount:default:robot" {
		t.Errorf("%d %+v", code, u)
	}
	waitFor(t, "the day of its use", func() bool {
		day := client.Cached(c, api.Secrets, "default", "robot-token").Labels["kubernetes.io/legacy-token-last-used"]
		return day == before || day == time.Now().UTC().Format(time.DateOnly) // it may be midnight
	})
	if client.Cached(c, api.ConfigMaps, "kube-system", "kube-apiserver-legacy-service-account-token-tracking") == nil {
		t.Error("nothing says since when uses are noted")
	}
	root.do("PATCH", "/api/v1/namespaces/default/secrets/robot-token", `{"metadata":{"labels":{"kubernetes.io/legacy-token-invalid-since":"2026-01-01"}}}`)
	if code, _ := robot.whoami(); code != 401 {
		t.Errorf("a token that is marked invalid: %d", code)
	}
}
