package reviewer

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"time"

	authn "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/calls"
	"orch/server/registry"
)

// Token asks a webhook whose a token is.
type Token struct {
	hook      *hook
	ttl       time.Duration
	audiences []string
	// key makes what is remembered useless to who reads the memory.
	key  []byte
	seen memory[registry.User]
}

// NewToken reads the webhook's kubeconfig.
func NewToken(kubeconfig string, ttl time.Duration, audiences []string, counted *calls.Calls) (*Token, error) {
	h, err := newHook(kubeconfig, 0, counted)
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails: it ends the program instead
	return &Token{hook: h, ttl: ttl, audiences: audiences, key: key, seen: memory[registry.User]{now: time.Now}}, nil
}

// Review is ok for tokens that the webhook knows. Only good answers are remembered.
func (t *Token) Review(ctx context.Context, token string) (u registry.User, ok bool, err error) {
	if t == nil {
		return u, false, nil
	}
	mac := hmac.New(sha256.New, t.key)
	_, _ = mac.Write([]byte(token)) // a hash takes everything
	id := [32]byte(mac.Sum(nil))
	if u, ok := t.seen.get(id); ok {
		return u, true, nil
	}
	in := authn.TokenReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"},
		Spec:     authn.TokenReviewSpec{Token: token, Audiences: t.audiences},
	}
	var out authn.TokenReview
	if err := t.hook.post(ctx, &in, &out); err != nil {
		return u, false, err
	}
	if !out.Status.Authenticated {
		if out.Status.Error != "" {
			return u, false, errors.New(out.Status.Error)
		}
		return u, false, nil
	}
	i := out.Status.User
	u = registry.User{Name: i.Username, UID: i.UID, Groups: i.Groups}
	for k, v := range i.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	t.seen.put(id, u, t.ttl)
	return u, true, nil
}
