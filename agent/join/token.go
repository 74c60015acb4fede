package join

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Token is a join token taken apart.
type Token struct {
	// CAHash is the hex SHA-256 of the server's CA as PEM; empty for a short
	// token, whose server is believed unseen.
	CAHash       string
	User, Secret string
}

const tokenPrefix = "K10"

var errNoToken = errors.New("a join token is needed: pass --token with what the server keeps in <data-dir>/server/token")

// ParseToken reads K10<sha256>::<user>:<secret>, or the secret alone.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return Token{}, errNoToken
	}
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return Token{User: "server", Secret: s}, nil
	}
	hash, credentials, ok := strings.Cut(rest, "::")
	if b, err := hex.DecodeString(hash); !ok || err != nil || len(b) != sha256.Size {
		return Token{}, fmt.Errorf("the join token is malformed: it starts with K10 but is not K10<sha256 of the CA>::<user>:<secret>")
	}
	user, secret, ok := strings.Cut(credentials, ":")
	if !ok {
		user, secret, ok = strings.Cut(credentials, ".") // a bootstrap token: id.secret
	}
	if !ok || user == "" || secret == "" {
		return Token{}, fmt.Errorf("the join token is malformed: no user and secret behind ::")
	}
	return Token{CAHash: strings.ToLower(hash), User: user, Secret: secret}, nil
}

// Check compares a CA with the hash in the token.
func (t Token) Check(ca []byte) error {
	sum := sha256.Sum256(ca)
	if got := hex.EncodeToString(sum[:]); t.CAHash != "" && got != t.CAHash {
		return fmt.Errorf("the server's CA is not the one that the token names (sha256 %s, the token says %s): the token is of another cluster, or somebody is in between", got, t.CAHash)
	}
	return nil
}

// CheckURL says what is wrong with the URL of a server.
func CheckURL(s string) error {
	_, err := parseURL(s)
	return err
}

// parseURL accepts https URLs of a host only.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the URL of a server: it looks like https://HOST:6443", s)
	}
	u.Path = ""
	return u, nil
}
