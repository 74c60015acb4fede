package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"orch/server/access/issuer"
	"orch/server/access/reviewer"
	"orch/server/registry"
)

// settings are what the files say now. They are replaced as a whole.
type settings struct {
	issuers *issuer.Set
	// anonymous nil: health alone.
	anonymous *configv1.AnonymousAuthConfig
	chain     []authorizer
}

// load reads the files and checks them against the flags.
func (a *Access) load() (*settings, error) {
	s := &settings{}
	if err := a.loadAuthentication(s); err != nil {
		return nil, err
	}
	chain, err := a.loadChain()
	s.chain = chain
	return s, err
}

func (a *Access) loadAuthentication(s *settings) error {
	o := &a.cfg.Options
	if o.AnonymousAuth != nil {
		s.anonymous = &configv1.AnonymousAuthConfig{Enabled: *o.AnonymousAuth}
	}
	if o.AuthenticationConfig == "" && !o.OIDC.Given() {
		return nil
	}
	if o.AuthenticationConfig != "" && o.OIDC.Given() {
		return errors.New("authentication-config file and oidc-* flags are mutually exclusive")
	}
	var c *configv1.AuthenticationConfiguration
	var algorithms []string
	if o.OIDC.Given() {
		var ca []byte
		var err error
		if o.OIDC.CAFile != "" {
			if ca, err = os.ReadFile(o.OIDC.CAFile); err != nil {
				return fmt.Errorf("--oidc-ca-file: %w", err)
			}
		}
		if c, err = o.OIDC.Config(string(ca)); err != nil {
			return err
		}
		algorithms = o.OIDC.Algorithms
	} else {
		raw, err := os.ReadFile(o.AuthenticationConfig)
		if err != nil {
			return fmt.Errorf("--authentication-config: %w", err)
		}
		if c, err = issuer.Parse(raw, a.cfg.Issuer); err != nil {
			return fmt.Errorf("--authentication-config %s: %w", o.AuthenticationConfig, err)
		}
	}
	if c.Anonymous != nil {
		if o.AnonymousAuth != nil {
			return errors.New("--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file")
		}
		s.anonymous = c.Anonymous
	}
	issuers, err := issuer.New(c, algorithms, a.cfg.Now)
	s.issuers = issuers
	return err
}

// authorizer is one of the chain: yes, no, or somebody else shall say.
type authorizer struct {
	name string
	// kind is Node, RBAC, ... as configurations name it.
	kind   string
	decide func(ctx context.Context, at *Attributes) (reviewer.Decision, decision)
}

func (a *Access) loadChain() ([]authorizer, error) {
	o := &a.cfg.Options
	modes := o.AuthorizationModes
	if o.AuthorizationConfig != "" {
		if len(modes) > 0 || o.AuthorizationWebhook != "" {
			return nil, errors.New("--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined")
		}
		return a.loadChainFile(o.AuthorizationConfig)
	}
	if len(modes) == 0 {
		modes = []string{"Node", "RBAC"}
	}
	var chain []authorizer
	for i, m := range modes {
		if slices.Index(modes, m) < i {
			return nil, fmt.Errorf("--authorization-mode: has mode specified more than once: %q", m)
		}
		c := configv1.AuthorizerConfiguration{Type: m, Name: m}
		if m == "Webhook" {
			if o.AuthorizationWebhook == "" {
				return nil, errors.New("authorization-mode Webhook's authorization config file not passed")
			}
			c.Webhook = &configv1.WebhookConfiguration{
				SubjectAccessReviewVersion: "v1", FailurePolicy: configv1.FailurePolicyNoOpinion, Timeout: metav1.Duration{Duration: 30 * time.Second},
				AuthorizedTTL: metav1.Duration{Duration: o.AuthorizedTTL}, UnauthorizedTTL: metav1.Duration{Duration: o.UnauthorizedTTL},
				ConnectionInfo: configv1.WebhookConnectionInfo{Type: configv1.AuthorizationWebhookConnectionInfoTypeKubeConfigFile, KubeConfigFile: &o.AuthorizationWebhook},
			}
		}
		z, err := a.authorizer(c)
		if err != nil {
			return nil, fmt.Errorf("--authorization-mode: %w", err)
		}
		chain = append(chain, z)
	}
	return chain, nil
}

func (a *Access) loadChainFile(path string) ([]authorizer, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--authorization-config: %w", err)
	}
	var c configv1.AuthorizationConfiguration
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return nil, fmt.Errorf("--authorization-config %s: %w", path, err)
	}
	if c.Kind != "AuthorizationConfiguration" || c.APIVersion != "apiserver.config.k8s.io/v1" {
		return nil, fmt.Errorf("--authorization-config %s: it is a %q of %q, expected an AuthorizationConfiguration of apiserver.config.k8s.io/v1", path, c.Kind, c.APIVersion)
	}
	if len(c.Authorizers) == 0 {
		return nil, fmt.Errorf("--authorization-config %s: authorizers: Required value: at least one authorization mode must be defined", path)
	}
	var chain []authorizer
	names, types := map[string]bool{}, map[string]bool{}
	for i, z := range c.Authorizers {
		at := fmt.Sprintf("--authorization-config %s: authorizers[%d]", path, i)
		switch {
		case z.Name == "":
			return nil, fmt.Errorf("%s.name: Required value", at)
		case names[z.Name]:
			return nil, fmt.Errorf("%s.name: Duplicate value: %q", at, z.Name)
		case types[z.Type] && z.Type != "Webhook":
			return nil, fmt.Errorf("%s.type: Duplicate value: %q", at, z.Type)
		case z.Type != "Webhook" && z.Webhook != nil:
			return nil, fmt.Errorf("%s.webhook: Invalid value: may only be specified when type=Webhook", at)
		case z.Type == "Webhook" && z.Webhook == nil:
			return nil, fmt.Errorf("%s.webhook: Required value: required when type=Webhook", at)
		}
		names[z.Name], types[z.Type] = true, true
		made, err := a.authorizer(z)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		chain = append(chain, made)
	}
	return chain, nil
}

func (a *Access) authorizer(c configv1.AuthorizerConfiguration) (authorizer, error) {
	z := authorizer{name: c.Name, kind: c.Type}
	switch c.Type {
	case "Node":
		z.decide = a.askNode
	case "RBAC":
		z.decide = a.askRBAC
	case "AlwaysAllow":
		z.decide = func(context.Context, *Attributes) (reviewer.Decision, decision) {
			return reviewer.Allow, decision{allowed: true}
		}
	case "AlwaysDeny":
		z.decide = func(context.Context, *Attributes) (reviewer.Decision, decision) {
			return reviewer.NoOpinion, decision{reason: "Everything is forbidden."}
		}
	case "Webhook":
		s, err := reviewer.NewSubject(*c.Webhook, a.cfg.Calls)
		if err != nil {
			return z, fmt.Errorf("webhook: %w", err)
		}
		z.decide = a.askWebhook(c.Name, s)
	default:
		return z, fmt.Errorf("type: Unsupported value: %q: supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"", c.Type)
	}
	return z, nil
}

func (a *Access) tokenHook(ctx context.Context, token string) (registry.User, bool, error) {
	return a.hook.Review(ctx, token)
}

// follow reads the files again when they change. What is wrong in them is said and changes nothing.
func (a *Access) follow(ctx context.Context) error {
	files := slices.DeleteFunc([]string{a.cfg.Options.AuthenticationConfig, a.cfg.Options.AuthorizationConfig}, func(s string) bool { return s == "" })
	if len(files) == 0 {
		<-ctx.Done()
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching configuration files: %w", err)
	}
	defer w.Close()
	for _, f := range files {
		// The folder: editors and Kubernetes' own volumes replace files by renaming.
		if err := w.Add(filepath.Dir(f)); err != nil {
			return fmt.Errorf("watching configuration files: %w", err)
		}
	}
	settle := time.NewTimer(time.Hour)
	settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
			settle.Reset(settleTime)
		case err, ok := <-w.Errors:
			if ok {
				a.log().Error("watching configuration files failed", "err", err)
			}
		case <-settle.C:
			a.reload()
		}
	}
}

// settleTime is how long a file is left alone after a change before it is read.
const settleTime = 100 * time.Millisecond

func (a *Access) reload() {
	s, err := a.load()
	for _, r := range a.reloads {
		r.count(a.cfg.Now(), err)
	}
	if err != nil {
		a.log().Error("the authentication or authorization configuration is wrong; the one before stays in force", "err", err)
		return
	}
	a.settings.Store(s)
	a.log().Info("authentication and authorization configuration read")
}

func (a *Access) log() *slog.Logger {
	if a.cfg.Log == nil {
		return slog.Default()
	}
	return a.cfg.Log
}
