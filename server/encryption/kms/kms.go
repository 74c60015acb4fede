// Package kms keeps values under keys that a KMS holds: it speaks version 2 of
// Kubernetes' KMS plugins over a unix socket and writes values as upstream's API server
// does, so that either can read what the other wrote.
//
// A seed is made once and sealed by the plugin; every value has a key of its own,
// derived from the seed (envelope.go). The plugin is asked for a new sealing only when
// it says that its own key is another one, and to open seeds that others made, each of
// which is kept once opened (seeds.go). So neither writes nor reads wait for it as a rule.
//
// While the plugin does not answer, everything whose seed is known can be read for ever
// and written for three minutes; then writes fail, because a change of the plugin's
// key might have gone unnoticed.
//
// Start reading at Provider.
package kms

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	kmsv2 "k8s.io/kms/apis/v2"
)

// Upstream's intervals: who changes a key counts on them.
const (
	askWhenWell  = time.Minute
	askWhenIll   = 10 * time.Second
	writableFor  = 3 * time.Minute
	freshIfWell  = 20 * time.Second // an answer this old will do for a health check
	freshIfIll   = 3 * time.Second
	maxKeyID     = 1 << 10
	maxSealed    = 1 << 10
	maxNotes     = 32 << 10
	currentProto = "v2"
	betaProto    = "v2beta1"
)

// Config is not changed after New.
type Config struct {
	// Name is part of every stored value: a plugin that is known by another name cannot
	// be asked for them.
	Name string
	// Endpoint is unix:///path, or unix:///@name for an abstract socket.
	Endpoint string
	// Timeout bounds one call.
	Timeout time.Duration
	Log     *slog.Logger
	// Now is the clock; nil means the real one.
	Now func() time.Time
}

// Provider is one plugin. It is safe for many goroutines.
type Provider struct {
	cfg     Config
	remote  *remote
	seeds   *seeds
	writing atomic.Pointer[writing] // nil until the plugin has answered once
	verdict atomic.Pointer[verdict]
	numbers *numbers

	// recovered tells Run that the plugin, found ill before, is well.
	recovered chan struct{}

	asking  sync.Mutex // held while the plugin is asked for its status
	version string     // of its first answer
}

// verdict is what came of asking for the status last.
type verdict struct {
	at time.Time
	// ill is nil if the plugin is well; down tells that it did not answer at all.
	ill  error
	down bool
}

// writing is what values are sealed with now.
type writing struct {
	source source
	seed   seed
	until  time.Time
}

// New makes the connection and asks the plugin once. A plugin that does not answer yet
// is no error: it may be a pod that this server is going to start.
func New(cfg Config) (*Provider, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Provider{cfg: cfg, numbers: newNumbers(cfg.Name), recovered: make(chan struct{}, 1)}
	r, err := dial(cfg, p.numbers)
	if err != nil {
		return nil, fmt.Errorf("could not configure KMSv2-Plugin's probe %q, error: %w", cfg.Name, err)
	}
	p.remote, p.seeds = r, newSeeds(r.open, cfg.Now)
	_ = p.ask(context.Background()) // it has been logged
	return p, nil
}

// Close ends the connection of a provider that is not run.
func (p *Provider) Close() error { return p.remote.close() }

// Run asks for the plugin's status from time to time and calls well after each good
// answer, until ctx ends; then it closes the connection.
func (p *Provider) Run(ctx context.Context, well func(context.Context)) error {
	for {
		wait := askWhenWell
		if p.verdict.Load().ill != nil {
			wait = askWhenIll
		}
		select {
		case <-ctx.Done():
			return p.remote.close()
		case <-p.recovered: // somebody else asked
			well(ctx)
		case <-time.After(wait):
			if p.ask(ctx) == nil {
				well(ctx)
			}
		}
	}
}

// Check tells whether the plugin is well. It asks anew unless that was a moment ago.
func (p *Provider) Check(ctx context.Context) error {
	v := p.verdict.Load()
	if age := p.cfg.Now().Sub(v.at); v.ill == nil && age < freshIfWell || v.ill != nil && age < freshIfIll {
		return v.ill
	}
	return p.ask(ctx)
}

// ask gets the plugin's status, and a new sealing if its key has changed.
func (p *Provider) ask(ctx context.Context) error {
	p.asking.Lock()
	defer p.asking.Unlock()
	start := p.cfg.Now() // before the call: what is valid for three minutes is so from here
	s, err := p.remote.status(ctx)
	down := err != nil
	if down {
		err = fmt.Errorf("failed to perform status section of the healthz check: %w", err)
	} else {
		err = p.judge(ctx, s, start)
	}
	if err != nil {
		err = fmt.Errorf("kmsv2 Provider %s is not healthy, error: %w", p.cfg.Name, err)
	}
	if ctx.Err() == nil {
		p.tell(err)
	}
	p.verdict.Store(&verdict{p.cfg.Now(), err, down})
	return err
}

// tell says that the plugin's health has changed. The caller holds asking.
func (p *Provider) tell(ill error) {
	before := p.verdict.Load()
	switch {
	case ill != nil && (before == nil || before.ill == nil):
		p.cfg.Log.Error("a KMS plugin is not well: what it has not opened yet cannot be read, and after three minutes nothing can be written with it", "kms", p.cfg.Name, "err", ill)
	case ill == nil && before != nil && before.ill != nil:
		p.cfg.Log.Info("a KMS plugin is well again", "kms", p.cfg.Name)
		select {
		case p.recovered <- struct{}{}:
		default: // it has been told
		}
	}
}

// judge looks at a status and follows it. The caller holds asking.
func (p *Provider) judge(ctx context.Context, s *kmsv2.StatusResponse, start time.Time) error {
	var errs []error
	if s.Healthz != "ok" {
		errs = append(errs, fmt.Errorf("got unexpected healthz status: %s", s.Healthz))
	}
	switch {
	case s.Version != currentProto && s.Version != betaProto:
		errs = append(errs, fmt.Errorf("expected KMSv2 API version %s, got %s", currentProto, s.Version))
	case p.version == "":
		p.version = s.Version
	case p.version != s.Version:
		errs = append(errs, fmt.Errorf("KMSv2 API version should not change after the initial status response version %s, got %s", p.version, s.Version))
	}
	if err := checkKeyID(s.KeyId); err != nil {
		p.numbers.badKeyID(s.KeyId)
		return errors.Join(append(errs, fmt.Errorf("got invalid KMSv2 KeyID: %w", err))...)
	}
	p.numbers.keyID(s.KeyId, start)
	return errors.Join(append(errs, p.renew(ctx, s.KeyId, start.Add(writableFor)))...)
}

// renew lets the seed that is written with be used for longer, or makes another one if
// the plugin has another key. A seed under a key that is not the one of the status
// is not used: plugin and status disagree for a moment, and the old one still holds.
func (p *Provider) renew(ctx context.Context, keyID string, until time.Time) error {
	now := p.writing.Load()
	if now != nil && now.source.keyID == keyID {
		p.writing.Store(&writing{now.source, now.seed, until})
		return nil
	}
	next := make(seed, seedBytes)
	_, _ = rand.Read(next) // it never fails: it ends the program instead
	r, err := p.remote.seal(ctx, uuid.NewString(), next)
	if err != nil {
		return fmt.Errorf("failed to encrypt DEK, error: %w", err)
	}
	src := source{kind: derived, sealed: r.Ciphertext, keyID: r.KeyId, notes: r.Annotations}
	if err := src.check(); err != nil {
		return fmt.Errorf("the plugin's answer to an encryption is refused: %w", err)
	}
	if src.keyID != keyID {
		return fmt.Errorf("the plugin's status names the key %s, but it encrypts with %s", hashOf(keyID), hashOf(src.keyID))
	}
	p.seeds.put(src, next)
	p.writing.Store(&writing{src, next, until})
	p.cfg.Log.Info("values are sealed with a new key of the KMS", "kms", p.cfg.Name, "key", hashOf(keyID))
	return nil
}

// hashOf stands for a key's name in logs and metrics: it might say too much.
func hashOf(keyID string) string {
	if keyID == "" {
		return ""
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(keyID)))
}

// Seal appends the sealed form of plain, which will lie at the given place, to dst.
func (p *Provider) Seal(dst, plain, at []byte) ([]byte, error) {
	w := p.writing.Load()
	if w == nil {
		return nil, fmt.Errorf("the KMS plugin %s has not answered yet: %w", p.cfg.Name, p.verdict.Load().ill)
	}
	if now := p.cfg.Now(); now.After(w.until) {
		why := p.verdict.Load().ill
		if why == nil {
			why = errors.New("the plugin was not asked in time")
		}
		return nil, fmt.Errorf("the key of the KMS plugin %s has expired at %s (current time is %s): %w", p.cfg.Name, w.until.Format(time.RFC3339), now.Format(time.RFC3339), why)
	}
	data, err := w.seed.close(plain, at)
	if err != nil {
		return nil, err
	}
	return encode(dst, w.source, data), nil
}

// Open gives the plain form back.
func (p *Provider) Open(sealed, at []byte) ([]byte, error) {
	src, data, err := decode(sealed)
	if err != nil {
		return nil, err
	}
	if k := p.seeds.get(src); k != nil {
		return k.open(data, at)
	}
	// A plugin that does not answer would make every value wait for its timeout.
	if v := p.verdict.Load(); v.down {
		return nil, fmt.Errorf("failed to decrypt DEK, error: %w", v.ill)
	}
	k, err := p.seeds.fetch(src)
	if err != nil {
		return nil, fmt.Errorf("failed to decrypt DEK, error: %w", err)
	}
	return k.open(data, at)
}

// Stale tells whether a value lies under another key than one written now would.
func (p *Provider) Stale(sealed []byte) bool {
	w := p.writing.Load()
	if w == nil {
		return false
	}
	src, _, err := decode(sealed)
	return err == nil && (src.keyID != w.source.keyID || src.kind != w.source.kind)
}
