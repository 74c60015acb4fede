package issuer

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

const configVersion = "apiserver.config.k8s.io/v1"

// maxIssuers bounds how many a configuration may name, as upstream does.
const maxIssuers = 64

// Parse reads an AuthenticationConfiguration strictly. Issuers of others, such as that
// of service accounts, must not be named in it.
func Parse(raw []byte, others ...string) (*configv1.AuthenticationConfiguration, error) {
	var c configv1.AuthenticationConfiguration
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return nil, err
	}
	if c.Kind != "AuthenticationConfiguration" || c.APIVersion != configVersion {
		return nil, fmt.Errorf("it is a %q of %q, expected an AuthenticationConfiguration of %s", c.Kind, c.APIVersion, configVersion)
	}
	return &c, Validate(&c, others...)
}

// Validate follows upstream's ValidateAuthenticationConfiguration, expressions apart: New compiles them.
func Validate(c *configv1.AuthenticationConfiguration, others ...string) error {
	var errs field.ErrorList
	root := field.NewPath("jwt")
	if len(c.JWT) > maxIssuers {
		errs = append(errs, field.TooMany(root, len(c.JWT), maxIssuers))
	}
	seen := sets.New[string]()
	for i := range c.JWT {
		at, j := root.Index(i), &c.JWT[i]
		errs = append(errs, validateIssuer(&j.Issuer, at.Child("issuer"), others)...)
		if seen.Has(j.Issuer.URL) {
			errs = append(errs, field.Duplicate(at.Child("issuer", "url"), j.Issuer.URL))
		}
		seen.Insert(j.Issuer.URL)
		errs = append(errs, validateMappings(&j.ClaimMappings, at.Child("claimMappings"))...)
		for n, r := range j.ClaimValidationRules {
			p := at.Child("claimValidationRules").Index(n)
			switch {
			case r.Claim == "" && r.Expression == "":
				errs = append(errs, field.Required(p, "claim or expression is required"))
			case r.Claim != "" && r.Expression != "":
				errs = append(errs, field.Invalid(p, r.Claim, "claim and expression can't both be set"))
			case r.Expression != "" && r.RequiredValue != "":
				errs = append(errs, field.Invalid(p, r.RequiredValue, "requiredValue can't be set when expression is set"))
			}
		}
		for n, r := range j.UserValidationRules {
			if r.Expression == "" {
				errs = append(errs, field.Required(at.Child("userValidationRules").Index(n).Child("expression"), ""))
			}
		}
	}
	if a := c.Anonymous; a != nil && !a.Enabled && len(a.Conditions) > 0 {
		errs = append(errs, field.Invalid(field.NewPath("anonymous", "conditions"), len(a.Conditions), "enabled should be set to true when conditions are defined"))
	}
	return errs.ToAggregate()
}

func validateIssuer(is *configv1.Issuer, at *field.Path, others []string) field.ErrorList {
	errs := validateURL(is.URL, at.Child("url"))
	for _, o := range others {
		if is.URL == o {
			errs = append(errs, field.Invalid(at.Child("url"), is.URL, fmt.Sprintf("URL must not overlap with disallowed issuers: %s", others)))
		}
	}
	if d := is.DiscoveryURL; d != nil {
		errs = append(errs, validateURL(*d, at.Child("discoveryURL"))...)
		if strings.TrimRight(*d, "/") == strings.TrimRight(is.URL, "/") {
			errs = append(errs, field.Invalid(at.Child("discoveryURL"), *d, "discoveryURL must be different from URL"))
		}
	}
	if len(is.Audiences) == 0 {
		errs = append(errs, field.Required(at.Child("audiences"), "at least one jwt[0].issuer.audiences is required"))
	}
	seen := sets.New[string]()
	for i, a := range is.Audiences {
		if a == "" {
			errs = append(errs, field.Required(at.Child("audiences").Index(i), "audience can't be empty"))
		}
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(at.Child("audiences").Index(i), a))
		}
		seen.Insert(a)
	}
	switch {
	case len(is.Audiences) > 1 && is.AudienceMatchPolicy != configv1.AudienceMatchPolicyMatchAny:
		errs = append(errs, field.Invalid(at.Child("audienceMatchPolicy"), is.AudienceMatchPolicy, "audienceMatchPolicy must be MatchAny for multiple audiences"))
	case len(is.Audiences) == 1 && is.AudienceMatchPolicy != "" && is.AudienceMatchPolicy != configv1.AudienceMatchPolicyMatchAny:
		errs = append(errs, field.Invalid(at.Child("audienceMatchPolicy"), is.AudienceMatchPolicy, "audienceMatchPolicy must be empty or MatchAny for single audience"))
	}
	switch is.EgressSelectorType {
	case "", configv1.EgressSelectorControlPlane, configv1.EgressSelectorCluster:
	default:
		errs = append(errs, field.Invalid(at.Child("egressSelectorType"), is.EgressSelectorType, "egress selector must be either controlplane or cluster"))
	}
	if is.CertificateAuthority != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(is.CertificateAuthority)) {
		errs = append(errs, field.Invalid(at.Child("certificateAuthority"), "<omitted>", "data does not contain any valid RSA or ECDSA certificates"))
	}
	return errs
}

func validateURL(text string, at *field.Path) field.ErrorList {
	if text == "" {
		return field.ErrorList{field.Required(at, "URL is required")}
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, "<omitted>", "it is no URL")}
	case u.Scheme != "https":
		return field.ErrorList{field.Invalid(at, text, "URL scheme must be https")}
	case u.User != nil:
		return field.ErrorList{field.Invalid(at, u.Redacted(), "URL must not contain a username or password")}
	case u.RawQuery != "":
		return field.ErrorList{field.Invalid(at, text, "URL must not contain a query")}
	case u.Fragment != "":
		return field.ErrorList{field.Invalid(at, text, "URL must not contain a fragment")}
	}
	return nil
}

func validateMappings(m *configv1.ClaimMappings, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Username.Claim == "" && m.Username.Expression == "" {
		errs = append(errs, field.Required(at.Child("username"), "claim or expression is required"))
	}
	for name, p := range map[string]configv1.PrefixedClaimOrExpression{"username": m.Username, "groups": m.Groups} {
		at := at.Child(name)
		switch {
		case p.Claim != "" && p.Expression != "":
			errs = append(errs, field.Invalid(at, "", "claim and expression can't both be set"))
		case p.Expression != "" && p.Prefix != nil:
			errs = append(errs, field.Invalid(at.Child("prefix"), *p.Prefix, "prefix can't be set when expression is set"))
		case p.Claim != "" && p.Prefix == nil:
			errs = append(errs, field.Required(at.Child("prefix"), "prefix is required when claim is set. It can be set to an empty string to disable prefixing"))
		case p.Claim == "" && p.Prefix != nil && p.Expression == "":
			errs = append(errs, field.Required(at.Child("claim"), "non-empty claim name is required when prefix is set"))
		}
	}
	if m.UID.Claim != "" && m.UID.Expression != "" {
		errs = append(errs, field.Invalid(at.Child("uid"), "", "claim and expression can't both be set"))
	}
	seen := sets.New[string]()
	for i, x := range m.Extra {
		at := at.Child("extra").Index(i)
		domain, _, ok := strings.Cut(x.Key, "/")
		switch {
		case x.Key == "":
			errs = append(errs, field.Required(at.Child("key"), ""))
		case !ok:
			errs = append(errs, field.Invalid(at.Child("key"), x.Key, "must be a domain-prefixed path (such as \"acme.io/foo\")"))
		case x.Key != strings.ToLower(x.Key):
			errs = append(errs, field.Invalid(at.Child("key"), x.Key, "key must be lowercase"))
		case domain == "kubernetes.io" || domain == "k8s.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io"):
			errs = append(errs, field.Invalid(at.Child("key"), x.Key, "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"))
		case seen.Has(x.Key):
			errs = append(errs, field.Duplicate(at.Child("key"), x.Key))
		}
		seen.Insert(x.Key)
		if x.ValueExpression == "" {
			errs = append(errs, field.Required(at.Child("valueExpression"), ""))
		}
	}
	return errs
}

// Flags are kube-apiserver's --oidc-* flags.
type Flags struct {
	IssuerURL, ClientID, CAFile                              string
	UsernameClaim, UsernamePrefix, GroupsClaim, GroupsPrefix string
	RequiredClaims                                           map[string]string
	Algorithms                                               []string
}

// Given tells whether any is in use.
func (f *Flags) Given() bool { return f.IssuerURL != "" || f.ClientID != "" }

// Config is what the flags mean; ca is what CAFile holds.
func (f *Flags) Config(ca string) (*configv1.AuthenticationConfiguration, error) {
	if f.IssuerURL == "" || f.ClientID == "" {
		return nil, errors.New("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set")
	}
	claim, prefix := f.UsernameClaim, f.UsernamePrefix
	if claim == "" {
		claim = "sub"
	}
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && claim != "email":
		// Upstream keeps users of an issuer apart from those of other ways in.
		prefix = f.IssuerURL + "#"
	}
	j := configv1.JWTAuthenticator{
		Issuer:        configv1.Issuer{URL: f.IssuerURL, Audiences: []string{f.ClientID}, CertificateAuthority: ca},
		ClaimMappings: configv1.ClaimMappings{Username: configv1.PrefixedClaimOrExpression{Claim: claim, Prefix: &prefix}},
	}
	if f.GroupsClaim != "" {
		j.ClaimMappings.Groups = configv1.PrefixedClaimOrExpression{Claim: f.GroupsClaim, Prefix: &f.GroupsPrefix}
	}
	for k, v := range f.RequiredClaims {
		j.ClaimValidationRules = append(j.ClaimValidationRules, configv1.ClaimValidationRule{Claim: k, RequiredValue: v})
	}
	c := &configv1.AuthenticationConfiguration{JWT: []configv1.JWTAuthenticator{j}}
	return c, Validate(c)
}
