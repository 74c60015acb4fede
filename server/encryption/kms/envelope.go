package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/util/validation"
)

// A stored value is upstream's protobuf message EncryptedObject:
//
//	1 encryptedData            info (32), nonce (12), AES-GCM; without info if the kind is whole
//	2 keyID                    the KMS' name of the key that sealed the source
//	3 encryptedDEKSource       the seed, or the key itself, as the plugin sealed it
//	4 annotations              what else the plugin wants to see
//	5 encryptedDEKSourceType   0 whole, 1 derived
const (
	fieldData   protowire.Number = 1
	fieldKeyID  protowire.Number = 2
	fieldSource protowire.Number = 3
	fieldNotes  protowire.Number = 4
	fieldKind   protowire.Number = 5
)

// Kinds of sources. Whole keys are only read: API servers before 1.29 wrote them.
const (
	whole   uint64 = 0
	derived uint64 = 1
)

const (
	seedBytes = 32
	infoBytes = 32
	keyBytes  = 32
)

var errShort = errors.New("the stored data was shorter than the required size")

// source is what a key comes from.
type source struct {
	kind   uint64
	sealed []byte
	keyID  string
	notes  map[string][]byte
}

// check holds what a plugin or the store says to the protocol's bounds.
func (s source) check() error {
	switch {
	case s.kind != whole && s.kind != derived:
		return fmt.Errorf("unknown encryptedDEKSourceType: %d", s.kind)
	case len(s.sealed) == 0:
		return errors.New("encrypted DEK source is empty")
	case len(s.sealed) > maxSealed:
		return fmt.Errorf("encrypted DEK source is %d bytes, which exceeds the max size of %d", len(s.sealed), maxSealed)
	}
	if err := checkKeyID(s.keyID); err != nil {
		return err
	}
	size := 0
	for k, v := range s.notes {
		size += len(k) + len(v)
		if bad := validation.IsDNS1123Subdomain(k); len(bad) > 0 || !strings.Contains(k, ".") {
			return fmt.Errorf("annotations: %q should be a domain with at least two segments separated by dots", k)
		}
	}
	if size > maxNotes {
		return fmt.Errorf("total size of annotations is %d, which exceeds the max size of %d", size, maxNotes)
	}
	return nil
}

func checkKeyID(id string) error {
	if id == "" {
		return errors.New("keyID is empty")
	}
	if len(id) > maxKeyID {
		return fmt.Errorf("keyID is %d bytes, which exceeds the max size of %d", len(id), maxKeyID)
	}
	return nil
}

func encode(dst []byte, s source, data []byte) []byte {
	dst = protowire.AppendBytes(protowire.AppendTag(dst, fieldData, protowire.BytesType), data)
	dst = protowire.AppendString(protowire.AppendTag(dst, fieldKeyID, protowire.BytesType), s.keyID)
	dst = protowire.AppendBytes(protowire.AppendTag(dst, fieldSource, protowire.BytesType), s.sealed)
	for k, v := range s.notes {
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), k)
		entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), v)
		dst = protowire.AppendBytes(protowire.AppendTag(dst, fieldNotes, protowire.BytesType), entry)
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, fieldKind, protowire.VarintType), s.kind)
}

// decode gives the parts; they share the bytes of b.
func decode(b []byte) (s source, data []byte, err error) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return s, nil, protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case kind == protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 {
				switch number {
				case fieldData:
					data = v
				case fieldKeyID:
					s.keyID = string(v)
				case fieldSource:
					s.sealed = v
				case fieldNotes:
					if err := s.note(v); err != nil {
						return s, nil, err
					}
				}
			}
		case kind == protowire.VarintType && number == fieldKind:
			s.kind, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return s, nil, protowire.ParseError(n)
		}
		b = b[n:]
	}
	if len(data) == 0 {
		return s, nil, errors.New("encrypted data is empty")
	}
	return s, data, s.check()
}

// note reads one entry of the annotations.
func (s *source) note(b []byte) error {
	var key string
	var value []byte
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType {
			return errors.New("a stored annotation cannot be read")
		}
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return protowire.ParseError(m)
		}
		switch number {
		case 1:
			key = string(v)
		case 2:
			value = v
		}
		b = b[n+m:]
	}
	if s.notes == nil {
		s.notes = map[string][]byte{}
	}
	s.notes[key] = value
	return nil
}

// opener reads values that one source stands for.
type opener interface {
	open(data, at []byte) ([]byte, error)
}

// seed makes a key of its own for each value, so that one seed may serve any number.
type seed []byte

func (s seed) cipher(info []byte) (cipher.AEAD, error) {
	key, err := hkdf.Expand(sha256.New, s, string(info), keyBytes)
	if err != nil {
		return nil, fmt.Errorf("deriving a key: %w", err)
	}
	return gcm(key)
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// close seals plain and binds it to its place.
func (s seed) close(plain, at []byte) ([]byte, error) {
	head := make([]byte, infoBytes)
	_, _ = rand.Read(head) // it never fails: it ends the program instead
	c, err := s.cipher(head)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, c.NonceSize())
	_, _ = rand.Read(nonce) // likewise
	return c.Seal(append(head, nonce...), nonce, plain, at), nil
}

func (s seed) open(data, at []byte) ([]byte, error) {
	if len(data) < infoBytes {
		return nil, errShort
	}
	c, err := s.cipher(data[:infoBytes])
	if err != nil {
		return nil, err
	}
	return unseal(c, data[infoBytes:], at)
}

// key is used as it is.
type key struct{ cipher.AEAD }

func (k key) open(data, at []byte) ([]byte, error) { return unseal(k.AEAD, data, at) }

func unseal(c cipher.AEAD, data, at []byte) ([]byte, error) {
	n := c.NonceSize()
	if len(data) < n {
		return nil, errShort
	}
	return c.Open(nil, data[:n], data[n:], at)
}

// openerOf makes the reader of what the plugin has opened.
func openerOf(kind uint64, plain []byte) (opener, error) {
	if kind == whole {
		c, err := gcm(plain)
		return key{c}, err
	}
	if len(plain) < seedBytes {
		return nil, fmt.Errorf("invalid seed length %d used for key generation", len(plain))
	}
	return seed(plain), nil
}
