// Package reviewer asks webhooks of the administrator's: who has this token
// (TokenReview), may this user do that (SubjectAccessReview). It owns the calls, their
// repetition and what is remembered of the answers, within bounds. It refuses to decide
// what an answer means for a request.
//
// Start reading at Token.Review and Subject.Review.
package reviewer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"orch/api/calls"
	"orch/server/audit"
)

const (
	// tries is how often a call is made that fails for a reason that may pass.
	tries        = 5
	firstWait    = 500 * time.Millisecond
	usualTimeout = 30 * time.Second
	// maxAnswer bounds what a webhook may say, remembered how many answers are kept.
	maxAnswer  = 1 << 20
	remembered = 4096
)

// hook is one webhook.
type hook struct {
	url    string
	client *http.Client
}

func newHook(kubeconfig string, timeout time.Duration, counted *calls.Calls) (*hook, error) {
	if timeout == 0 {
		timeout = usualTimeout
	}
	url, client, err := audit.Receiver(kubeconfig, timeout, counted)
	return &hook{url, client}, err
}

// post sends a review and reads it back, completed.
func (h *hook) post(ctx context.Context, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	wait := firstWait
	for try := 1; ; try++ {
		again, err := h.once(ctx, body, out)
		if err == nil || !again || try == tries || ctx.Err() != nil {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		wait = wait * 3 / 2
	}
}

func (h *hook) once(ctx context.Context, body []byte, out any) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	answer, err := h.client.Do(r)
	if err != nil {
		return true, errors.New("the webhook cannot be reached") // the error could show its address and credentials
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return true, fmt.Errorf("reading the webhook's answer: %w", err)
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the webhook answered %s", answer.Status)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return false, errors.New("the webhook's answer is no review")
	}
	return false, nil
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
