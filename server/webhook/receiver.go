package webhook

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"orch/api/calls"
)

const (
	// tries is how often a document is posted that fails for a reason that may pass, each time after
	// half as long again as the time before.
	tries = 5
	// drained is how much of an answer that nobody wants is read, so that its connection is used again.
	drained = 64 << 10
)

// ReceiverConfig says which webhook of the administrator's is meant and how patiently it is asked.
type ReceiverConfig struct {
	// Kubeconfig is the path of the file with the address and the credentials.
	Kubeconfig string
	// Timeout bounds one try, Wait is the time before the second.
	Timeout, Wait time.Duration
	// Answer bounds the answer's bytes; 0 where nothing is to be learnt from it.
	Answer int64
	// Calls counts what is sent; nil for nobody.
	Calls *calls.Calls
}

// Receiver is a webhook that the administrator has named by a kubeconfig. It is safe for parallel use.
type Receiver struct {
	cfg    ReceiverConfig
	url    string
	client *http.Client
}

// NewReceiver reads the kubeconfig. No redirect is followed: a receiver cannot send the server elsewhere.
func NewReceiver(cfg ReceiverConfig) (*Receiver, error) {
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: cfg.Kubeconfig}, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, err
	}
	c.Timeout = cfg.Timeout
	h, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, err
	}
	h.Transport = cfg.Calls.Wrap(h.Transport)
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	url := c.Host
	if !strings.Contains(url, "://") {
		url = "https://" + url
	}
	return &Receiver{cfg: cfg, url: url, client: h}, nil
}

// Post sends a JSON document and returns the answer, nil where none is wanted. A *url.Error says that nobody answered
// and shows the address: what of it a user may see is for the caller to say.
func (r *Receiver) Post(ctx context.Context, body []byte) ([]byte, error) {
	wait := r.cfg.Wait
	for try := 1; ; try++ {
		answer, again, err := r.once(ctx, body)
		if err == nil || !again || try == tries || ctx.Err() != nil {
			return answer, err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
		wait = wait * 3 / 2
	}
}

// once tells beside an error whether another try may help.
func (r *Receiver) once(ctx context.Context, body []byte) (answer []byte, again bool, err error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("Accept", "application/json")
	resp, err := r.client.Do(q)
	if err != nil {
		return nil, true, err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 || r.cfg.Answer == 0 {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, drained))
	}
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the webhook answered %s", resp.Status)
	case r.cfg.Answer == 0:
		return nil, false, nil
	}
	if answer, err = io.ReadAll(io.LimitReader(resp.Body, r.cfg.Answer)); err != nil {
		return nil, true, fmt.Errorf("reading the webhook's answer: %w", err)
	}
	return answer, false, nil
}
