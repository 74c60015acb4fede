// Package join makes this machine a node of a server elsewhere: it pins the
// server's CA by the token's hash, gets the node's certificate signed, keeps both
// for the next start, renews the certificate in time, and holds the one outbound
// connection through which the server reaches the node. It refuses to know pods.
// Start reading at Join.
package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
)

const (
	requestTimeout = 15 * time.Second
	maxAnswer      = 1 << 20
	firstPause     = 200 * time.Millisecond
	longPause      = 15 * time.Second
)

// Config of a membership.
type Config struct {
	// Server is the URL to join, Token the join token.
	Server, Token string
	NodeName      string
	// Dir keeps the node's key, certificate and what the server said.
	Dir string
	Log *slog.Logger
}

// Membership is what a joined node has. Its certificate changes over time.
type Membership struct {
	cfg   Config
	url   *url.URL
	token Token

	mu   sync.Mutex
	kept kept
	cert *tls.Certificate
}

// errRefused: the server has answered, and trying again will not help.
var errRefused = errors.New("the server refused")

// Join returns once the node has a certificate: the one it kept, or a new one, for
// which it waits until the server answers. A refusal (wrong token, name taken) is an error.
func Join(ctx context.Context, cfg Config) (*Membership, error) {
	if cfg.NodeName == "" || cfg.Dir == "" {
		return nil, fmt.Errorf("joining: node name or directory missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	u, err := parseURL(cfg.Server)
	if err != nil {
		return nil, err
	}
	m := &Membership{cfg: cfg, url: u}
	if m.kept, err = load(cfg.Dir); err != nil {
		return nil, err
	}
	if err := m.use(m.kept); err == nil && m.kept.Server == u.String() {
		return m, nil // good for now; Run renews it
	}
	if m.token, err = ParseToken(cfg.Token); err != nil {
		return nil, err
	}
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := m.renew(ctx)
		if err == nil {
			return m, nil
		}
		if errors.Is(err, errRefused) || ctx.Err() != nil {
			return nil, fmt.Errorf("joining %s: %w", u, err)
		}
		cfg.Log.Warn("joining is not possible yet", "server", u.String(), "err", err)
		if !wait(ctx, pause) {
			return nil, ctx.Err()
		}
	}
}

// wait returns false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// use makes k the identity, if it still holds.
func (m *Membership) use(k kept) error {
	if k.Answer.Certificate == "" {
		return errors.New("no certificate yet")
	}
	pair, err := tls.X509KeyPair([]byte(k.Answer.Certificate), []byte(k.Key))
	if err != nil {
		return fmt.Errorf("reading the node's certificate: %w", err)
	}
	if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
		return fmt.Errorf("reading the node's certificate: %w", err)
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return fmt.Errorf("the node's certificate expired on %s", pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	m.mu.Lock()
	m.kept, m.cert = k, &pair
	m.mu.Unlock()
	return nil
}

// Certificate is the node's present client certificate.
func (m *Membership) Certificate() (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cert, nil
}

// Cluster is what the server said about the cluster.
func (m *Membership) Cluster() api.JoinAnswer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept.Answer
}

// CA of the server, as PEM. Server is its URL.
func (m *Membership) CA() []byte     { return []byte(m.Cluster().CA) }
func (m *Membership) Server() string { return m.url.String() }

// renew asks the server for a certificate for a new key.
func (m *Membership) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	ca, err := m.authority(ctx)
	if err != nil {
		return err
	}
	key, csr, err := newKey(m.cfg.NodeName)
	if err != nil {
		return err
	}
	m.mu.Lock()
	next := m.kept
	m.mu.Unlock()
	if next.Password == "" {
		b := make([]byte, 16)
		rand.Read(b)
		next.Password = hex.EncodeToString(b)
	}
	body, err := json.Marshal(api.JoinRequest{NodeName: m.cfg.NodeName, NodePassword: next.Password, CSR: string(csr)})
	if err != nil {
		return err
	}
	next.Key, next.Server = string(key), m.url.String()
	next.Answer = api.JoinAnswer{}
	if err := m.post(ctx, ca, body, &next.Answer); err != nil {
		return err
	}
	next.Answer.CA = string(ca)
	if err := m.use(next); err != nil {
		return err
	}
	return next.save(m.cfg.Dir)
}

// authority fetches the server's CA and holds it against the token (or against
// the CA that the node has believed since it joined).
func (m *Membership) authority(ctx context.Context) ([]byte, error) {
	unseen := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url.String()+api.PathCACerts, nil)
	if err != nil {
		return nil, err
	}
	a, err := unseen.Do(q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	ca, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK || len(ca) == 0 {
		return nil, fmt.Errorf("%w: %s answered %s: is it an orch server?", errRefused, api.PathCACerts, a.Status)
	}
	if err := m.token.Check(ca); err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	return ca, nil
}

func (m *Membership) post(ctx context.Context, ca, body []byte, answer *api.JoinAnswer) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return fmt.Errorf("%w: its CA is no certificate", errRefused)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url.String()+api.PathJoin, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.SetBasicAuth(m.token.User, m.token.Secret)
	q.Header.Set("Content-Type", "application/json")
	a, err := c.Do(q)
	var mismatch x509.HostnameError
	if errors.As(err, &mismatch) {
		return fmt.Errorf("%w: its certificate is not for %s: start the server with --tls-san %s", errRefused, m.url.Hostname(), m.url.Hostname())
	}
	if err != nil {
		return err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
	if err != nil {
		return err
	}
	if a.StatusCode/100 == 2 {
		return json.Unmarshal(b, answer)
	}
	var status metav1.Status
	if json.Unmarshal(b, &status) != nil || status.Message == "" {
		status.Message = a.Status
	}
	if a.StatusCode/100 == 4 && a.StatusCode != http.StatusTooManyRequests {
		return fmt.Errorf("%w: %s", errRefused, status.Message)
	}
	return errors.New(status.Message)
}

// newKey makes a key and the request to certify it for the node.
func newKey(node string) (key, csr []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the node's key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("making the node's key: %w", err)
	}
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: api.UserNodePrefix + node, Organization: []string{api.GroupNodes}}}
	b, err := x509.CreateCertificateRequest(rand.Reader, request, k)
	if err != nil {
		return nil, nil, fmt.Errorf("making the node's certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: b}), nil
}

// Run renews the certificate when two thirds of its life are over. It ends with
// ctx; a renewal that fails is tried again while the old certificate lasts.
func (m *Membership) Run(ctx context.Context) error {
	for {
		c, _ := m.Certificate()
		life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
		if !wait(ctx, max(0, time.Until(c.Leaf.NotAfter.Add(-life/3)))) {
			return nil
		}
		var err error
		if m.token, err = ParseToken(m.cfg.Token); err == nil {
			err = m.renew(ctx)
		}
		if err != nil {
			m.cfg.Log.Warn("renewing the node's certificate failed", "expires", c.Leaf.NotAfter, "err", err)
			if !wait(ctx, min(time.Hour, max(longPause, time.Until(c.Leaf.NotAfter)/10))) {
				return nil
			}
		}
	}
}
