package issuer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

const (
	fetchTimeout = 10 * time.Second
	// fetchEvery bounds how often tokens with unknown keys make us ask the provider.
	fetchEvery = 10 * time.Second
	// maxDocument bounds a provider's documents.
	maxDocument = 1 << 20
)

// keySet is the provider's public keys, fetched when a token comes that none of the
// known ones has signed.
type keySet struct {
	issuer, discovery string
	client            *http.Client
	now               func() time.Time

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time
	failure error // of the last fetch
}

func newKeySet(is *configv1.Issuer, now func() time.Time) (*keySet, error) {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second}
	if is.CertificateAuthority != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(is.CertificateAuthority)) {
			return nil, errors.New("certificateAuthority: no certificate in it")
		}
		t.TLSClientConfig.RootCAs = roots
	}
	k := &keySet{issuer: is.URL, discovery: strings.TrimSuffix(is.URL, "/") + "/.well-known/openid-configuration", now: now,
		client: &http.Client{Transport: t, Timeout: fetchTimeout}}
	if is.DiscoveryURL != nil {
		k.discovery = *is.DiscoveryURL
	}
	return k, nil
}

func (k *keySet) verify(ctx context.Context, sig *jose.JSONWebSignature) ([]byte, error) {
	if len(sig.Signatures) != 1 {
		return nil, errors.New("expected one signature")
	}
	id := sig.Signatures[0].Header.KeyID
	keys, at := k.known()
	if raw, ok := verifyWith(keys, id, sig); ok {
		return raw, nil
	}
	keys, err := k.fetch(ctx, at)
	if err != nil {
		return nil, err
	}
	if raw, ok := verifyWith(keys, id, sig); ok {
		return raw, nil
	}
	return nil, errors.New("failed to verify id token signature")
}

func verifyWith(keys []jose.JSONWebKey, id string, sig *jose.JSONWebSignature) ([]byte, bool) {
	for i := range keys {
		if id != "" && keys[i].KeyID != "" && keys[i].KeyID != id {
			continue
		}
		if raw, err := sig.Verify(&keys[i]); err == nil {
			return raw, true
		}
	}
	return nil, false
}

func (k *keySet) known() ([]jose.JSONWebKey, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys, k.fetched
}

// fetch asks the provider, unless somebody did since seen or a moment ago. One asks at a time.
func (k *keySet) fetch(ctx context.Context, seen time.Time) ([]jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fetched.After(seen) || !k.fetched.IsZero() && k.now().Sub(k.fetched) < fetchEvery {
		return k.keys, k.failure
	}
	keys, err := k.ask(ctx)
	k.fetched, k.failure = k.now(), err
	if err == nil {
		k.keys = keys
	}
	return keys, err
}

func (k *keySet) ask(ctx context.Context) ([]jose.JSONWebKey, error) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout) // others wait for the answer too
	defer stop()
	var about struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := k.get(ctx, k.discovery, &about); err != nil {
		return nil, fmt.Errorf("oidc: authenticator not initialized: %w", err)
	}
	if about.Issuer != k.issuer {
		return nil, fmt.Errorf("oidc: issuer did not match the issuer returned by provider, expected %q got %q", k.issuer, about.Issuer)
	}
	if !strings.HasPrefix(about.Keys, "https://") {
		return nil, errors.New("oidc: the provider's jwks_uri is no https URL")
	}
	var set jose.JSONWebKeySet
	if err := k.get(ctx, about.Keys, &set); err != nil {
		return nil, fmt.Errorf("oidc: fetching keys: %w", err)
	}
	return set.Keys, nil
}

func (k *keySet) get(ctx context.Context, url string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := k.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, answer.Status)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("%s is not what it should be: %w", url, err)
	}
	return nil
}
