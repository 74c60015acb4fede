package image

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"sigs.k8s.io/yaml"

	"orch/runtime/engine"
)

// Registries is the content of registries.yaml, in the form k3s users know.
type Registries struct {
	// Mirrors by registry host; "*" stands for all others.
	Mirrors map[string]Mirror `json:"mirrors"`
	// Configs by host (with port), of registries and mirrors.
	Configs map[string]RegistryConfig `json:"configs"`
	Auths   map[string]AuthConfig     `json:"auths"` // older form of Configs' auth
}

// Mirror says where else a registry's images are.
type Mirror struct {
	// Endpoints are tried in order, then the registry itself.
	Endpoints []string `json:"endpoint"`
	// Rewrites change the repository asked of the endpoints: pattern -> replacement.
	Rewrites map[string]string `json:"rewrite"`
}

// RegistryConfig says how to speak to one host.
type RegistryConfig struct {
	Auth *AuthConfig `json:"auth"`
	TLS  *TLSConfig  `json:"tls"`
}

// AuthConfig is a login. Auth is base64 of user:password.
type AuthConfig struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identity_token"`
}

// TLSConfig names files.
type TLSConfig struct {
	CAFile             string `json:"ca_file"`
	CertFile           string `json:"cert_file"`
	KeyFile            string `json:"key_file"`
	InsecureSkipVerify bool   `json:"insecure_skip_verify"`
}

// LoadRegistries reads the file; one that is absent is empty.
func LoadRegistries(path string) (Registries, error) {
	var r Registries
	if path == "" {
		return r, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("reading registries file: %w", err)
	}
	if err := yaml.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("reading registries file %s: %w", path, err)
	}
	for host, m := range r.Mirrors {
		for pattern := range m.Rewrites {
			if _, err := regexp.Compile(pattern); err != nil {
				return r, fmt.Errorf("registries file %s: mirror %s: rewrite %q: %w", path, host, pattern, err)
			}
		}
		for _, e := range m.Endpoints {
			if _, err := parseEndpoint(e); err != nil {
				return r, fmt.Errorf("registries file %s: mirror %s: %w", path, host, err)
			}
		}
	}
	return r, nil
}

func parseEndpoint(e string) (*url.URL, error) {
	if !strings.Contains(e, "://") {
		e = "https://" + e
	}
	u, err := url.Parse(e)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("endpoint %q is no URL", e)
	}
	return u, nil
}

// hosts finds where to ask for images of a registry: its mirrors in order, then itself.
func (r Registries) hosts(auth engine.Auth) docker.RegistryHosts {
	return func(host string) ([]docker.RegistryHost, error) {
		mirror, ok := r.Mirrors[host]
		if !ok {
			mirror = r.Mirrors["*"]
		}
		var out []docker.RegistryHost
		own, err := defaultEndpoint(host)
		if err != nil {
			return nil, err
		}
		endpoints := mirror.Endpoints
		if !slices.ContainsFunc(endpoints, func(e string) bool { u, err := parseEndpoint(e); return err == nil && u.Host == own.Host }) {
			endpoints = append(slices.Clone(endpoints), own.String())
		}
		for _, e := range endpoints {
			u, err := parseEndpoint(e)
			if err != nil {
				return nil, err
			}
			rewrites := mirror.Rewrites
			if u.Host == own.Host {
				rewrites = nil
			}
			h, err := r.host(host, u, rewrites, auth)
			if err != nil {
				return nil, err
			}
			out = append(out, h)
		}
		return out, nil
	}
}

// defaultEndpoint is the registry itself; one on this machine speaks plain HTTP.
func defaultEndpoint(host string) (*url.URL, error) {
	name, err := docker.DefaultHost(host)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", host, err)
	}
	scheme := "https"
	if local, err := docker.MatchLocalhost(host); err == nil && local {
		scheme = "http"
	}
	return &url.URL{Scheme: scheme, Host: name, Path: "/v2"}, nil
}

func (r Registries) host(registry string, u *url.URL, rewrites map[string]string, auth engine.Auth) (docker.RegistryHost, error) {
	cfg := r.Configs[u.Host]
	tlsConfig, err := cfg.TLS.load()
	if err != nil {
		return docker.RegistryHost{}, fmt.Errorf("registry %s: %w", u.Host, err)
	}
	var transport http.RoundTripper = &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		// A pull ends with its requests; nothing is kept for the next one.
		MaxIdleConns: 10, IdleConnTimeout: 30 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true,
	}
	login := r.login(registry, u.Host, auth)
	if login.RegistryToken != "" {
		transport = bearer{transport, login.RegistryToken}
	}
	if len(rewrites) > 0 {
		transport = newRewriter(transport, rewrites)
	}
	client := &http.Client{Transport: transport}
	path := strings.TrimSuffix(u.Path, "/")
	if path == "" {
		path = "/v2"
	}
	return docker.RegistryHost{
		Client: client, Host: u.Host, Scheme: u.Scheme, Path: path,
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		Authorizer: docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(func(string) (string, string, error) {
			if login.IdentityToken != "" {
				return "", login.IdentityToken, nil
			}
			return login.Username, login.Password, nil
		})),
	}, nil
}

// login is the caller's for the registry (a pull secret), else the file's for the host.
func (r Registries) login(registry, host string, given engine.Auth) engine.Auth {
	if given != (engine.Auth{}) {
		if own, err := docker.DefaultHost(registry); err == nil && own == host {
			return given
		}
	}
	cfg := r.Configs[host].Auth
	if cfg == nil {
		if old, ok := r.Auths[host]; ok {
			cfg = &old
		}
	}
	if cfg == nil {
		return engine.Auth{}
	}
	out := engine.Auth{Username: cfg.Username, Password: cfg.Password, IdentityToken: cfg.IdentityToken}
	if plain, err := base64.StdEncoding.DecodeString(cfg.Auth); err == nil && cfg.Auth != "" {
		out.Username, out.Password, _ = strings.Cut(string(plain), ":")
	}
	return out
}

func (t *TLSConfig) load() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if t == nil {
		return out, nil
	}
	out.InsecureSkipVerify = t.InsecureSkipVerify //nolint:gosec // the file's owner asks for it
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading CA file: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading CA file %s: no certificate in it", t.CAFile)
		}
		out.RootCAs = pool
	}
	if t.CertFile != "" || t.KeyFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading client certificate: %w", err)
		}
		out.Certificates = []tls.Certificate{cert}
	}
	return out, nil
}

// bearer sends a token that needs no exchange.
type bearer struct {
	next  http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// rewriter changes repository names in the paths of registry requests, and in
// the scope of requests for a token.
type rewriter struct {
	next  http.RoundTripper
	rules []rewriteRule
}

type rewriteRule struct {
	pattern *regexp.Regexp
	to      string
}

var repositoryPath = regexp.MustCompile(`^(.*/v2/)(.+)(/(?:manifests|blobs|tags|referrers)/.*)$`)

func newRewriter(next http.RoundTripper, rules map[string]string) *rewriter {
	r := &rewriter{next: next}
	for _, p := range slices.Sorted(maps.Keys(rules)) {
		r.rules = append(r.rules, rewriteRule{regexp.MustCompile(p), rules[p]}) // compiled once before, in LoadRegistries
	}
	return r
}

func (r *rewriter) repository(name string) string {
	for _, rule := range r.rules {
		if rule.pattern.MatchString(name) {
			return rule.pattern.ReplaceAllString(name, rule.to)
		}
	}
	return name
}

func (r *rewriter) RoundTrip(req *http.Request) (*http.Response, error) {
	u := *req.URL
	if m := repositoryPath.FindStringSubmatch(u.Path); m != nil {
		u.Path, u.RawPath = m[1]+r.repository(m[2])+m[3], ""
	}
	if q := u.Query(); q.Has("scope") {
		for i, s := range q["scope"] {
			parts := strings.Split(s, ":")
			if len(parts) == 3 && parts[0] == "repository" {
				parts[1] = r.repository(parts[1])
				q["scope"][i] = strings.Join(parts, ":")
			}
		}
		u.RawQuery = q.Encode()
	}
	req = req.Clone(req.Context())
	req.URL = &u
	return r.next.RoundTrip(req)
}
