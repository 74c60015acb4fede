package trust

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

const (
	shortestSeconds  = 60 * 60
	longestOfCluster = 24 * 60 * 60 // of signers of kubernetes.io
	longestSeconds   = 91 * 24 * 60 * 60
	largestStub      = 10 << 10
	largestChain     = 10 << 10
	longestUID       = 128
)

// PodRequest checks who asks, for how long and with which key.
func PodRequest(o *certificates.PodCertificateRequest) field.ErrorList {
	var e rule.Errors
	s := &o.Spec
	e.Signer(specPath.Child("signerName"), s.SignerName)
	e.Join(apimachinery.ValidateAnnotations(s.UnverifiedUserAnnotations, specPath.Child("unverifiedUserAnnotations")))
	who := func(field, name string, id types.UID) {
		at := specPath.Child(field + "Name")
		e.ObjectName(at, name)
		at = specPath.Child(field + "UID")
		if id == "" {
			e.Invalid(at, id, "must not be empty")
		}
		e.Shorter(at, string(id), longestUID)
	}
	who("pod", s.PodName, s.PodUID)
	who("serviceAccount", s.ServiceAccountName, s.ServiceAccountUID)
	who("node", string(s.NodeName), s.NodeUID)
	longest, at := int32(longestSeconds), specPath.Child("maxExpirationSeconds")
	if domain, _, _ := strings.Cut(s.SignerName, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		longest = longestOfCluster
	}
	switch m := s.MaxExpirationSeconds; {
	case m == nil:
		e.Required(at, "must be set")
	case *m < shortestSeconds || *m > longest:
		e.Invalid(at, *m, fmt.Sprintf("must be in the range [%d, %d]", shortestSeconds, longest))
	}
	stub(&e, s.StubPKCS10Request, specPath.Child("stubPKCS10Request"))
	return e.List()
}

// stub wants a PKCS#10 request that its own key has signed.
func stub(e *rule.Errors, der []byte, p *field.Path) {
	if len(der) > largestStub {
		e.Add(field.TooLong(p, "", largestStub))
		return
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		e.Invalid(p, field.OmitValueType{}, "must be a valid PKCS#10 request in DER")
		return
	}
	if err := r.CheckSignature(); err != nil {
		e.Invalid(p, field.OmitValueType{}, "could not verify proof-of-possession signature")
	}
}

// PodRequestUpdate keeps the spec.
func PodRequestUpdate(o, old *certificates.PodCertificateRequest) field.ErrorList {
	var e rule.Errors
	e.Unchanged(specPath, o.Spec, old.Spec)
	return e.List()
}

// The life of a request: it waits, until a signer writes one of three ends, with
// the certificate where it is the first.
//
//	pending --> Issued | Denied | Failed
const (
	issued = certificates.PodCertificateRequestConditionTypeIssued
	denied = certificates.PodCertificateRequestConditionTypeDenied
	failed = certificates.PodCertificateRequestConditionTypeFailed
)

func end(o *certificates.PodCertificateRequest) string {
	for _, c := range o.Status.Conditions {
		if c.Status == metav1.ConditionTrue && (c.Type == issued || c.Type == denied || c.Type == failed) {
			return c.Type
		}
	}
	return ""
}

// PodRequestStatus checks the step that a signer takes.
func PodRequestStatus(o, old *certificates.PodCertificateRequest) field.ErrorList {
	var e rule.Errors
	conditions(&e, o.Status.Conditions, statusPath.Child("conditions"))
	if e.Len() > 0 {
		return e.List()
	}
	same := func(a, b certificates.PodCertificateRequestStatus, detail string) {
		if !equality.Semantic.DeepEqual(a, b) {
			e.Invalid(statusPath, field.OmitValueType{}, detail)
		}
	}
	switch {
	case end(old) != "":
		same(o.Status, old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	case end(o) == issued:
		certificate(&e, o, old)
	case end(o) != "":
		same(o.Status, certificates.PodCertificateRequestStatus{Conditions: o.Status.Conditions}, "non-condition status fields must be empty when denying or failing the PodCertificateRequest")
	default:
		same(o.Status, old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	}
	return e.List()
}

func conditions(e *rule.Errors, list []metav1.Condition, p *field.Path) {
	ends := 0
	for i, c := range list {
		switch c.Type {
		case issued, denied, failed:
			if ends++; ends > 1 {
				e.Invalid(p.Index(i).Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`)
			}
			rule.Among(e, p.Index(i).Child("status"), c.Status, metav1.ConditionTrue)
		default:
			rule.Among(e, p.Index(i).Child("type"), c.Type, issued, denied, failed)
		}
	}
	e.Join(metavalidation.ValidateConditions(list, p))
}

// certificate wants a chain for the requested key, and the times that it has.
func certificate(e *rule.Errors, o, old *certificates.PodCertificateRequest) {
	s, at := &o.Status, statusPath.Child("certificateChain")
	if len(s.CertificateChain) > largestChain {
		e.Add(field.TooLong(at, "", largestChain))
		return
	}
	leaf := chain(e, s.CertificateChain, at)
	if leaf == nil {
		return
	}
	if want, err := x509.ParseCertificateRequest(old.Spec.StubPKCS10Request); err != nil || !equal(want.PublicKey, leaf.PublicKey) {
		e.Invalid(at, s.CertificateChain, "leaf certificate was not issued to the requested public key")
		return
	}
	times(e, s, leaf)
	switch life := leaf.NotAfter.Sub(leaf.NotBefore); {
	case life < time.Hour:
		e.Invalid(at, life, "leaf certificate lifetime must be >= 1 hour")
	case o.Spec.MaxExpirationSeconds != nil && life > time.Duration(*o.Spec.MaxExpirationSeconds)*time.Second:
		e.Invalid(at, life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v)", *o.Spec.MaxExpirationSeconds))
	}
}

func equal(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// chain parses the certificates and gives the first, nil if one is bad.
func chain(e *rule.Errors, text string, p *field.Path) *x509.Certificate {
	var leaf *x509.Certificate
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		switch {
		case b.Type != "CERTIFICATE":
			e.Invalid(p, text, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
			return nil
		case err != nil && leaf == nil:
			e.Invalid(p, text, "leaf certificate does not parse as valid X.509")
			return nil
		case err != nil:
			e.Invalid(p, text, "intermediate certificate does not parse as valid X.509")
			return nil
		case leaf == nil:
			leaf = cert
		}
	}
	if leaf == nil {
		e.Invalid(p, text, "issued certificate chain must contain at least one certificate")
	}
	return leaf
}

func times(e *rule.Errors, s *certificates.PodCertificateRequestStatus, leaf *x509.Certificate) {
	before, after, refresh := statusPath.Child("notBefore"), statusPath.Child("notAfter"), statusPath.Child("beginRefreshAt")
	if s.NotBefore == nil {
		e.Required(before, "must be present and consistent with the issued certificate")
	} else if !s.NotBefore.Time.Equal(leaf.NotBefore) {
		e.Invalid(before, s.NotBefore.Time, "must be set to the NotBefore time encoded in the leaf certificate")
	}
	if s.NotAfter == nil {
		e.Required(after, "must be present and consistent with the issued certificate")
	} else if !s.NotAfter.Time.Equal(leaf.NotAfter) {
		e.Invalid(after, s.NotAfter.Time, "must be set to the NotAfter time encoded in the leaf certificate")
	}
	const margin = 10 * time.Minute
	switch r := s.BeginRefreshAt; {
	case r == nil:
		e.Required(refresh, "must be present and in the range [notbefore+10min, notafter-10min]")
	case r.Time.Before(leaf.NotBefore.Add(margin)):
		e.Invalid(refresh, r.Time, "must be at least 10 minutes after status.notBefore")
	case r.Time.After(leaf.NotAfter.Add(-margin)):
		e.Invalid(refresh, r.Time, "must be at least 10 minutes before status.notAfter")
	}
}
