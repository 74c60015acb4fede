package encryption

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"orch/server/encryption/kms"
)

// plugins are the KMS of a configuration by name.
type plugins map[string]*kms.Provider

// connect asks every plugin once. What it made before an error comes with it.
func connect(c *configv1.EncryptionConfiguration, log *slog.Logger) (plugins, error) {
	out := plugins{}
	if c == nil {
		return out, nil
	}
	for _, rc := range c.Resources {
		for _, p := range rc.Providers {
			if p.KMS == nil {
				continue
			}
			k, err := kms.New(kms.Config{Name: p.KMS.Name, Endpoint: p.KMS.Endpoint, Timeout: p.KMS.Timeout.Duration, Log: log})
			if err != nil {
				return out, err
			}
			out[p.KMS.Name] = k
		}
	}
	return out, nil
}

func (l plugins) close() error {
	var errs []error
	for _, p := range l {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// Check tells whether all KMS plugins are well; nil where there are none.
func (e *Encryption) Check(ctx context.Context) error {
	var errs []error
	for name, p := range e.plugins {
		if err := p.Check(ctx); err != nil {
			errs = append(errs, fmt.Errorf("kms-provider %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// HasPlugins tells whether any KMS is used.
func (e *Encryption) HasPlugins() bool { return len(e.plugins) > 0 }

// Collectors are the numbers of the plugins.
func (e *Encryption) Collectors() []prometheus.Collector {
	var out []prometheus.Collector
	for _, p := range e.plugins {
		out = append(out, p)
	}
	return out
}
