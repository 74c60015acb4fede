package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Token lets a node join: K10<sha256 of the server CA's PEM>::<user>:<secret>. The
// short form is the secret alone; then the joiner cannot check the CA.
type Token struct {
	// CAHash is 64 hex digits, empty in the short form.
	CAHash string
	// User is "server" unless the token says otherwise.
	User   string
	Secret string
}

const tokenPrefix = "K10"

// ParseToken reads either form. It refuses what cannot be told apart from a typo.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return Token{}, errors.New("parsing token: it is empty")
	}
	rest, long := strings.CutPrefix(s, tokenPrefix)
	if !long || !strings.Contains(rest, "::") {
		return Token{User: "server", Secret: s}, nil
	}
	hash, cred, _ := strings.Cut(rest, "::")
	if raw, err := hex.DecodeString(hash); err != nil || len(raw) != sha256.Size {
		return Token{}, errors.New("parsing token: the part between K10 and :: must be 64 hex digits; copy the whole token from <data-dir>/server/token")
	}
	user, secret, ok := strings.Cut(cred, ":")
	if !ok {
		user, secret = "server", cred
	}
	if user == "" || secret == "" {
		return Token{}, errors.New("parsing token: user or secret behind :: is empty; copy the whole token from <data-dir>/server/token")
	}
	return Token{CAHash: strings.ToLower(hash), User: user, Secret: secret}, nil
}

func (t Token) String() string {
	if t.CAHash == "" {
		return t.Secret
	}
	return tokenPrefix + t.CAHash + "::" + t.User + ":" + t.Secret
}

// Accepts tells whether user and secret of a joiner are those of t, in constant time.
func (t Token) Accepts(user, secret string) bool {
	u := subtle.ConstantTimeCompare([]byte(user), []byte(t.User))
	s := subtle.ConstantTimeCompare([]byte(secret), []byte(t.Secret))
	return u&s == 1 || (s == 1 && user == "node")
}

// HashCA is the hash of a CA's PEM as tokens carry it.
func HashCA(caPEM []byte) string {
	h := sha256.Sum256(caPEM)
	return hex.EncodeToString(h[:])
}

// loadToken settles the join secret: given by configuration, else from the file, else drawn.
func (p *PKI) loadToken() error {
	file := filepath.Join(p.cfg.Dir, "token")
	given := p.cfg.Token
	if given == "" {
		raw, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("loading join token: %w", err)
		}
		if given = strings.TrimSpace(string(raw)); given == "" {
			given = rand.Text()
		}
	}
	t, err := ParseToken(given)
	if err != nil {
		return fmt.Errorf("loading join token: %w", err)
	}
	hash := HashCA(p.ServerCA())
	if p.cfg.Token != "" && t.CAHash != "" && t.CAHash != hash {
		return errors.New("loading join token: the token given is for a cluster with another CA; give its secret part alone, or remove <data-dir>/server")
	}
	t.CAHash = hash
	p.token.Store(&t)
	if old, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(old)) != t.String() {
		if err := writeFile(file, []byte(t.String()+"\n")); err != nil {
			return err
		}
	}
	return linkNodeToken(filepath.Join(p.cfg.Dir, "node-token"))
}

// linkNodeToken keeps the second name under which k3s users look for the token.
func linkNodeToken(path string) error {
	if to, err := os.Readlink(path); err == nil && to == "token" {
		return nil
	}
	if err := removeIfThere(path); err != nil {
		return fmt.Errorf("linking node-token: %w", err)
	}
	if err := os.Symlink("token", path); err != nil {
		return fmt.Errorf("linking node-token: %w", err)
	}
	return nil
}

// RotateToken replaces the join token, with a secret that is drawn if none is given, and
// tells where it lies.
func (p *PKI) RotateToken(secret string) (file string, err error) {
	if secret == "" {
		secret = rand.Text()
	}
	t, err := ParseToken(secret)
	if err != nil {
		return "", err
	}
	if t.CAHash != "" && t.CAHash != HashCA(p.ServerCA()) {
		return "", errors.New("rotating the token: the one given is for a cluster with another CA")
	}
	if len(t.Secret) < minSecret {
		return "", fmt.Errorf("rotating the token: a secret has at least %d characters", minSecret)
	}
	t.CAHash = HashCA(p.ServerCA())
	file = filepath.Join(p.cfg.Dir, "token")
	if err := writeFile(file, []byte(t.String()+"\n")); err != nil {
		return "", err
	}
	p.token.Store(&t)
	return file, nil
}

// minSecret keeps a token from being guessed.
const minSecret = 16
