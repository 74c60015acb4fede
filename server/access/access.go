// Package access answers two questions of every request: who are you
// (Authenticate) and may you (Authorize). It knows client certificates, service
// account tokens, impersonation, RBAC and what a node may touch. It stores
// nothing and changes no object; what it decides from is an index that the
// caches of the registry keep current, so no request scans anything.
//
// Start reading at Access, then authenticate.go and authorize.go. rules.go holds
// the pure part of RBAC, node.go that of nodes.
package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	rbac "k8s.io/api/rbac/v1"

	"orch/api"
	"orch/api/calls"
	"orch/api/client"
	"orch/server/access/reviewer"
	"orch/server/registry"
)

// Attributes is what a request wants to do.
type Attributes struct {
	User registry.User
	// Verb is get, list, watch, create, update, patch, delete, deletecollection, a
	// special verb (impersonate, bind, escalate, ...), or the HTTP method in lower
	// case where Path is set.
	Verb                                                   string
	Namespace, Group, Version, Resource, Subresource, Name string
	// Path is set for requests that are not for a resource; Resource is empty then.
	Path string
	// FieldSelector and LabelSelector as sent; may be empty.
	FieldSelector, LabelSelector string
}

// Keys are the signing key and the client authority; server/pki has them.
type Keys interface {
	ServiceKey() *ecdsa.PrivateKey
	VerifyClient(chain []*x509.Certificate) error
	VerifyFrontProxy(chain []*x509.Certificate) error
}

// Config is not changed after New.
type Config struct {
	Keys Keys
	// Cache is the registry's: roles, bindings, service accounts, pods, secrets, nodes, volumes.
	Cache client.Cache
	// Issuer of service account tokens; empty is https://kubernetes.default.svc.<ClusterDomain>.
	Issuer        string
	ClusterDomain string
	// Audiences that a token must have one of to be taken here; empty is the issuer.
	Audiences []string
	// URL is the address of this server as clients reach it, for the OpenID documents.
	URL string
	// Options are what the flags say. RequestHeaders is filled from them.
	Options        Options
	RequestHeaders RequestHeaders
	// Asked tells what a request wants, all but who wants it, for impersonation that is
	// granted for some requests only; nil: there is none such.
	Asked func(*http.Request) Attributes
	// Calls counts what webhooks are asked; nil for nobody.
	Calls *calls.Calls
	Log   *slog.Logger
	// Audited notes decisions in the records of requests.
	Audited bool
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Access decides. Make it with New; it knows nothing until Run has started.
type Access struct {
	cfg    Config
	tokens *tokens
	certs  *bounded[[32]byte, knownCert]
	rbac   *roleIndex
	nodes  *nodeIndex
	// hook is nil where no webhook knows tokens.
	hook     *reviewer.Token
	settings atomic.Pointer[settings]
	reloads  []*reloads
	ready    chan struct{}
}

// New checks cfg.
func New(cfg Config) (*Access, error) {
	if cfg.Keys == nil || cfg.Cache == nil {
		return nil, errors.New("setting up access: Keys and Cache are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if cfg.Issuer == "" {
		cfg.Issuer = "https://kubernetes.default.svc." + cfg.ClusterDomain
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = []string{cfg.Issuer}
	}
	t, err := newTokens(cfg)
	if err != nil {
		return nil, err
	}
	cfg.RequestHeaders = cfg.Options.headers()
	a := &Access{
		cfg: cfg, tokens: t, certs: newBounded[[32]byte, knownCert](4096),
		rbac: newRoleIndex(), nodes: newNodeIndex(cfg.Cache), reloads: reloadsOf(cfg.Options), ready: make(chan struct{}),
	}
	if o := cfg.Options; o.TokenWebhook != "" {
		if a.hook, err = reviewer.NewToken(o.TokenWebhook, o.TokenWebhookTTL, cfg.Audiences, cfg.Calls); err != nil {
			return nil, fmt.Errorf("--authentication-token-webhook-config-file: %w", err)
		}
	}
	first, err := a.load()
	if err != nil {
		return nil, err
	}
	a.settings.Store(first)
	return a, nil
}

// Run keeps the indexes current until ctx ends.
func (a *Access) Run(ctx context.Context) error {
	for _, s := range []struct {
		kind  *api.Facts
		apply func(client.Change)
	}{
		{api.ClusterRoles.Facts, a.rbac.clusterRole},
		{api.Roles.Facts, a.rbac.role},
		{api.ClusterRoleBindings.Facts, a.rbac.clusterBinding},
		{api.RoleBindings.Facts, a.rbac.roleBinding},
		{api.Pods.Facts, a.nodes.pod},
		{api.PersistentVolumes.Facts, a.nodes.volume},
	} {
		if err := a.cfg.Cache.Subscribe(ctx, s.kind, s.apply); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	close(a.ready)
	return a.follow(ctx)
}

// Ready closes once the indexes hold what was stored.
func (a *Access) Ready() <-chan struct{} { return a.ready }

// RoleRules gives the rules of a role as they are now; false if there is none.
func (a *Access) RoleRules(ref rbac.RoleRef, namespace string) ([]rbac.PolicyRule, bool) {
	return a.rbac.rules(ref, namespace)
}
