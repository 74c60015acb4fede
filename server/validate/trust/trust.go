// Package trust holds the rules of certificates beyond signing requests: bundles of
// trust anchors and the certificates that pods ask for, with upstream's paths and
// words. All functions are pure. Start reading at Bundle, then PodRequest.
package trust

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificates "k8s.io/api/certificates/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

var (
	metaPath   = field.NewPath("metadata")
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

const largestBundle = 1 << 20

// Bundle checks the name, which begins with the signer's, and the anchors.
func Bundle(o *certificates.ClusterTrustBundle) field.ErrorList {
	var e rule.Errors
	named(&e, o)
	anchors(&e, o.Spec.TrustBundle, specPath.Child("trustBundle"))
	return e.List()
}

// BundleUpdate also keeps the signer.
func BundleUpdate(o, old *certificates.ClusterTrustBundle) field.ErrorList {
	var e rule.Errors
	named(&e, o)
	if o.Spec.TrustBundle != old.Spec.TrustBundle {
		anchors(&e, o.Spec.TrustBundle, specPath.Child("trustBundle"))
	}
	e.Unchanged(specPath.Child("signerName"), o.Spec.SignerName, old.Spec.SignerName)
	return e.List()
}

// BundleName is the name rule; what the signer demands of the name is Bundle's.
func BundleName(name string, prefix bool) []string {
	if i := strings.LastIndex(name, ":"); i >= 0 {
		name = name[i+1:]
	}
	return apimachinery.NameIsDNSSubdomain(name, prefix)
}

func named(e *rule.Errors, o *certificates.ClusterTrustBundle) {
	signer, at := o.Spec.SignerName, metaPath.Child("name")
	if signer == "" {
		if strings.Contains(o.Name, ":") {
			e.Invalid(at, o.Name, "ClusterTrustBundle without signer name must not have \":\" in its name")
		}
		return
	}
	if want := strings.ReplaceAll(signer, "/", ":") + ":"; !strings.HasPrefix(o.Name, want) {
		e.Invalid(at, o.Name, fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, want))
	}
	e.Signer(specPath.Child("signerName"), signer)
}

// anchors wants certificates of authorities, each once, and nothing else.
func anchors(e *rule.Errors, text string, p *field.Path) {
	if len(text) > largestBundle {
		e.Add(field.TooLong(p, "", largestBundle))
		return
	}
	bad := func(format string, args ...any) { e.Invalid(p, "<value omitted>", fmt.Sprintf(format, args...)) }
	before, seen := e.Len(), map[string][]int{}
	var order []string
	rest := []byte(text)
	for i := 0; ; i++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		switch {
		case b.Type != "CERTIFICATE":
			bad("entry %d has bad block type: %v", i, b.Type)
		case len(b.Headers) != 0:
			bad("entry %d has PEM block headers", i)
		case err != nil:
			bad("entry %d does not parse as X.509", i)
		case !cert.IsCA:
			bad("entry %d does not have the CA bit set", i)
		case !cert.BasicConstraintsValid:
			bad("entry %d has invalid basic constraints", i)
		default:
			key := string(b.Bytes)
			if seen[key] == nil {
				order = append(order, key)
			}
			seen[key] = append(seen[key], i)
		}
	}
	if e.Len() > before {
		return
	}
	if len(seen) == 0 {
		bad("at least one trust anchor must be provided")
	}
	for _, key := range order {
		if len(seen[key]) > 1 {
			bad("duplicate trust anchor (indices %v)", seen[key])
		}
	}
}
