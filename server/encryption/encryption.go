// Package encryption keeps chosen kinds, Secrets by default, encrypted in the store. It
// owns the form of sealed values (upstream's), the keys, the configuration file and the
// change of keys while the server runs. It refuses to know objects: it gets the bytes
// that a kind's codec made, and the key of the store under which they will lie. Only the
// registry's cache holds anything in plain, in memory.
//
// How a key is changed, and why a crash at any point loses nothing:
//
//  1. the new key is written to the file, durably, in front of the old one
//  2. writes seal with it; those that were on their way with the old one are waited for
//  3. every value that is not sealed with it is written again, under its revision
//  4. the store's history, sealed with old keys, is dropped
//  5. the old keys are taken out of the file
//
// A start that finds more keys than one goes on at 3.
//
// Start reading at Encryption, then ring.go (what the store's side asks), cipher.go,
// keys.go.
package encryption

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"orch/server/registry"
	"orch/server/registry/cache"
)

// Config is not changed after New.
type Config struct {
	// Dir is <data-dir>/server/cred.
	Dir string
	// Off makes no keys at the first start; keys that are there are used all the same.
	Off bool
	// Provider is what new keys are for: secretbox, aescbc or aesgcm; empty is secretbox.
	Provider string
	// File is an EncryptionConfiguration for further resources; it wins for those it names.
	File string
	// Sealed is asked where there is no key: how many Secrets lie encrypted in the store, at
	// least; nil is none. Those could not be read with a new key.
	Sealed func() (int, error)
	// Reset is asked to delete them; nil where nobody has given them up.
	Reset func() error
	Log   *slog.Logger
}

// Store rewrites what lies in the store: the registry.
type Store interface {
	Reseal(ctx context.Context, tell func(registry.Resealed)) error
	ForgetPast(ctx context.Context) error
	// Reread tries again what could not be read, because a KMS did not open it.
	Reread(ctx context.Context) error
}

// Encryption is safe for many goroutines.
type Encryption struct {
	cfg  Config
	path string
	file *configv1.EncryptionConfiguration // nil without Config.File
	// plugins are the KMS that file names.
	plugins plugins

	// busy is held by the one operation on keys that goes on at a time.
	busy sync.Mutex

	mu    sync.Mutex // below busy
	keys  keyring    // empty where encryption was never on
	slots map[schema.GroupResource]*slot
	state Status
	base  context.Context // Run's
}

// New reads the keys, or makes the first one.
func New(cfg Config) (*Encryption, error) {
	if cfg.Provider == "" {
		cfg.Provider = providers[0]
	}
	if !slices.Contains(providers, cfg.Provider) {
		return nil, fmt.Errorf("--secrets-encryption-provider: there is no %q; known are %v", cfg.Provider, providers)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	e := &Encryption{cfg: cfg, path: filepath.Join(cfg.Dir, "encryption-config.json"), slots: map[schema.GroupResource]*slot{}}
	if cfg.File != "" {
		file, err := Load(cfg.File)
		if err != nil {
			return nil, err
		}
		e.file = file
	}
	if err := e.load(); err != nil {
		return nil, errors.Join(err, e.plugins.close())
	}
	return e, nil
}

// load gets the keys and the plugins.
func (e *Encryption) load() error {
	cfg := e.cfg
	var err error
	if e.plugins, err = connect(e.file, cfg.Log); err != nil {
		return err
	}
	keys, there, err := loadRing(e.path)
	if err != nil {
		return err
	}
	if !there {
		if err := e.lost(); err != nil {
			return err
		}
	}
	if !there && !cfg.Off {
		keys = keyring{}.with(cfg.Provider, true)
		if err := keys.save(e.path); err != nil {
			return err
		}
	}
	e.keys = keys
	ended, end := context.WithCancel(context.Background())
	end()
	e.base = ended
	_, err = e.ring(keys)
	return err
}

// lost refuses to begin anew where the store needs keys that are gone.
func (e *Encryption) lost() error {
	if e.cfg.Sealed == nil || e.theirs() {
		return nil
	}
	n, err := e.cfg.Sealed()
	if err != nil || n == 0 {
		return err
	}
	if e.cfg.Reset != nil {
		return e.cfg.Reset()
	}
	return fmt.Errorf("the store holds encrypted Secrets and their key is missing: restore %s from a backup, or start once with --secrets-encryption-reset, which deletes the Secrets that are encrypted and makes a new key", e.path)
}

// ring puts the user's file before the keys of orch.
func (e *Encryption) ring(keys keyring) (ring, error) {
	var list []*configv1.EncryptionConfiguration
	if e.file != nil {
		list = append(list, e.file)
	}
	own := keys.config()
	r, err := newRing(e.plugins, append(list, own)...)
	if err != nil {
		return nil, err
	}
	// A wildcard in the file masks orch's keys for writing; what was sealed with them
	// must stay readable all the same.
	secrets := schema.GroupResource{Resource: "secrets"}
	if named := r.of("", "secrets"); named != nil && len(r[secrets]) == 0 {
		more, err := boxes(own.Resources[0].Providers, nil)
		if err != nil {
			return nil, err
		}
		r[secrets] = append(slices.Clone(named), more...)
	}
	return r, nil
}

// theirs tells whether the user's file decides about Secrets.
func (e *Encryption) theirs() bool {
	if e.file == nil {
		return false
	}
	r, err := newRing(e.plugins, e.file)
	return err == nil && r.of("", "secrets") != nil
}

// Sealer is what the registry asks for each resource that it is going to hold; nil for
// those that lie in plain and always will.
func (e *Encryption) Sealer(group, plural string) cache.Sealer {
	e.mu.Lock()
	defer e.mu.Unlock()
	gr := schema.GroupResource{Group: group, Resource: plural}
	if s := e.slots[gr]; s != nil {
		return s
	}
	r, err := e.ring(e.keys)
	if err != nil { // New has tried it
		return nil
	}
	list := r.of(group, plural)
	if list == nil {
		return nil
	}
	s := newSlot(list)
	e.slots[gr] = s
	return s
}

// use saves keys and seals with them from now on. Nothing is sealed with others once it returns.
func (e *Encryption) use(keys keyring) error {
	if err := keys.save(e.path); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r, err := e.ring(keys)
	if err != nil {
		return err
	}
	e.keys = keys
	for gr, s := range e.slots {
		s.replace(r.of(gr.Group, gr.Resource))
	}
	return nil
}

func (e *Encryption) ringNow() keyring {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.keys
}

// Run encrypts anew, once the store is loaded, what a crash or an older server left
// behind, and looks after the plugins. It ends with ctx.
func (e *Encryption) Run(ctx context.Context, store Store) error {
	var watched sync.WaitGroup
	defer watched.Wait()
	for _, p := range e.plugins {
		watched.Go(func() {
			err := p.Run(ctx, func(ctx context.Context) {
				if err := store.Reread(ctx); err != nil && ctx.Err() == nil {
					e.cfg.Log.Error("reading again what a KMS could not open failed", "err", err)
				}
			})
			if err != nil {
				e.cfg.Log.Warn("ending the connection to a KMS plugin failed", "err", err)
			}
		})
	}
	e.mu.Lock()
	e.base = ctx
	e.mu.Unlock()
	if e.unfinished() {
		e.busy.Lock()
		err := e.reencrypt(ctx, store, func(Progress) {})
		e.busy.Unlock()
		if err != nil && ctx.Err() == nil {
			e.cfg.Log.Error("encrypting stored objects anew failed; it is tried again at the next start, or by orch secrets-encrypt reencrypt", "err", err)
		}
	}
	<-ctx.Done()
	return nil
}

// unfinished tells that there is something to do: keys to drop, or values that were
// read while loading and are sealed otherwise than they should be.
func (e *Encryption) unfinished() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.keys.keys) > 1 && !e.keys.prepared() {
		return true
	}
	for _, s := range e.slots {
		if s.old.Load() > 0 {
			return true
		}
	}
	return false
}

// reencrypt is steps 3 to 5. The caller holds busy.
func (e *Encryption) reencrypt(ctx context.Context, store Store, tell func(Progress)) error {
	e.note(func(s *Status) { s.Running, s.Progress, s.Error = true, nil, "" })
	failed := 0
	last := map[string]registry.Resealed{}
	err := store.Reseal(ctx, func(p registry.Resealed) {
		failed += p.Failed - last[p.Resource].Failed
		last[p.Resource] = p
		now := Progress{Resource: p.Resource, Done: p.Done, Changed: p.Changed, Failed: p.Failed}
		e.note(func(s *Status) { s.Progress = withProgress(s.Progress, now) })
		tell(now)
	})
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d objects cannot be read with the keys there are (see the log); all keys are kept", failed)
	}
	if err == nil {
		err = e.dropKeys(ctx, store, last)
	}
	e.note(func(s *Status) {
		s.Running = false
		if err != nil {
			s.Error = err.Error()
		}
	})
	return err
}

func (e *Encryption) dropKeys(ctx context.Context, store Store, last map[string]registry.Resealed) error {
	e.mu.Lock()
	for _, s := range e.slots {
		s.old.Store(0)
	}
	e.mu.Unlock()
	changed := slices.ContainsFunc(mapValues(last), func(p registry.Resealed) bool { return p.Changed > 0 })
	keys := e.ringNow()
	if len(keys.keys) == 0 {
		return nil
	}
	spent := keys.spent()
	if changed || len(spent.keys) < len(keys.keys) {
		if err := store.ForgetPast(ctx); err != nil {
			return err
		}
	}
	if len(spent.keys) == len(keys.keys) {
		return nil
	}
	return e.use(spent)
}

func mapValues(m map[string]registry.Resealed) []registry.Resealed {
	out := make([]registry.Resealed, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

func (e *Encryption) note(change func(*Status)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.state)
}

var errBusy = errors.New("keys are being changed already; see orch secrets-encrypt status")
