package audit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"orch/api/calls"
)

const (
	// deliveries is how often a batch is tried, each time after twice the wait.
	deliveries      = 5
	deliveryTimeout = 30 * time.Second
	usualBackoff    = 10 * time.Second
)

// receiver posts EventLists.
type receiver struct {
	url     string
	client  *http.Client
	backoff time.Duration
}

func newWebhookSink(cfg WebhookConfig, counted *calls.Calls, log *slog.Logger) (sink, error) {
	r := &receiver{backoff: cfg.Backoff}
	if r.backoff == 0 {
		r.backoff = usualBackoff
	}
	var err error
	if r.url, r.client, err = Receiver(cfg.ConfigFile, deliveryTimeout, counted); err != nil {
		return nil, fmt.Errorf("--audit-webhook-config-file: %w", err)
	}
	return &delivery{mode: cfg.Mode, trunc: cfg.Truncate, queue: newQueue("webhook", cfg.Batch, cfg.Truncate, log, r.deliver)}, nil
}

// Receiver reads the address and the credentials of a webhook from a kubeconfig. The
// client follows no redirects: a receiver cannot send us elsewhere. counted counts what is
// sent; nil for nobody.
func Receiver(kubeconfig string, timeout time.Duration, counted *calls.Calls) (string, *http.Client, error) {
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return "", nil, err
	}
	c.Timeout = timeout
	h, err := rest.HTTPClientFor(c)
	if err != nil {
		return "", nil, err
	}
	h.Transport = counted.Wrap(h.Transport)
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	url := c.Host
	if !strings.Contains(url, "://") {
		url = "https://" + url
	}
	return url, h, nil
}

func (r *receiver) deliver(ctx context.Context, lines [][]byte) error {
	body := append([]byte(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[`), bytes.Join(lines, []byte(","))...)
	body = append(body, "]}"...)
	wait := r.backoff
	for try := 1; ; try++ {
		again, err := r.post(ctx, body)
		if err == nil || !again || try == deliveries || ctx.Err() != nil {
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

// post tells with its error whether another try may help.
func (r *receiver) post(ctx context.Context, body []byte) (again bool, err error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	q.Header.Set("Content-Type", "application/json")
	answer, err := r.client.Do(q)
	if err != nil {
		return true, err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection is used again
	if answer.StatusCode >= 200 && answer.StatusCode < 300 {
		return false, nil
	}
	return answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the receiver answered %s", answer.Status)
}
