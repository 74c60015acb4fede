// Package join makes this machine a node of a server elsewhere: it pins the
// server's CA by the token's hash, gets the node's certificate signed, keeps both
// for the next start, renews the certificate in time, and holds the one outbound
// connection through which the server reaches the node. It refuses to know pods.
// Start reading at Join; ask.go has what is said to the server, tunnel.go the connection.
package join

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"orch/api"
)

const (
	firstPause = 200 * time.Millisecond
	longPause  = 15 * time.Second
	// longestWait is how long the clock is trusted: machines without a battery wake
	// in 1970 and are set later.
	longestWait = time.Hour
)

// Config of a membership.
type Config struct {
	// Server is the URL to join, Token the join token. The token may be empty once
	// the node has joined.
	Server, Token string
	NodeName      string
	// Dir keeps the node's key, certificate and what the server said.
	Dir string
	Log *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Membership is what a joined node has. Its certificate changes over time.
type Membership struct {
	cfg   Config
	url   *url.URL
	token Token // zero if there is none

	mu   sync.Mutex
	kept kept
	cert *tls.Certificate // nil without a good one
	due  time.Time        // when to renew it
}

// Join returns once the node has a certificate: the one it kept, or a new one, for
// which it waits until the server answers. A refusal (wrong token, name taken) is an error.
func Join(ctx context.Context, cfg Config) (*Membership, error) {
	m, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if m.cert != nil && m.kept.Server == m.url.String() {
		return m, nil // good for now; Run renews it
	}
	if m.cert == nil && m.token.Secret == "" {
		return nil, errNoToken
	}
	told := ""
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := m.renew(ctx)
		if err == nil {
			m.cfg.Log.Info("joined the cluster", "server", m.url.String(), "node", cfg.NodeName)
			return m, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if _, ok := errors.AsType[final](err); ok {
			return nil, fmt.Errorf("joining %s: %w", m.url, err)
		}
		if err.Error() != told {
			told = err.Error()
			m.cfg.Log.Warn("joining is not possible yet, trying again", "server", m.url.String(), "err", err)
		}
		if !wait(ctx, pause) {
			return nil, ctx.Err()
		}
	}
}

// open reads what the node has kept, and believes it where it fits what is asked for.
func open(cfg Config) (*Membership, error) {
	if cfg.NodeName == "" || cfg.Dir == "" {
		return nil, errors.New("joining: node name or directory missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	u, err := parseURL(cfg.Server)
	if err != nil {
		return nil, err
	}
	m := &Membership{cfg: cfg, url: u}
	if m.token, err = ParseToken(cfg.Token); err != nil && !errors.Is(err, errNoToken) {
		return nil, err
	}
	k, err := load(cfg.Dir)
	if err != nil || k.Answer.Certificate == "" {
		m.kept = k
		return m, err
	}
	if m.token.Check([]byte(k.Answer.CA)) != nil {
		m.cfg.Log.Info("the token is of another CA than the one this node had joined: joining anew")
		m.kept = kept{Password: k.Password}
		return m, nil
	}
	if err := m.use(k); err != nil {
		m.cfg.Log.Info("joining anew", "because", err)
		m.kept = k
		m.kept.Answer.Certificate = ""
	}
	return m, nil
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
	pair, err := tls.X509KeyPair([]byte(k.Answer.Certificate), []byte(k.Key))
	if err != nil {
		return fmt.Errorf("reading the node's certificate: %w", err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return fmt.Errorf("reading the node's certificate: %w", err)
		}
	}
	now, until := m.cfg.Now(), pair.Leaf.NotAfter
	if now.After(until) {
		return fmt.Errorf("the node's certificate expired on %s", until.Format(time.DateTime))
	}
	if name := pair.Leaf.Subject.CommonName; name != api.UserNodePrefix+m.cfg.NodeName {
		return fmt.Errorf("the certificate is of %q, not of node %q", name, m.cfg.NodeName)
	}
	for _, cidr := range []string{k.Answer.ClusterCIDR, k.Answer.ServiceCIDR} {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			return fmt.Errorf("reading what the server said of the cluster: %w", err)
		}
	}
	// When it began does not count: certificates begin in 1970, for clocks that do.
	due := now.Add(until.Sub(now) * 2 / 3)
	if k.Answer.RenewAfter.After(now) && k.Answer.RenewAfter.Before(until) {
		due = k.Answer.RenewAfter
	}
	m.mu.Lock()
	m.kept, m.cert, m.due = k, &pair, due
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

// renew asks the server for a certificate for a new key: with the token, and with
// the present certificate if there is one.
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
		// Kept before the server hears of it: from then on it is needed for this name.
		b := make([]byte, 16)
		rand.Read(b)
		next.Password = hex.EncodeToString(b)
		if err := next.save(m.cfg.Dir); err != nil {
			return final{err}
		}
		m.mu.Lock()
		m.kept.Password = next.Password
		m.mu.Unlock()
	}
	answer, err := m.post(ctx, ca, api.JoinRequest{NodeName: m.cfg.NodeName, NodePassword: next.Password, CSR: string(csr)})
	if err != nil {
		return err
	}
	next.Key, next.Server, next.Answer = string(key), m.url.String(), answer
	next.Answer.CA = string(ca)
	if err := m.use(next); err != nil {
		return refusedf("its answer is of no use: %w", err)
	}
	if err := next.save(m.cfg.Dir); err != nil {
		return final{err}
	}
	return nil
}

// pinned holds a CA against the token, or against the CA that the node has
// believed since it joined.
func (m *Membership) pinned(ca []byte) error {
	if err := m.token.Check(ca); err != nil {
		return refusedf("%w", err)
	}
	known := m.CA()
	switch {
	case m.token.CAHash != "", bytes.Equal(ca, known):
		return nil
	case len(known) == 0:
		m.cfg.Log.Warn("the token does not name the server's CA, so that nobody can tell whether this is the right server: better use the whole token, K10...")
		return nil
	}
	return refusedf("its CA is not the one that this node has joined: if the server was set up anew, join with its whole new token (K10...), or remove %s",
		filepath.Join(m.cfg.Dir, keptFile))
}

// Run renews the certificate when the server said so, or when two thirds of its
// life are over. It ends with ctx; a renewal that fails is tried again while the old
// certificate lasts, and after.
func (m *Membership) Run(ctx context.Context) error {
	told := ""
	for {
		m.mu.Lock()
		due, until := m.due, m.cert.Leaf.NotAfter
		m.mu.Unlock()
		if left := due.Sub(m.cfg.Now()); left > 0 {
			if !wait(ctx, min(left, longestWait)) {
				return nil
			}
			continue
		}
		pause := min(longestWait, max(longPause, until.Sub(m.cfg.Now())/10))
		if err := m.renew(ctx); err == nil {
			m.cfg.Log.Info("renewed the node's certificate")
			told, pause = "", min(longPause, m.cert.Leaf.NotAfter.Sub(m.cfg.Now())/2)
		} else if ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			m.cfg.Log.Warn("renewing the node's certificate failed, trying again", "expires", until, "err", err)
		}
		if !wait(ctx, pause) {
			return nil
		}
	}
}
