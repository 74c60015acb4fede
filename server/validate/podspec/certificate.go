package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How long a pod may ask its certificate to be valid: an hour at least, a day from
// the cluster's own signers, else 91 days.
const (
	shortestCertificate  = 60 * 60
	longestOfCluster     = 24 * 60 * 60
	longestCertificate   = 91 * 24 * 60 * 60
	clusterSignersDomain = "kubernetes.io"
)

// certificateKeys are the kinds of keys that the node can make.
var certificateKeys = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

// certificate checks a projected pod certificate. taken notes a path of the volume.
func (c *spec) certificate(s *core.PodCertificateProjection, p *field.Path, taken func(path string, value any)) {
	e := &c.Errors
	e.Signer(p.Child("signerName"), s.SignerName)
	at := p.Child("userAnnotations")
	for _, k := range slices.Sorted(maps.Keys(s.UserAnnotations)) {
		e.Join(validation.IsDomainPrefixedKey(at, strings.ToLower(k)))
	}
	if apimachinery.ValidateAnnotationsSize(s.UserAnnotations) != nil {
		e.Add(field.TooLong(at, "", apimachinery.TotalAnnotationSizeLimitB))
	}
	if !slices.Contains(certificateKeys, s.KeyType) {
		e.Add(field.NotSupported(p.Child("keyType"), s.KeyType, certificateKeys))
	}
	c.certificateTime(s, p.Child("maxExpirationSeconds"))
	some := false
	for _, path := range []struct{ field, value string }{
		{"credentialBundlePath", s.CredentialBundlePath}, {"keyPath", s.KeyPath}, {"certificateChainPath", s.CertificateChainPath}} {
		if path.value == "" {
			continue
		}
		some = true
		c.localPath(path.value, p.Child(path.field))
		taken(path.value, path.value)
	}
	if !some {
		e.Required(p, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
}

func (c *spec) certificateTime(s *core.PodCertificateProjection, p *field.Path) {
	if s.MaxExpirationSeconds == nil {
		return
	}
	n := *s.MaxExpirationSeconds
	if n < shortestCertificate {
		c.Invalid(p, n, "if provided, maxExpirationSeconds must be >= 3600")
	}
	longest := int32(longestCertificate)
	if domain, _, _ := strings.Cut(s.SignerName, "/"); domain == clusterSignersDomain || strings.HasSuffix(domain, "."+clusterSignersDomain) {
		longest = longestOfCluster
	}
	if n > longest {
		c.Invalid(p, n, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", longest))
	}
}
