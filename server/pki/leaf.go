package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"orch/api"
)

// Profile is what a signed certificate says, whatever the request said beyond it.
type Profile struct {
	Name       string
	Groups     []string
	DNS        []string
	IPs        []net.IP
	Server     bool
	Client     bool
	LifeAtMost time.Duration // 0: a year
}

// sign issues a leaf for a public key.
func (a *authority) sign(p Profile, public any, now time.Time) ([]byte, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	life := leafLife
	if p.LifeAtMost > 0 && p.LifeAtMost < life {
		life = p.LifeAtMost
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: p.Name, Organization: p.Groups},
		DNSNames: p.DNS, IPAddresses: p.IPs,
		NotBefore: a.cert.NotBefore, NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	if p.Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if p.Client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing certificate for %s: %w", p.Name, err)
	}
	return encodeCert(der), nil
}

// ParseRequest reads a PEM certificate request and checks its own signature.
func ParseRequest(csr []byte) (*x509.CertificateRequest, error) {
	b, _ := pem.Decode(csr)
	if b == nil || b.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	r, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing certificate request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("checking certificate request: %w", err)
	}
	return r, nil
}

// SignNode issues the client certificate of a node: the request gives only the key.
func (p *PKI) SignNode(node string, csr []byte) ([]byte, error) {
	r, err := ParseRequest(csr)
	if err != nil {
		return nil, err
	}
	return p.client.sign(Profile{Name: api.UserNodePrefix + node, Groups: []string{api.GroupNodes}, Client: true}, r.PublicKey, p.cfg.Now())
}

// Sign issues a leaf of a profile by the client authority.
func (p *PKI) Sign(profile Profile, public any) ([]byte, error) {
	return p.client.sign(profile, public, p.cfg.Now())
}

// Request is a certificate request with what its signer made of it: subject, names and key
// come from the request, nothing else does.
type Request struct {
	CSR        *x509.CertificateRequest
	Usage      x509.KeyUsage
	Extended   []x509.ExtKeyUsage
	LifeAtMost time.Duration // 0: a year
}

const (
	// backdate forgives clocks of others that are behind.
	backdate = 5 * time.Minute
	// short lives are not shortened by it.
	short = 8 * time.Hour
)

// SignRequest issues what the built-in signers sign, by the client authority.
func (p *PKI) SignRequest(r Request) ([]byte, error) {
	a, now, life := p.client, p.cfg.Now(), leafLife
	if r.LifeAtMost > 0 {
		life = min(life, r.LifeAtMost)
	}
	if !now.Before(a.cert.NotAfter) {
		return nil, fmt.Errorf("refusing to sign a certificate that expired in the past: NotAfter=%v", a.cert.NotAfter)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: r.CSR.Subject, DNSNames: r.CSR.DNSNames, IPAddresses: r.CSR.IPAddresses,
		EmailAddresses: r.CSR.EmailAddresses, URIs: r.CSR.URIs,
		KeyUsage: r.Usage, ExtKeyUsage: r.Extended, BasicConstraintsValid: true,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
	}
	if life >= short {
		t.NotAfter = t.NotAfter.Add(-backdate)
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, r.CSR.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("failed to sign certificate: %w", err)
	}
	return encodeCert(der), nil
}

// ClientPair makes a key and a client certificate for a user.
func (p *PKI) ClientPair(user string, groups ...string) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making key for %s: %w", user, err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	certPEM, err = p.client.sign(Profile{Name: user, Groups: groups, Client: true}, key.Public(), p.cfg.Now())
	return certPEM, keyPEM, err
}

// fresh is the serving certificate for a handshake. It is renewed here too when the
// clock has jumped: a board that woke in 1970 issues a leaf that is over as soon as
// it knows the time.
func (p *PKI) fresh() (*tls.Certificate, error) {
	c := p.serving.Load()
	if p.cfg.Now().Before(c.Leaf.NotAfter) {
		return c, nil
	}
	if err := p.Renew(); err != nil {
		return nil, err
	}
	return p.serving.Load(), nil
}

// refreshServing loads the serving certificate or issues it anew: when it is
// missing, damaged, runs out soon, is of another authority or lacks a name.
func (p *PKI) refreshServing() error {
	want := p.servingProfile()
	cert, err := p.refreshLeaf("serving-apiserver", p.server, want)
	if err != nil {
		return err
	}
	p.serving.Store(cert)
	return nil
}

func (p *PKI) refreshAdmin() error {
	_, err := p.refreshLeaf("client-admin", p.client, Profile{Name: "system:admin", Groups: []string{api.GroupMasters}, Client: true})
	return err
}

// AuthProxyName is the name in the certificate of the API as a front proxy.
const AuthProxyName = "system:auth-proxy"

func (p *PKI) refreshProxy() error {
	cert, err := p.refreshLeaf("client-auth-proxy", p.proxy, Profile{Name: AuthProxyName, Client: true})
	if err != nil {
		return err
	}
	p.proxying.Store(cert)
	return nil
}

func (p *PKI) refreshLeaf(name string, by *authority, want Profile) (*tls.Certificate, error) {
	base, now := p.path(name), p.cfg.Now()
	if cert, err := tls.LoadX509KeyPair(base+".crt", base+".key"); err == nil && leafGood(cert.Leaf, by, want, now) {
		return &cert, nil
	}
	key, err := loadKey(base + ".key")
	if err != nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
			err = writeKey(base+".key", key)
		}
		if err != nil {
			return nil, fmt.Errorf("issuing %s: %w", name, err)
		}
	}
	raw, err := by.sign(want, key.Public(), now)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(raw, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("issuing %s: %w", name, err)
	}
	return &cert, writeFile(base+".crt", raw)
}

// leafGood tells whether a leaf on disk may go on being used.
func leafGood(c *x509.Certificate, by *authority, want Profile, now time.Time) bool {
	if c == nil || c.CheckSignatureFrom(by.cert) != nil || c.Subject.CommonName != want.Name {
		return false
	}
	if now.Before(c.NotBefore) || c.NotAfter.Sub(now) < renewBelow {
		return false
	}
	for _, d := range want.DNS {
		if !slices.Contains(c.DNSNames, d) {
			return false
		}
	}
	for _, ip := range want.IPs {
		if !slices.ContainsFunc(c.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

// servingProfile lists every name under which the API may be reached.
func (p *PKI) servingProfile() Profile {
	w := Profile{Name: "kube-apiserver", Server: true}
	w.DNS = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + p.cfg.ClusterDomain}
	w.IPs = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	if p.cfg.Hostname != "" {
		w.DNS = append(w.DNS, strings.ToLower(p.cfg.Hostname))
	}
	w.IPs = append(w.IPs, p.cfg.IPs...)
	for _, s := range p.cfg.SANs {
		if ip := net.ParseIP(s); ip != nil {
			w.IPs = append(w.IPs, ip)
		} else {
			w.DNS = append(w.DNS, s)
		}
	}
	slices.Sort(w.DNS)
	w.DNS = slices.Compact(w.DNS)
	w.IPs = slices.DeleteFunc(w.IPs, func(ip net.IP) bool { return ip == nil || ip.IsUnspecified() })
	return w
}

// Kubeconfig is that of system:admin, for an API server at url.
func (p *PKI) Kubeconfig(url string) ([]byte, error) {
	cert, err := os.ReadFile(p.path("client-admin.crt"))
	if err != nil {
		return nil, fmt.Errorf("making kubeconfig: %w", err)
	}
	key, err := os.ReadFile(p.path("client-admin.key"))
	if err != nil {
		return nil, fmt.Errorf("making kubeconfig: %w", err)
	}
	return kubeconfig(url, p.ServerCA(), cert, key), nil
}
