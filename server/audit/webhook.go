package audit

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"orch/api/calls"
	"orch/server/webhook"
)

const (
	deliveryTimeout = 30 * time.Second
	usualBackoff    = 10 * time.Second
)

// newWebhookSink posts EventLists.
func newWebhookSink(cfg WebhookConfig, counted *calls.Calls, log *slog.Logger) (sink, error) {
	r, err := webhook.NewReceiver(webhook.ReceiverConfig{Kubeconfig: cfg.ConfigFile, Timeout: deliveryTimeout, Wait: cmp.Or(cfg.Backoff, usualBackoff), Calls: counted})
	if err != nil {
		return nil, fmt.Errorf("--audit-webhook-config-file: %w", err)
	}
	deliver := func(ctx context.Context, lines [][]byte) error {
		body := append([]byte(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[`), bytes.Join(lines, []byte(","))...)
		_, err := r.Post(ctx, append(body, "]}"...))
		return err
	}
	return &delivery{mode: cfg.Mode, trunc: cfg.Truncate, queue: newQueue("webhook", cfg.Batch, cfg.Truncate, log, deliver)}, nil
}
