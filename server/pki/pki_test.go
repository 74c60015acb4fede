package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func make_(t *testing.T, dir string, now time.Time, change func(*Config)) (*PKI, error) {
	t.Helper()
	c := Config{Dir: dir, Hostname: "Box", IPs: []net.IP{net.ParseIP("192.0.2.7")}, Now: func() time.Time { return now }}
	if change != nil {
		change(&c)
	}
	return New(c)
}

func must(t *testing.T, dir string, now time.Time, change func(*Config)) *PKI {
	t.Helper()
	p, err := make_(t, dir, now, change)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var day = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func serving(p *PKI) *x509.Certificate { return p.serving.Load().Leaf }

func TestNamesAndModes(t *testing.T) {
	dir := t.TempDir()
	p := must(t, dir, day, func(c *Config) { c.SANs = []string{"api.example.com", "198.51.100.4"} })
	leaf := serving(p)
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "box", "192.0.2.7", "api.example.com", "198.51.100.4"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if i, err := d.Info(); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v)", path, i.Mode().Perm(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := leaf.NotAfter.Sub(day); got != 365*24*time.Hour {
		t.Errorf("leaf lives %v", got)
	}
	if !p.server.cert.NotBefore.Equal(epoch) {
		t.Errorf("authority begins %v: a board that wakes in 1970 could not join", p.server.cert.NotBefore)
	}
}

func TestRenewal(t *testing.T) {
	for _, tc := range []struct {
		name    string
		later   time.Duration
		change  func(*Config)
		renewed bool
	}{
		{"next day", 24 * time.Hour, nil, false},
		{"121 days left", (365 - 121) * 24 * time.Hour, nil, false},
		{"119 days left", (365 - 119) * 24 * time.Hour, nil, true},
		{"long over", 3 * 365 * 24 * time.Hour, nil, true},
		{"a clock that went back", -56 * 365 * 24 * time.Hour, nil, false},
		{"another address", 0, func(c *Config) { c.IPs = []net.IP{net.ParseIP("192.0.2.8")} }, true},
		{"another name", 0, func(c *Config) { c.SANs = []string{"new.example.com"} }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			before := must(t, dir, day, nil)
			after := must(t, dir, day.Add(tc.later), tc.change)
			if !bytes.Equal(before.ServerCA(), after.ServerCA()) || !bytes.Equal(before.ClientCA(), after.ClientCA()) {
				t.Error("the authorities changed")
			}
			if renewed := !serving(before).Equal(serving(after)); renewed != tc.renewed {
				t.Errorf("renewed: %v, want %v", renewed, tc.renewed)
			}
			if err := serving(after).CheckSignatureFrom(after.server.cert); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRenewalWhileRunning(t *testing.T) {
	now := day
	p := must(t, t.TempDir(), now, func(c *Config) { c.Now = func() time.Time { return now } })
	get := p.TLSConfig().GetCertificate
	first, _ := get(nil)
	now = now.Add(300 * 24 * time.Hour)
	if err := p.Renew(); err != nil {
		t.Fatal(err)
	}
	second, _ := get(&tls.ClientHelloInfo{})
	if first.Leaf.Equal(second.Leaf) {
		t.Error("the listener still serves the old certificate")
	}
}

func TestClockIsSetLate(t *testing.T) {
	now := time.Unix(1000, 0)
	p := must(t, t.TempDir(), now, func(c *Config) { c.Now = func() time.Time { return now } })
	now = day
	c, err := p.TLSConfig().GetCertificate(nil)
	if err != nil || now.After(c.Leaf.NotAfter) || now.After(p.server.cert.NotAfter) {
		t.Errorf("the certificate of a board that woke in 1970 is of no use once it knows the time: %v", err)
	}
}

func TestDamage(t *testing.T) {
	for _, tc := range []struct{ name, remove, write, says string }{
		{"CA certificate lost", "tls/server-ca.crt", "", "is missing; restore it or remove the key"},
		{"CA key lost", "tls/server-ca.key", "", "no such file"},
		{"CA key of another", "", "tls/server-ca.key", "does not belong to"},
		{"leaf damaged", "", "tls/serving-apiserver.crt", ""},
		{"leaf lost", "tls/serving-apiserver.key", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, dir, day, nil)
			if tc.remove != "" {
				if err := os.Remove(filepath.Join(dir, tc.remove)); err != nil {
					t.Fatal(err)
				}
			}
			if tc.write != "" {
				b, err := os.ReadFile(filepath.Join(dir, "tls/client-ca.key"))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, tc.write), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := make_(t, dir, day, nil)
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("not mended: %v", err)
			case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
}

func request(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: []string{"system:masters"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestFirstStartCutShort(t *testing.T) {
	dir := t.TempDir()
	must(t, dir, day, nil)
	for _, f := range []string{"token", "tls/client-ca.crt", "tls/serving-apiserver.crt"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := make_(t, dir, day, nil); err != nil {
		t.Errorf("a power cut at the first start is not survived: %v", err)
	}
}

func TestNodeCertificate(t *testing.T) {
	now := day
	p := must(t, t.TempDir(), day, func(c *Config) { c.Now = func() time.Time { return now } })
	raw, err := p.SignNode("n1", request(t, "whoever"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCert(raw)
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject.CommonName != "system:node:n1" || len(c.Subject.Organization) != 1 || c.Subject.Organization[0] != "system:nodes" {
		t.Errorf("subject %v: the request must not decide it", c.Subject)
	}
	if err := p.VerifyClient([]*x509.Certificate{c}); err != nil {
		t.Error(err)
	}
	now = day.Add(366 * 24 * time.Hour)
	if err := p.VerifyClient([]*x509.Certificate{c}); err == nil {
		t.Error("an expired certificate is accepted")
	}
	now = day
	if err := p.VerifyClient([]*x509.Certificate{serving(p)}); err == nil {
		t.Error("a serving certificate passes as a client's")
	}
	if _, err := p.SignNode("n1", []byte("junk")); err == nil {
		t.Error("junk was signed")
	}
}

func TestToken(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for _, tc := range []struct {
		name, in string
		want     Token
		bad      bool
	}{
		{"long", "K10" + hash + "::server:secret", Token{hash, "server", "secret"}, false},
		{"node", "K10" + hash + "::node:a:b", Token{hash, "node", "a:b"}, false},
		{"short", "secret\n", Token{"", "server", "secret"}, false},
		{"short that begins alike", "K10nothing", Token{"", "server", "K10nothing"}, false},
		{"cut hash", "K10abcd::server:secret", Token{}, true},
		{"no secret", "K10" + hash + "::server:", Token{}, true},
		{"empty", " ", Token{}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseToken(tc.in)
			if (err != nil) != tc.bad || got != tc.want {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

func TestTokenOnDisk(t *testing.T) {
	dir := t.TempDir()
	p := must(t, dir, day, nil)
	raw, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseToken(string(raw))
	if err != nil || got != p.Token() || got.CAHash != HashCA(p.ServerCA()) || len(got.Secret) < 20 {
		t.Errorf("%+v %v", got, err)
	}
	if again := must(t, dir, day, nil); again.Token() != p.Token() {
		t.Error("a restart changed the token")
	}
	if given := must(t, dir, day, func(c *Config) { c.Token = "mine" }); given.Token().Secret != "mine" || given.Token().CAHash == "" {
		t.Errorf("%+v", given.Token())
	}
	if _, err := make_(t, dir, day, func(c *Config) { c.Token = "K10" + strings.Repeat("00", 32) + "::server:x" }); err == nil {
		t.Error("a token of another cluster was taken")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "node-token")); err != nil || !strings.HasSuffix(strings.TrimSpace(string(b)), ":mine") {
		t.Errorf("node-token: %s %v", b, err)
	}
	if !p.Token().Accepts("server", p.Token().Secret) || !p.Token().Accepts("node", p.Token().Secret) || p.Token().Accepts("server", "x") || p.Token().Accepts("admin", p.Token().Secret) {
		t.Error("Accepts is wrong")
	}
}

func TestFrontProxy(t *testing.T) {
	p := must(t, t.TempDir(), day, nil)
	leaf := p.FrontProxy().Leaf
	if leaf.Subject.CommonName != AuthProxyName {
		t.Errorf("the proxy is called %q", leaf.Subject.CommonName)
	}
	if err := p.VerifyFrontProxy([]*x509.Certificate{leaf}); err != nil {
		t.Error(err)
	}
	if err := p.VerifyClient([]*x509.Certificate{leaf}); err == nil {
		t.Error("a front proxy passes as a user")
	}
	raw, _, err := p.ClientPair("alice")
	if err != nil {
		t.Fatal(err)
	}
	user, err := parseCert(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.VerifyFrontProxy([]*x509.Certificate{user}); err == nil {
		t.Error("a user passes as a front proxy")
	}
}
