package upkeep

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/access"
	"orch/server/pki"
	"orch/server/registry"
)

type csr = certificates.CertificateSigningRequest

// perRequest makes the Do of a controller of certificate requests.
func perRequest(c *client.Client, do func(context.Context, *csr) (reconcile.Result, error)) func(context.Context, reconcile.Key) (reconcile.Result, error) {
	return func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
		r := client.Cached(c, api.CertificateSigningRequests, "", k.Name)
		if r == nil {
			return reconcile.Result{}, nil
		}
		res, err := do(ctx, r)
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return res, err
	}
}

func condition(r *csr, t certificates.RequestConditionType) *certificates.CertificateSigningRequestCondition {
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == t {
			return &r.Status.Conditions[i]
		}
	}
	return nil
}

// approval approves what kubelets ask for themselves, where RBAC lets them.
func approval(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "certificate-approval", Watches: []reconcile.Watch{reconcile.For(api.CertificateSigningRequests)},
		Do: perRequest(d.Client, func(ctx context.Context, r *csr) (reconcile.Result, error) {
			if len(r.Status.Certificate) > 0 || condition(r, certificates.CertificateApproved) != nil || condition(r, certificates.CertificateDenied) != nil {
				return reconcile.Result{}, nil
			}
			sub, message := approvable(r)
			if sub == "" || !d.Access.May(access.Attributes{
				User: requester(r), Verb: "create", Group: certificates.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: sub,
			}) {
				return reconcile.Result{}, nil
			}
			n := r.DeepCopy()
			n.Status.Conditions = append(n.Status.Conditions, certificates.CertificateSigningRequestCondition{
				Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: "AutoApproved", Message: message,
				LastUpdateTime: metav1.NewTime(d.Now()), LastTransitionTime: metav1.NewTime(d.Now()),
			})
			_, err := d.Client.Update(ctx, client.Target{Kind: api.CertificateSigningRequests.Facts, Name: r.Name, Subresource: "approval"}, n, metav1.UpdateOptions{})
			return reconcile.Result{}, err
		}),
	}
}

func requester(r *csr) registry.User {
	u := registry.User{Name: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups}
	for k, v := range r.Spec.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return u
}

// approvable names the right that the request takes, empty if it is no client
// certificate of a node.
func approvable(r *csr) (sub, message string) {
	x, err := pki.ParseRequest(r.Spec.Request)
	if err != nil || r.Spec.SignerName != certificates.KubeAPIServerClientKubeletSignerName || checkKubeletClient(r, x) != nil {
		return "", ""
	}
	if r.Spec.Username == x.Subject.CommonName {
		return "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."
	}
	return "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."
}

// signing issues what was approved, for the built-in signers.
func signing(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "certificate-signing", Watches: []reconcile.Watch{reconcile.For(api.CertificateSigningRequests)},
		Do: perRequest(d.Client, func(ctx context.Context, r *csr) (reconcile.Result, error) {
			check, ours := signers[r.Spec.SignerName]
			if !ours || len(r.Status.Certificate) > 0 || condition(r, certificates.CertificateApproved) == nil ||
				condition(r, certificates.CertificateFailed) != nil || condition(r, certificates.CertificateDenied) != nil {
				return reconcile.Result{}, nil
			}
			n := r.DeepCopy()
			cert, err := issue(d.PKI, r, check)
			if err != nil {
				n.Status.Conditions = append(n.Status.Conditions, certificates.CertificateSigningRequestCondition{
					Type: certificates.CertificateFailed, Status: core.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
					LastUpdateTime: metav1.NewTime(d.Now()), LastTransitionTime: metav1.NewTime(d.Now()),
				})
			} else {
				n.Status.Certificate = cert
			}
			_, err = client.UpdateStatus(ctx, d.Client, api.CertificateSigningRequests, n)
			return reconcile.Result{}, err
		}),
	}
}

// signers are the built-in ones with what they refuse.
var signers = map[string]func(*csr, *x509.CertificateRequest) error{
	certificates.KubeAPIServerClientSignerName:        checkClient,
	certificates.KubeAPIServerClientKubeletSignerName: checkKubeletClient,
	certificates.KubeletServingSignerName:             checkKubeletServing,
	"kubernetes.io/legacy-unknown":                    func(*csr, *x509.CertificateRequest) error { return nil },
}

func issue(p *pki.PKI, r *csr, check func(*csr, *x509.CertificateRequest) error) ([]byte, error) {
	x, err := pki.ParseRequest(r.Spec.Request)
	if err != nil {
		return nil, fmt.Errorf("unable to parse csr %q: %w", r.Name, err)
	}
	if err := check(r, x); err != nil {
		return nil, err
	}
	_, isRSA := x.PublicKey.(*rsa.PublicKey)
	profile := pki.Profile{
		Name: x.Subject.CommonName, Groups: x.Subject.Organization, DNS: x.DNSNames, IPs: x.IPAddresses,
		Server: has(r, certificates.UsageServerAuth), Client: has(r, certificates.UsageClientAuth),
		EncipherKeys: isRSA && has(r, certificates.UsageKeyEncipherment),
	}
	if r.Spec.ExpirationSeconds != nil {
		profile.LifeAtMost = max(time.Duration(*r.Spec.ExpirationSeconds)*time.Second, 10*time.Minute)
	}
	return p.Sign(profile, x.PublicKey)
}

func has(r *csr, u certificates.KeyUsage) bool { return slices.Contains(r.Spec.Usages, u) }

// onlyUsages: all of need, none beyond may.
func onlyUsages(r *csr, need certificates.KeyUsage, may ...certificates.KeyUsage) bool {
	return has(r, need) && !slices.ContainsFunc(r.Spec.Usages, func(u certificates.KeyUsage) bool { return u != need && !slices.Contains(may, u) })
}

func checkClient(r *csr, _ *x509.CertificateRequest) error {
	if !onlyUsages(r, certificates.UsageClientAuth, certificates.UsageDigitalSignature, certificates.UsageKeyEncipherment) {
		return fmt.Errorf("invalid usages for client certificate: %v", r.Spec.Usages)
	}
	return nil
}

func checkNodeName(x *x509.CertificateRequest) error {
	if !slices.Equal(x.Subject.Organization, []string{api.GroupNodes}) {
		return errors.New("subject organization is not system:nodes")
	}
	if !strings.HasPrefix(x.Subject.CommonName, api.UserNodePrefix) {
		return errors.New("subject common name does not begin with system:node:")
	}
	if len(x.EmailAddresses) > 0 || len(x.URIs) > 0 {
		return errors.New("email and URI subjectAltNames are not allowed")
	}
	return nil
}

func checkKubeletClient(r *csr, x *x509.CertificateRequest) error {
	if err := checkNodeName(x); err != nil {
		return err
	}
	if len(x.DNSNames) > 0 || len(x.IPAddresses) > 0 {
		return errors.New("DNS and IP subjectAltNames are not allowed")
	}
	return checkClient(r, x)
}

func checkKubeletServing(r *csr, x *x509.CertificateRequest) error {
	if err := checkNodeName(x); err != nil {
		return err
	}
	if len(x.DNSNames) == 0 && len(x.IPAddresses) == 0 {
		return errors.New("DNS or IP subjectAltName is required")
	}
	if x.Subject.CommonName != r.Spec.Username {
		return errors.New("requested subject is not that of the requester")
	}
	if !onlyUsages(r, certificates.UsageServerAuth, certificates.UsageDigitalSignature, certificates.UsageKeyEncipherment) {
		return fmt.Errorf("invalid usages for serving certificate: %v", r.Spec.Usages)
	}
	return nil
}

// How long requests are kept, as upstream keeps them.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// requestCleanup deletes requests that are over.
func requestCleanup(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "certificate-cleanup", Watches: []reconcile.Watch{reconcile.For(api.CertificateSigningRequests)},
		Do: perRequest(d.Client, func(ctx context.Context, r *csr) (reconcile.Result, error) {
			end := r.CreationTimestamp.Add(keepPending)
			for _, c := range r.Status.Conditions {
				if c.LastUpdateTime.IsZero() {
					continue
				}
				if at := c.LastUpdateTime.Add(keepDecided); at.Before(end) || c.Type == certificates.CertificateApproved {
					end = at
				}
			}
			if left := end.Sub(d.Now()); left > 0 {
				return reconcile.Result{After: left}, nil
			}
			return reconcile.Result{}, client.Delete(ctx, d.Client, api.CertificateSigningRequests, "", r.Name, metav1.DeleteOptions{})
		}),
	}
}
