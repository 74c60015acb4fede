package upkeep

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificates "k8s.io/api/certificates/v1"

	"orch/api"
	"orch/server/pki"
)

// signers are the built-in ones with what they refuse, in upstream's words.
var signers = map[string]func(*csr, *x509.CertificateRequest) error{
	certificates.KubeAPIServerClientSignerName:        func(r *csr, _ *x509.CertificateRequest) error { return checkClientUsages(r.Spec.Usages) },
	certificates.KubeAPIServerClientKubeletSignerName: checkKubeletClient,
	certificates.KubeletServingSignerName:             checkKubeletServing,
	"kubernetes.io/legacy-unknown":                    func(*csr, *x509.CertificateRequest) error { return nil },
}

// shortestLife is what a certificate gets that asks for less.
const shortestLife = 10 * time.Minute

// issue gives the certificate, or why the signer never will; err is what may pass.
func issue(p *pki.PKI, r *csr, check func(*csr, *x509.CertificateRequest) error) (cert []byte, refused, err error) {
	x, err := pki.ParseRequest(r.Spec.Request)
	if err != nil {
		return nil, fmt.Errorf("unable to parse csr %q: %w", r.Name, err), nil
	}
	if err := check(r, x); err != nil {
		return nil, err, nil
	}
	life := time.Duration(0)
	if r.Spec.ExpirationSeconds != nil {
		life = max(time.Duration(*r.Spec.ExpirationSeconds)*time.Second, shortestLife)
	}
	usage, extended := usagesOf(r.Spec.Usages)
	cert, err = p.SignRequest(pki.Request{CSR: x, Usage: usage, Extended: extended, LifeAtMost: life})
	return cert, nil, err
}

func checkClientUsages(usages []certificates.KeyUsage) error {
	for _, u := range usages {
		switch u {
		case certificates.UsageDigitalSignature, certificates.UsageKeyEncipherment, certificates.UsageClientAuth:
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !slices.Contains(usages, certificates.UsageClientAuth) {
		return fmt.Errorf("missing required usage for client certificate: %s", certificates.UsageClientAuth)
	}
	return nil
}

// exactUsages: signing and the purpose, with or without enciphering keys, which only RSA can.
func exactUsages(r *csr, purpose certificates.KeyUsage) error {
	all := []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageKeyEncipherment, purpose}
	slices.Sort(all)
	have := slices.Clone(r.Spec.Usages)
	slices.Sort(have)
	have = slices.Compact(have)
	without := slices.DeleteFunc(slices.Clone(all), func(u certificates.KeyUsage) bool { return u == certificates.UsageKeyEncipherment })
	if slices.Equal(have, all) || slices.Equal(have, without) {
		return nil
	}
	return fmt.Errorf("usages did not match %v", all)
}

func checkKubeletClient(r *csr, x *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(x.Subject.Organization, []string{api.GroupNodes}):
		return errors.New("subject organization is not system:nodes")
	case len(x.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(x.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed") //nolint:staticcheck // upstream's text
	case len(x.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(x.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	case !strings.HasPrefix(x.Subject.CommonName, api.UserNodePrefix):
		return errors.New("subject common name does not begin with system:node:")
	}
	return exactUsages(r, certificates.UsageClientAuth)
}

func checkKubeletServing(r *csr, x *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(x.Subject.Organization, []string{api.GroupNodes}):
		return errors.New("subject organization is not system:nodes")
	case len(x.DNSNames) == 0 && len(x.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(x.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed") //nolint:staticcheck // upstream's text
	case len(x.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	if err := exactUsages(r, certificates.UsageServerAuth); err != nil {
		return err
	}
	if !strings.HasPrefix(x.Subject.CommonName, api.UserNodePrefix) {
		return errors.New("subject common name does not begin with system:node:")
	}
	return nil
}

// usagesOf writes the usages of a request as certificates do.
func usagesOf(list []certificates.KeyUsage) (usage x509.KeyUsage, extended []x509.ExtKeyUsage) {
	for _, u := range list {
		usage |= keyUsages[u]
		if e, ok := extendedUsages[u]; ok && !slices.Contains(extended, e) {
			extended = append(extended, e)
		}
	}
	slices.Sort(extended)
	return usage, extended
}

var keyUsages = map[certificates.KeyUsage]x509.KeyUsage{
	certificates.UsageSigning: x509.KeyUsageDigitalSignature, certificates.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
	certificates.UsageContentCommitment: x509.KeyUsageContentCommitment, certificates.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
	certificates.UsageKeyAgreement: x509.KeyUsageKeyAgreement, certificates.UsageDataEncipherment: x509.KeyUsageDataEncipherment,
	certificates.UsageCertSign: x509.KeyUsageCertSign, certificates.UsageCRLSign: x509.KeyUsageCRLSign,
	certificates.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certificates.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
}

var extendedUsages = map[certificates.KeyUsage]x509.ExtKeyUsage{
	certificates.UsageAny: x509.ExtKeyUsageAny, certificates.UsageServerAuth: x509.ExtKeyUsageServerAuth, certificates.UsageClientAuth: x509.ExtKeyUsageClientAuth,
	certificates.UsageCodeSigning: x509.ExtKeyUsageCodeSigning, certificates.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
	certificates.UsageSMIME: x509.ExtKeyUsageEmailProtection, certificates.UsageIPsecEndSystem: x509.ExtKeyUsageIPSECEndSystem,
	certificates.UsageIPsecTunnel: x509.ExtKeyUsageIPSECTunnel, certificates.UsageIPsecUser: x509.ExtKeyUsageIPSECUser,
	certificates.UsageTimestamping: x509.ExtKeyUsageTimeStamping, certificates.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning,
	certificates.UsageMicrosoftSGC: x509.ExtKeyUsageMicrosoftServerGatedCrypto, certificates.UsageNetscapeSGC: x509.ExtKeyUsageNetscapeServerGatedCrypto,
}
