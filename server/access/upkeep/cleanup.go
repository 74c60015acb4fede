package upkeep

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificates "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// How long requests are kept, as upstream keeps them: keepOver those that came to an end,
// keepOpen those that nobody decided about or signed.
const (
	keepOver = time.Hour
	keepOpen = 24 * time.Hour
)

// requestCleanup deletes requests that are over.
func requestCleanup(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "certificate-cleanup", Watches: []reconcile.Watch{reconcile.For(api.CertificateSigningRequests)},
		Do: perRequest(d.Client, func(ctx context.Context, r *csr) (reconcile.Result, error) {
			end, ends := lastDay(r)
			if !ends {
				return reconcile.Result{}, nil
			}
			if left := end.Sub(d.Now()); left > 0 {
				return reconcile.Result{After: left}, nil
			}
			return reconcile.Result{}, client.Delete(ctx, d.Client, api.CertificateSigningRequests, "", r.Name, metav1.DeleteOptions{})
		}),
	}
}

// lastDay is when a request may go; false for one that stays, such as one whose conditions
// have no times. It is pure.
func lastDay(r *csr) (end time.Time, ends bool) {
	sooner := func(at time.Time) {
		if !ends || at.Before(end) {
			end, ends = at, true
		}
	}
	if len(r.Status.Conditions) == 0 {
		sooner(r.CreationTimestamp.Add(keepOpen))
	}
	issued := len(r.Status.Certificate) > 0
	for _, c := range r.Status.Conditions {
		approved := c.Type == certificates.CertificateApproved
		if approved && issued {
			if over, ok := notAfter(r.Status.Certificate); ok {
				sooner(over)
			}
		}
		switch {
		case c.LastUpdateTime.IsZero():
		case approved && !issued:
			sooner(c.LastUpdateTime.Add(keepOpen))
		case approved, c.Type == certificates.CertificateDenied, c.Type == certificates.CertificateFailed:
			sooner(c.LastUpdateTime.Add(keepOver))
		}
	}
	return end, ends
}

// notAfter is the end of the first certificate in text.
func notAfter(text []byte) (time.Time, bool) {
	b, _ := pem.Decode(text)
	if b == nil {
		return time.Time{}, false
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return time.Time{}, false
	}
	return c.NotAfter, true
}
