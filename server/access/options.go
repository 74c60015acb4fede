package access

import (
	"time"

	"github.com/spf13/pflag"

	"orch/server/access/issuer"
	"orch/server/pki"
)

// Options are kube-apiserver's flags about who may come in and what they may do.
type Options struct {
	// AnonymousAuth nil lets those without a credential ask for health alone.
	AnonymousAuth        *bool
	AuthenticationConfig string
	OIDC                 issuer.Flags
	TokenWebhook         string
	TokenWebhookTTL      time.Duration
	RequestHeaders       RequestHeaders
	AuthorizationModes   []string
	AuthorizationConfig  string
	AuthorizationWebhook string
	// How long the webhook's answers are kept.
	AuthorizedTTL, UnauthorizedTTL time.Duration
}

// AddFlags declares the flags; their names and defaults are kube-apiserver's, but for --anonymous-auth.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.BoolFunc("anonymous-auth", "true: requests without a credential are system:anonymous; false: they are refused (default: only health may be asked for)", func(v string) error {
		on := v == "true" || v == "1"
		o.AnonymousAuth = &on
		return nil
	})
	f.StringVar(&o.AuthenticationConfig, "authentication-config", "", "file with an AuthenticationConfiguration; it is read again when it changes")
	f.StringVar(&o.OIDC.IssuerURL, "oidc-issuer-url", "", "OpenID provider of users, https only")
	f.StringVar(&o.OIDC.ClientID, "oidc-client-id", "", "audience of its tokens")
	f.StringVar(&o.OIDC.CAFile, "oidc-ca-file", "", "certificate authorities of the provider")
	f.StringVar(&o.OIDC.UsernameClaim, "oidc-username-claim", "sub", "claim that is the user's name")
	f.StringVar(&o.OIDC.UsernamePrefix, "oidc-username-prefix", "", "prefix of user names; - for none")
	f.StringVar(&o.OIDC.GroupsClaim, "oidc-groups-claim", "", "claim that is the user's groups")
	f.StringVar(&o.OIDC.GroupsPrefix, "oidc-groups-prefix", "", "prefix of groups")
	f.StringToStringVar(&o.OIDC.RequiredClaims, "oidc-required-claim", nil, "claims and values that tokens must have")
	f.StringSliceVar(&o.OIDC.Algorithms, "oidc-signing-algs", []string{"RS256"}, "algorithms that tokens may be signed by")
	f.StringVar(&o.TokenWebhook, "authentication-token-webhook-config-file", "", "kubeconfig of a webhook that knows tokens")
	f.DurationVar(&o.TokenWebhookTTL, "authentication-token-webhook-cache-ttl", 2*time.Minute, "how long its answers are kept")
	f.StringSliceVar(&o.RequestHeaders.AllowedNames, "requestheader-allowed-names", nil, "names of front proxies that may say whom a request is from (default: "+pki.AuthProxyName+")")
	f.StringSliceVar(&o.RequestHeaders.UsernameHeaders, "requestheader-username-headers", nil, "headers for the user's name (default: X-Remote-User)")
	f.StringSliceVar(&o.RequestHeaders.UIDHeaders, "requestheader-uid-headers", nil, "headers for the user's UID (default: X-Remote-Uid)")
	f.StringSliceVar(&o.RequestHeaders.GroupHeaders, "requestheader-group-headers", nil, "headers for the user's groups (default: X-Remote-Group)")
	f.StringSliceVar(&o.RequestHeaders.ExtraPrefixes, "requestheader-extra-headers-prefix", nil, "prefixes of headers for more about the user (default: X-Remote-Extra-)")
	f.StringSliceVar(&o.AuthorizationModes, "authorization-mode", nil, "authorizers in their order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny (default: Node,RBAC)")
	f.StringVar(&o.AuthorizationConfig, "authorization-config", "", "file with an AuthorizationConfiguration; it is read again when it changes")
	f.StringVar(&o.AuthorizationWebhook, "authorization-webhook-config-file", "", "kubeconfig of the Webhook authorizer")
	f.DurationVar(&o.AuthorizedTTL, "authorization-webhook-cache-authorized-ttl", 5*time.Minute, "how long its yes is kept")
	f.DurationVar(&o.UnauthorizedTTL, "authorization-webhook-cache-unauthorized-ttl", 30*time.Second, "how long its no is kept")
}

// headers fills what was left open.
func (o *Options) headers() RequestHeaders {
	h, usual := o.RequestHeaders, usualHeaders(pki.AuthProxyName)
	for _, d := range []struct{ to, from *[]string }{
		{&h.AllowedNames, &usual.AllowedNames}, {&h.UsernameHeaders, &usual.UsernameHeaders}, {&h.UIDHeaders, &usual.UIDHeaders},
		{&h.GroupHeaders, &usual.GroupHeaders}, {&h.ExtraPrefixes, &usual.ExtraPrefixes},
	} {
		if len(*d.to) == 0 {
			*d.to = *d.from
		}
	}
	return h
}
