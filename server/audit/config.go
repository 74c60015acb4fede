package audit

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Config is filled by AddFlags, whose flags are those of kube-apiserver.
type Config struct {
	PolicyFile string
	Log        LogConfig
	Webhook    WebhookConfig
}

// LogConfig is about the file; Path "-" is standard output, empty writes none.
type LogConfig struct {
	Path string
	// MaxAge is in days, MaxSize in megabytes; 0 keeps all, or lets the file grow to 100.
	MaxAge, MaxBackup, MaxSize int
	Compress                   bool
	Format, Version            string
	Mode                       string
	Batch                      Batch
	Truncate                   Truncate
}

// WebhookConfig is about the receiver that a kubeconfig names.
type WebhookConfig struct {
	ConfigFile, Version string
	Backoff             time.Duration
	Mode                string
	Batch               Batch
	Truncate            Truncate
}

// Batch bounds what waits: an event that finds BufferSize others waiting is lost and counted.
type Batch struct {
	BufferSize, MaxSize int
	MaxWait             time.Duration
	Throttle            bool
	QPS                 float32
	Burst               int
}

// Truncate bounds events and batches, in bytes.
type Truncate struct {
	Enabled                    bool
	MaxEventSize, MaxBatchSize int64
}

// Modes of delivery.
const (
	modeBatch    = "batch"
	modeBlocking = "blocking"
	modeStrict   = "blocking-strict"
)

// AddFlags declares kube-apiserver's flags with its defaults.
func (c *Config) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&c.PolicyFile, "audit-policy-file", "", "file with an audit.k8s.io/v1 Policy; without it nothing is audited")
	l := &c.Log
	f.StringVar(&l.Path, "audit-log-path", "", "file for audit events, - for standard output")
	f.IntVar(&l.MaxAge, "audit-log-maxage", 0, "days to keep old audit files (0: any number)")
	f.IntVar(&l.MaxBackup, "audit-log-maxbackup", 0, "old audit files to keep (0: any number)")
	f.IntVar(&l.MaxSize, "audit-log-maxsize", 0, "megabytes at which an audit file is rotated (0: 100)")
	f.BoolVar(&l.Compress, "audit-log-compress", false, "compress old audit files")
	f.StringVar(&l.Format, "audit-log-format", "json", "json or legacy")
	f.StringVar(&l.Version, "audit-log-version", "audit.k8s.io/v1", "form of the events in the file")
	addDelivery(f, "log", knobs{&l.Mode, &l.Batch, &l.Truncate}, modeBlocking, Batch{BufferSize: 10000, MaxSize: 1})
	w := &c.Webhook
	f.StringVar(&w.ConfigFile, "audit-webhook-config-file", "", "kubeconfig of the receiver of audit events")
	f.StringVar(&w.Version, "audit-webhook-version", "audit.k8s.io/v1", "form of the events for the receiver")
	f.DurationVar(&w.Backoff, "audit-webhook-initial-backoff", 10*time.Second, "time before the first repetition of a failed delivery")
	addDelivery(f, "webhook", knobs{&w.Mode, &w.Batch, &w.Truncate}, modeBatch,
		Batch{BufferSize: 10000, MaxSize: 400, MaxWait: 30 * time.Second, Throttle: true, QPS: 10, Burst: 15})
}

// knobs are what both sinks have.
type knobs struct {
	mode  *string
	batch *Batch
	trunc *Truncate
}

func addDelivery(f *pflag.FlagSet, name string, k knobs, usual string, def Batch) {
	mode, b, t := k.mode, k.batch, k.trunc
	p := "audit-" + name + "-"
	f.StringVar(mode, p+"mode", usual, "batch, blocking or blocking-strict")
	f.IntVar(&b.BufferSize, p+"batch-buffer-size", def.BufferSize, "events that may wait in batch mode; more are lost")
	f.IntVar(&b.MaxSize, p+"batch-max-size", def.MaxSize, "most events of a batch")
	f.DurationVar(&b.MaxWait, p+"batch-max-wait", def.MaxWait, "longest that a batch waits to be full")
	f.BoolVar(&b.Throttle, p+"batch-throttle-enable", def.Throttle, "limit the rate of batches")
	f.Float32Var(&b.QPS, p+"batch-throttle-qps", def.QPS, "batches a second")
	f.IntVar(&b.Burst, p+"batch-throttle-burst", def.Burst, "batches at once after a pause")
	f.BoolVar(&t.Enabled, p+"truncate-enabled", false, "leave objects out of events that are too large, and such events out")
	f.Int64Var(&t.MaxEventSize, p+"truncate-max-event-size", 100<<10, "bytes of an event")
	f.Int64Var(&t.MaxBatchSize, p+"truncate-max-batch-size", 10<<20, "bytes of a batch")
}

// complete fills the zero values of a Config that no flags made.
func (c *Config) complete() {
	for _, d := range []struct {
		mode  *string
		usual string
		b     *Batch
		max   int
	}{{&c.Log.Mode, modeBlocking, &c.Log.Batch, 1}, {&c.Webhook.Mode, modeBatch, &c.Webhook.Batch, 400}} {
		if *d.mode == "" {
			*d.mode = d.usual
		}
		if d.b.BufferSize == 0 {
			d.b.BufferSize = 10000
		}
		if d.b.MaxSize == 0 {
			d.b.MaxSize = d.max
		}
	}
}

func (c *Config) validate() error {
	c.complete()
	switch {
	case c.Log.Format != "" && c.Log.Format != "json" && c.Log.Format != "legacy":
		return fmt.Errorf("--audit-log-format: invalid audit log format %s, allowed formats are \"legacy,json\"", c.Log.Format)
	case c.Log.MaxAge < 0 || c.Log.MaxBackup < 0 || c.Log.MaxSize < 0:
		return fmt.Errorf("--audit-log-maxage, --audit-log-maxbackup and --audit-log-maxsize must be nonnegative numbers")
	}
	for name, v := range map[string]string{"log": c.Log.Version, "webhook": c.Webhook.Version} {
		if v != "" && v != "audit.k8s.io/v1" {
			return fmt.Errorf("--audit-%s-version: invalid group version %s, allowed versions are \"audit.k8s.io/v1\"", name, v)
		}
	}
	modes := []string{modeBatch, modeBlocking, modeStrict}
	for name, m := range map[string]string{"log": c.Log.Mode, "webhook": c.Webhook.Mode} {
		if !slices.Contains(modes, m) {
			return fmt.Errorf("--audit-%s-mode: invalid audit %s mode %s, allowed modes are %q", name, name, m, strings.Join(modes, ","))
		}
	}
	return nil
}
