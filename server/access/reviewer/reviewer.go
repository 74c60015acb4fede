// Package reviewer asks webhooks of the administrator's: who has this token
// (TokenReview), may this user do that (SubjectAccessReview). It owns the calls
// and what is remembered of the answers, within bounds. It refuses to decide
// what an answer means for a request.
//
// Start reading at Token.Review and Subject.Review.
package reviewer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"sync"
	"time"

	"orch/api/calls"
	"orch/server/webhook"
)

const (
	firstWait    = 500 * time.Millisecond
	usualTimeout = 30 * time.Second
	// maxAnswer bounds what a webhook may say, remembered how many answers are kept.
	maxAnswer  = 1 << 20
	remembered = 4096
)

// hook is one webhook.
type hook struct{ *webhook.Receiver }

func newHook(kubeconfig string, timeout time.Duration, counted *calls.Calls) (*hook, error) {
	r, err := webhook.NewReceiver(webhook.ReceiverConfig{Kubeconfig: kubeconfig, Timeout: cmp.Or(timeout, usualTimeout), Wait: firstWait, Answer: maxAnswer, Calls: counted})
	return &hook{r}, err
}

// post sends a review and reads it back, completed.
func (h *hook) post(ctx context.Context, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := h.Post(ctx, body)
	var unreached *url.Error
	if errors.As(err, &unreached) {
		return errors.New("the webhook cannot be reached") // the error could show its address and credentials
	}
	if err != nil {
		return err
	}
	if json.Unmarshal(answer, out) != nil {
		return errors.New("the webhook's answer is no review")
	}
	return nil
}

// memory keeps answers for a while; when it is full it drops an arbitrary one.
type memory[V any] struct {
	now func() time.Time

	mu sync.Mutex
	m  map[[32]byte]kept[V]
}

type kept[V any] struct {
	v     V
	until time.Time
}

func (c *memory[V]) get(k [32]byte) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.m[k]
	if ok && !c.now().Before(e.until) {
		delete(c.m, k)
		ok = false
	}
	return e.v, ok
}

func (c *memory[V]) put(k [32]byte, v V, ttl time.Duration) {
	if ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[[32]byte]kept[V]{}
	}
	if _, there := c.m[k]; !there && len(c.m) >= remembered {
		for old := range c.m {
			delete(c.m, old)
			break
		}
	}
	c.m[k] = kept[V]{v, c.now().Add(ttl)}
}
