package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"time"
)

// epoch is where certificates begin: no clock is before it.
var epoch = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)

// loadAuthority reads <base>.crt and <base>.key or makes them. One without the
// other is an error once others have seen the authority: making a new one would
// cut off everybody who trusts the old one.
func loadAuthority(base, name string, now time.Time, seen bool) (*authority, error) {
	raw, err := os.ReadFile(base + ".crt")
	if errors.Is(err, fs.ErrNotExist) {
		if _, kerr := os.Stat(base + ".key"); kerr == nil && seen {
			return nil, fmt.Errorf("loading authority %s: %s.key is there but %s.crt is missing; restore it or remove the key", name, base, base)
		}
		return makeAuthority(base, name, now)
	}
	if err != nil {
		return nil, fmt.Errorf("loading authority %s: %w", name, err)
	}
	cert, err := parseCert(raw)
	if err != nil {
		return nil, fmt.Errorf("loading authority %s.crt: %w", base, err)
	}
	key, err := readKey(base + ".key")
	if err != nil {
		return nil, fmt.Errorf("loading authority %s: %w", name, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("loading authority %s: %s.key does not belong to %s.crt", name, base, base)
	}
	return newAuthority(cert, key, raw), nil
}

func makeAuthority(base, name string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making authority %s: %w", name, err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	// A clock that is still in the past must not make an authority that is over
	// as soon as the clock is set: its life counts from 2026 at the earliest.
	start := now
	if floor := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC); start.Before(floor) {
		start = floor
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: fmt.Sprintf("%s@%d", name, now.Unix())},
		NotBefore: epoch, NotAfter: start.Add(caLife),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making authority %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making authority %s: %w", name, err)
	}
	raw := encodeCert(der)
	// The certificate marks completion, so it is written last; a crash in between
	// is told apart by loadAuthority.
	if err := writeKey(base+".key", key); err != nil {
		return nil, err
	}
	if err := writeFile(base+".crt", raw); err != nil {
		return nil, errors.Join(err, os.Remove(base+".key"))
	}
	return newAuthority(cert, key, raw), nil
}

func newAuthority(cert *x509.Certificate, key *ecdsa.PrivateKey, raw []byte) *authority {
	a := &authority{cert: cert, key: key, pem: raw, roots: x509.NewCertPool()}
	a.roots.AddCert(cert)
	return a
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

func parseCert(raw []byte) (*x509.Certificate, error) {
	b, _ := pem.Decode(raw)
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate in it")
	}
	return x509.ParseCertificate(b.Bytes)
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
