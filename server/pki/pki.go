// Package pki owns the cluster's certificates, signing keys and join tokens: it
// makes them at the first start, keeps them under <data-dir>/server/tls, renews
// what runs out while the server runs, and signs what nodes and users ask for. It
// decides nothing about who may ask: that is server/access and server/join.
// Start reading at Config, then New, then leaf.go for what is issued.
//
//	<dir>/
//	  tls/
//	    server-ca.crt, .key     signs the serving certificate; its hash is in join tokens
//	    client-ca.crt, .key     signs user and node client certificates
//	    request-header-ca.crt, .key  signs front proxies: who has such a certificate may say whom a request is from
//	    serving-apiserver.crt, .key
//	    client-admin.crt, .key  system:admin in system:masters, for the kubeconfig
//	    client-auth-proxy.crt, .key  system:auth-proxy, with which the API turns to aggregated ones
//	    service.key             signs service account tokens
//	  token                     K10<sha256 of server-ca.crt>::server:<secret>
//	  node-token                a link to token
//
// Authorities live ten years and are never replaced by themselves. Leaves live a
// year and are issued anew once less than 120 days are left. All of them begin in
// 1970: boards without a battery wake there, and must be able to join and to serve
// before they know the time.
package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	caLife     = 10 * 365 * 24 * time.Hour
	leafLife   = 365 * 24 * time.Hour
	renewBelow = 120 * 24 * time.Hour
	// checkEvery bounds how long a clock jump can leave a leaf unrenewed.
	checkEvery = 12 * time.Hour
)

// Config says what certificates are for. It is not changed after New.
type Config struct {
	// Dir is <data-dir>/server.
	Dir string
	// Hostname, IPs and SANs (names or addresses) go into the serving certificate,
	// beside localhost and the in-cluster names of the API.
	Hostname string
	IPs      []net.IP
	SANs     []string
	// ClusterDomain is empty for cluster.local.
	ClusterDomain string
	// Token is the secret part that joining nodes must know, or a whole K10 token;
	// empty keeps what <dir>/token has, or makes one.
	Token string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// PKI holds what New loaded or made. Its fields do not change, but for the leaves.
type PKI struct {
	cfg    Config
	server *authority
	client *authority
	proxy  *authority
	// serving is the leaf now in use; Run replaces it.
	serving atomic.Pointer[tls.Certificate]
	// proxying is the leaf of the API as a front proxy.
	proxying atomic.Pointer[tls.Certificate]
	// renewing is held while leaves are issued anew.
	renewing sync.Mutex
	service  *ecdsa.PrivateKey
	// token is replaced by RotateToken.
	token atomic.Pointer[Token]
}

// New loads the certificates under cfg.Dir and makes those that are missing or
// run out soon.
func New(cfg Config) (*PKI, error) {
	if cfg.Dir == "" {
		return nil, fmt.Errorf("setting up certificates: no directory given")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	p := &PKI{cfg: cfg}
	if err := os.MkdirAll(p.path(), 0o700); err != nil {
		return nil, fmt.Errorf("making the certificate directory: %w", err)
	}
	for _, step := range []func() error{p.loadAuthorities, p.loadServiceKey, p.loadToken, p.refreshServing, p.refreshAdmin, p.refreshProxy} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Run renews the leaves in time until ctx ends. Connections made afterwards see
// the new certificate; nothing is restarted.
func (p *PKI) Run(ctx context.Context) error {
	t := time.NewTicker(checkEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			// The old leaf still serves for months; the next tick tries again.
			if err := p.Renew(); err != nil {
				p.cfg.Log.Error("renewing certificates failed", "err", err)
			}
		}
	}
}

// Renew issues the leaves anew that run out soon or lack a name. Run calls it, and
// a handshake that finds its certificate over.
func (p *PKI) Renew() error {
	p.renewing.Lock()
	defer p.renewing.Unlock()
	if err := p.refreshServing(); err != nil {
		return err
	}
	if err := p.refreshProxy(); err != nil {
		return err
	}
	return p.refreshAdmin()
}

func (p *PKI) loadAuthorities() (err error) {
	// The token is written behind the authorities: without it a start was cut short
	// before anybody could have seen them.
	_, terr := os.Stat(filepath.Join(p.cfg.Dir, "token"))
	seen := terr == nil
	if p.server, err = loadAuthority(p.path("server-ca"), "orch-server-ca", p.cfg.Now(), seen); err != nil {
		return err
	}
	if p.client, err = loadAuthority(p.path("client-ca"), "orch-client-ca", p.cfg.Now(), seen); err != nil {
		return err
	}
	// Nobody holds on to this one: its readers follow the ConfigMap that publishes it.
	p.proxy, err = loadAuthority(p.path("request-header-ca"), "orch-request-header-ca", p.cfg.Now(), false)
	return err
}

func (p *PKI) loadServiceKey() error {
	key, err := loadKey(p.path("service.key"))
	p.service = key
	return err
}

// ServerCA is the PEM of the authority that signs the API's serving certificate,
// as GET /cacerts gives it and pods find it.
func (p *PKI) ServerCA() []byte { return p.server.pem }

// ClientCA is the PEM of the authority that signs client certificates.
func (p *PKI) ClientCA() []byte { return p.client.pem }

// FrontProxyCA is the PEM of the authority that signs front proxies.
func (p *PKI) FrontProxyCA() []byte { return p.proxy.pem }

// FrontProxy is the certificate that the API shows to aggregated ones, renewed in
// time: ask for it at each handshake (tls.Config.GetClientCertificate).
func (p *PKI) FrontProxy() *tls.Certificate { return p.proxying.Load() }

// VerifyFrontProxy checks the certificate chain of a front proxy.
func (p *PKI) VerifyFrontProxy(chain []*x509.Certificate) error {
	return p.proxy.verify(chain, p.cfg.Now())
}

// ServiceKey signs service account tokens.
func (p *PKI) ServiceKey() *ecdsa.PrivateKey { return p.service }

// Token is what nodes join with.
func (p *PKI) Token() Token { return *p.token.Load() }

// TLSConfig is for the API's listener: it asks for client certificates but leaves
// checking them to VerifyClient, so that a bad one is answered with 401 and not
// with a broken handshake.
func (p *PKI) TLSConfig() *tls.Config {
	asked := x509.NewCertPool()
	asked.AddCert(p.client.cert)
	asked.AddCert(p.proxy.cert)
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		ClientAuth:     tls.RequestClientCert,
		ClientCAs:      asked,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.fresh() },
		// Lists are long and clients near: small first records would cost more than they hasten.
		DynamicRecordSizingDisabled: true,
	}
}

// VerifyClient checks a client certificate chain against the client authority.
func (p *PKI) VerifyClient(chain []*x509.Certificate) error {
	return p.client.verify(chain, p.cfg.Now())
}

// verify checks that a leads to a client's leaf by way of the rest of the chain.
func (a *authority) verify(chain []*x509.Certificate, now time.Time) error {
	if len(chain) == 0 {
		return fmt.Errorf("verifying client certificate: none given")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: a.pool(), Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

func (p *PKI) path(name ...string) string {
	return filepath.Join(append([]string{p.cfg.Dir, "tls"}, name...)...)
}

// authority is a certificate authority with its key.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	pem   []byte
	roots *x509.CertPool
}

func (a *authority) pool() *x509.CertPool { return a.roots }
