package encryption

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"

	"golang.org/x/crypto/nacl/secretbox"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"orch/server/encryption/kms"
)

// What stands before a sealed value, as upstream lays it out in etcd:
// k8s:enc:<provider>:v1:<key name>:<what the cipher makes>.
const (
	sealedPrefix    = "k8s:enc:"
	secretboxPrefix = "k8s:enc:secretbox:v1:"
	aescbcPrefix    = "k8s:enc:aescbc:v1:"
	aesgcmPrefix    = "k8s:enc:aesgcm:v1:"
	kmsPrefix       = "k8s:enc:kms:v2:"
)

var (
	errShort     = errors.New("the stored data was shorter than the required size")
	errNoMatch   = errors.New("no matching prefix found")
	errEncrypted = errors.New("identity transformer tried to read encrypted data")
)

// box is one key of one provider. Its prefix is empty for the identity provider,
// which has no cipher.
type box struct {
	prefix []byte
	// missing is the error for a value of the same provider under a key that is not there.
	provider []byte
	missing  error
	cipher   sealer
}

// sealer is a cipher; at is the key of the store under which the value lies.
type sealer interface {
	seal(dst, plain, at []byte) ([]byte, error)
	open(sealed, at []byte) ([]byte, error)
}

// dated is a sealer whose own key changes: old tells that a value of it lies under one
// that is not the key of today.
type dated interface{ old(sealed []byte) bool }

// boxes lists the keys of providers in the order of the configuration, which has been
// checked. plugins has the KMS that it names.
func boxes(providers []configv1.ProviderConfiguration, plugins plugins) ([]box, error) {
	var out []box
	add := func(prefix, name string, keys []configv1.Key, make func([]byte) (sealer, error)) error {
		for _, k := range keys {
			raw, err := base64.StdEncoding.DecodeString(k.Secret)
			if err != nil {
				return errors.New(errBase64)
			}
			c, err := make(raw)
			if err != nil {
				return fmt.Errorf("key %q: %w", k.Name, err)
			}
			out = append(out, box{
				prefix: []byte(prefix + k.Name + ":"), provider: []byte(prefix), cipher: c,
				missing: fmt.Errorf("no matching key was found for the provided %s transformer", name),
			})
		}
		return nil
	}
	for _, p := range providers {
		var err error
		switch {
		case p.Secretbox != nil:
			err = add(secretboxPrefix, "Secretbox", p.Secretbox.Keys, newSecretbox)
		case p.AESCBC != nil:
			err = add(aescbcPrefix, "AES", p.AESCBC.Keys, newCBC)
		case p.AESGCM != nil:
			err = add(aesgcmPrefix, "AES", p.AESGCM.Keys, newGCM)
		case p.KMS != nil:
			prefix := []byte(kmsPrefix + p.KMS.Name + ":")
			out = append(out, box{prefix: prefix, provider: prefix, cipher: remoteCipher{plugins[p.KMS.Name]}})
		case p.Identity != nil:
			out = append(out, box{})
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sealWith seals by the first of the boxes.
func sealWith(list []box, at, plain []byte) ([]byte, error) {
	first := &list[0]
	if first.cipher == nil {
		return plain, nil
	}
	dst := make([]byte, len(first.prefix), len(first.prefix)+len(plain)+64)
	copy(dst, first.prefix)
	return first.cipher.seal(dst, plain, at)
}

// openWith tries every box whose prefix is that of the value, as upstream's prefix
// transformers do: one that fails does not keep a later one from being tried.
func openWith(list []box, at, sealed []byte) ([]byte, error) {
	var failed error
	for i := range list {
		b := &list[i]
		switch {
		case b.cipher == nil:
			if !bytes.HasPrefix(sealed, []byte(sealedPrefix)) {
				return sealed, nil
			}
		case bytes.HasPrefix(sealed, b.prefix):
			plain, err := b.cipher.open(sealed[len(b.prefix):], at)
			if err == nil {
				return plain, nil
			}
			failed = err
		case failed == nil && bytes.HasPrefix(sealed, b.provider):
			failed = b.missing
		}
	}
	if failed == nil {
		failed = errNoMatch
	}
	return nil, failed
}

// staleIn tells whether sealWith would not choose the box of the value.
func staleIn(list []box, sealed []byte) bool {
	if list[0].cipher == nil {
		return bytes.HasPrefix(sealed, []byte(sealedPrefix))
	}
	rest, ok := bytes.CutPrefix(sealed, list[0].prefix)
	if !ok {
		return true
	}
	d, ok := list[0].cipher.(dated)
	return ok && d.old(rest)
}

// remoteCipher leaves the key to a KMS.
type remoteCipher struct{ *kms.Provider }

func (c remoteCipher) seal(dst, plain, at []byte) ([]byte, error) { return c.Seal(dst, plain, at) }
func (c remoteCipher) open(sealed, at []byte) ([]byte, error)     { return c.Open(sealed, at) }
func (c remoteCipher) old(sealed []byte) bool                     { return c.Stale(sealed) }

// secretboxCipher: a random nonce, then XSalsa20 and Poly1305.
type secretboxCipher struct{ key [32]byte }

const secretboxNonce = 24

func newSecretbox(key []byte) (sealer, error) {
	c := &secretboxCipher{}
	if copy(c.key[:], key) != len(c.key) {
		return nil, errors.New("the key is not 32 bytes long")
	}
	return c, nil
}

func (c *secretboxCipher) seal(dst, plain, _ []byte) ([]byte, error) {
	var nonce [secretboxNonce]byte
	_, _ = rand.Read(nonce[:]) // it never fails: it ends the program instead
	return secretbox.Seal(append(dst, nonce[:]...), plain, &nonce, &c.key), nil
}

func (c *secretboxCipher) open(sealed, _ []byte) ([]byte, error) {
	if len(sealed) < secretbox.Overhead+secretboxNonce {
		return nil, errShort
	}
	nonce := [secretboxNonce]byte(sealed[:secretboxNonce])
	plain, ok := secretbox.Open(nil, sealed[secretboxNonce:], &nonce, &c.key)
	if !ok {
		return nil, errors.New("output array was not large enough for encryption") // upstream's words for a wrong key or a damaged value
	}
	return plain, nil
}

// gcmCipher binds the value to its place in the store.
type gcmCipher struct{ aead cipher.AEAD }

func newGCM(key []byte) (sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &gcmCipher{aead}, nil
}

func (c *gcmCipher) seal(dst, plain, at []byte) ([]byte, error) {
	nonce := make([]byte, c.aead.NonceSize())
	_, _ = rand.Read(nonce) // it never fails: it ends the program instead
	return c.aead.Seal(append(dst, nonce...), nonce, plain, at), nil
}

func (c *gcmCipher) open(sealed, at []byte) ([]byte, error) {
	n := c.aead.NonceSize()
	if len(sealed) < n {
		return nil, errShort
	}
	return c.aead.Open(nil, sealed[:n], sealed[n:], at)
}

// cbcCipher has a random IV and PKCS#7 padding. It does not notice changes of what is
// stored; upstream has it, so orch reads and writes it for those who ask.
type cbcCipher struct{ block cipher.Block }

func newCBC(key []byte) (sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return &cbcCipher{block}, nil
}

func (c *cbcCipher) seal(dst, plain, _ []byte) ([]byte, error) {
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	from := len(dst)
	dst = append(dst, make([]byte, aes.BlockSize)...)
	iv := dst[from:]
	_, _ = rand.Read(iv) // it never fails: it ends the program instead
	dst = append(append(dst, plain...), bytes.Repeat([]byte{byte(pad)}, pad)...)
	iv, body := dst[from:from+aes.BlockSize], dst[from+aes.BlockSize:]
	cipher.NewCBCEncrypter(c.block, iv).CryptBlocks(body, body)
	return dst, nil
}

func (c *cbcCipher) open(sealed, _ []byte) ([]byte, error) {
	if len(sealed) < aes.BlockSize {
		return nil, errShort
	}
	iv, body := sealed[:aes.BlockSize], sealed[aes.BlockSize:]
	if len(body)%aes.BlockSize != 0 {
		return nil, errors.New("the stored data is not a multiple of the block size")
	}
	if len(body) == 0 {
		return nil, errors.New("invalid PKCS7 data (empty or not padded)")
	}
	plain := make([]byte, len(body))
	cipher.NewCBCDecrypter(c.block, iv).CryptBlocks(plain, body)
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > len(plain) {
		return nil, errors.New("invalid PKCS7 data (empty or not padded)")
	}
	for _, b := range plain[len(plain)-pad:] {
		if int(b) != pad {
			return nil, errors.New("invalid padding on input")
		}
	}
	return plain[:len(plain)-pad], nil
}
