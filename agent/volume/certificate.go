package volume

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
)

const (
	// issueWait bounds how long a mount waits for a signer before the pod is tried again.
	issueWait = 10 * time.Second
	// certificateSeconds is how long a certificate is asked for where the pod does not say.
	certificateSeconds = 24 * 60 * 60
	// refreshSpread keeps the nodes of a cluster from renewing at the same moment.
	refreshSpread = 5 * time.Minute
)

// certificateKey names one projected certificate of a pod.
type certificateKey struct {
	pod    types.UID
	volume string
	source int
}

// credential is a key with its certificate, and the request for the next one. It is kept
// in memory only and belongs to whoever makes the pod's volumes: one at a time.
type credential struct {
	key, chain []byte
	refresh    time.Time
	// request is under way, with nextKey; empty for none. refused says why there will be none.
	request, refused string
	nextKey          []byte
}

// credentialOf finds or begins the credential of a source.
func (v *Volumes) credentialOf(key certificateKey) *credential {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.credentials[key]
	if c == nil {
		c = &credential{}
		v.credentials[key] = c
	}
	return c
}

func (v *Volumes) forgetCredentialsLocked(uid types.UID) {
	for k := range v.credentials {
		if k.pod == uid {
			delete(v.credentials, k)
		}
	}
}

// certificate puts a key and its certificate into the volume. Without one yet it asks for it and
// waits a moment; an old one serves until the next is issued.
func (k *collector) certificate(s *core.PodCertificateProjection, source int) error {
	c := k.credentialOf(certificateKey{k.pod.UID, k.volume, source})
	if c.chain == nil || !k.now().Before(c.refresh) {
		if err := k.issue(c, s); err != nil {
			if c.chain == nil {
				return err
			}
			k.log.Warn("renewing a pod's certificate failed", "pod", k.pod.UID, "volume", k.volume, "err", err)
		}
	}
	if c.chain == nil {
		return fmt.Errorf("PodCertificateRequest %s/%s has not been issued yet", k.pod.Namespace, c.request)
	}
	at := c.refresh
	if !k.now().Before(at) { // the next is under way, or refused
		at = k.now().Add(longPause)
	}
	if k.refresh.IsZero() || at.Before(k.refresh) {
		k.refresh = at
	}
	for path, data := range map[string][]byte{s.CredentialBundlePath: append(c.key[:len(c.key):len(c.key)], c.chain...), s.KeyPath: c.key, s.CertificateChainPath: c.chain} {
		if path == "" {
			continue
		}
		if err := k.putToken(path, data); err != nil {
			return err
		}
	}
	return nil
}

// issue asks for a certificate, unless that was done, and takes over what was decided.
func (k *collector) issue(c *credential, s *core.PodCertificateProjection) error {
	if c.refused != "" {
		return fmt.Errorf("%s", c.refused)
	}
	if c.request == "" {
		if err := k.ask(c, s); err != nil {
			return err
		}
	}
	wait := issueWait
	if c.chain != nil {
		wait = 0 // the old one serves: a change of the request brings us here again
	}
	r, err := k.decided(c.request, wait)
	if err != nil || r == nil {
		return err
	}
	for _, cond := range r.Status.Conditions {
		switch cond.Type {
		case certificates.PodCertificateRequestConditionTypeIssued:
			c.key, c.chain, c.request, c.nextKey = c.nextKey, chainOf(r.Status.CertificateChain), "", nil
			c.refresh = r.Status.BeginRefreshAt.Add(mathrand.N(refreshSpread))
		case certificates.PodCertificateRequestConditionTypeDenied:
			c.refused = fmt.Sprintf("PodCertificateRequest %s/%s was denied, reason=%q, message=%q", r.Namespace, r.Name, cond.Reason, cond.Message)
		case certificates.PodCertificateRequestConditionTypeFailed:
			c.refused = fmt.Sprintf("PodCertificateRequest %s/%s failed, reason=%q, message=%q", r.Namespace, r.Name, cond.Reason, cond.Message)
		}
	}
	if c.refused != "" {
		return fmt.Errorf("%s", c.refused)
	}
	return nil
}

// ask makes a key and a request with the proof that we have it.
func (k *collector) ask(c *credential, s *core.PodCertificateProjection) error {
	account, err := client.Get(k.ctx, k.client, api.ServiceAccounts, k.pod.Namespace, k.pod.Spec.ServiceAccountName)
	if err != nil {
		return fmt.Errorf("while fetching service account: %w", err)
	}
	node, err := client.Get(k.ctx, k.client, api.Nodes, "", k.pod.Spec.NodeName)
	if err != nil {
		return fmt.Errorf("while getting node object: %w", err)
	}
	key, err := newKey(s.KeyType)
	if err != nil {
		return fmt.Errorf("while generating keypair: %w", err)
	}
	proof, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fmt.Errorf("while generating keypair: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("while PEM-encoding private key: %w", err)
	}
	seconds := int32(certificateSeconds)
	if s.MaxExpirationSeconds != nil {
		seconds = *s.MaxExpirationSeconds
	}
	made, err := client.Create(k.ctx, k.client, api.PodCertificateRequests, &certificates.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: k.pod.Namespace, GenerateName: "req-", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Pod", Name: k.pod.Name, UID: k.pod.UID}}},
		Spec: certificates.PodCertificateRequestSpec{SignerName: s.SignerName, PodName: k.pod.Name, PodUID: k.pod.UID,
			ServiceAccountName: account.Name, ServiceAccountUID: account.UID, NodeName: types.NodeName(node.Name), NodeUID: node.UID,
			MaxExpirationSeconds: &seconds, StubPKCS10Request: proof, UnverifiedUserAnnotations: s.UserAnnotations},
	})
	if err != nil {
		return fmt.Errorf("while creating PodCertificateRequest: %w", err)
	}
	c.request, c.nextKey = made.Name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return nil
}

// decided returns the request once a signer has decided; nil if none has in time. Until then its changes wake us.
func (k *collector) decided(name string, wait time.Duration) (*certificates.PodCertificateRequest, error) {
	mine := fields.AndSelectors(fields.OneTermEqualSelector("metadata.name", name), fields.OneTermEqualSelector("spec.nodeName", k.pod.Spec.NodeName)).String()
	target := client.Target{Kind: api.PodCertificateRequests.Facts, Namespace: k.pod.Namespace}
	list, err := k.client.List(k.ctx, target, metav1.ListOptions{FieldSelector: mine})
	if err != nil {
		return nil, fmt.Errorf("while getting PodCertificateRequest: %w", err)
	}
	u := use{reference: reference{kind: target.Kind, namespace: target.Namespace, selector: mine}}
	defer func() { k.uses = append(k.uses, u) }()
	for _, o := range list.Items {
		u.version = o.GetResourceVersion()
		if r, ok := o.(*certificates.PodCertificateRequest); ok && len(r.Status.Conditions) > 0 {
			return r, nil
		}
	}
	if wait == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(k.ctx, wait)
	defer cancel()
	w, err := k.client.Watch(ctx, target, metav1.ListOptions{FieldSelector: mine, ResourceVersion: list.ResourceVersion})
	if err != nil {
		return nil, fmt.Errorf("while watching PodCertificateRequest: %w", err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, nil
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil, nil
			}
			if r, is := e.Object.(*certificates.PodCertificateRequest); is {
				u.version = r.ResourceVersion
				if len(r.Status.Conditions) > 0 {
					return r, nil
				}
			}
		}
	}
}

// newKey makes a key of one of the kinds that the API knows.
func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown key type %q", kind)
}

// chainOf keeps the certificates of a chain and nothing between them.
func chainOf(text string) (out []byte) {
	for b, rest := pem.Decode([]byte(text)); b != nil; b, rest = pem.Decode(rest) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Bytes})...)
	}
	return out
}
