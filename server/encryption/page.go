package encryption

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"orch/api"
)

// The forms of what the pages give and take are those of package api.
type (
	Status   = api.EncryptionStatus
	Progress = api.EncryptionProgress
)

// Status is how secrets are kept now.
func (e *Encryption) Status() Status {
	theirs := e.theirs()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.state
	s.Progress = slices.Clone(s.Progress)
	s.Enabled, s.File = len(e.keys.keys) > 0 && !e.keys.off, ""
	if theirs {
		s.File = e.cfg.File
		s.Enabled = true
	}
	s.Stage = e.keys.stage(s.Running)
	for i, k := range e.keys.keys {
		s.Keys = append(s.Keys, api.EncryptionKey{Name: k.name, Provider: k.provider, Active: i == 0 && !e.keys.off && !theirs})
	}
	return s
}

// stage is k3s' word for where a change of keys stands.
func (r keyring) stage(running bool) string {
	switch {
	case running:
		return "reencrypt_active"
	case r.prepared():
		return "prepare"
	case len(r.keys) > 1:
		return "rotate"
	}
	return "reencrypt_finished"
}

func withProgress(list []Progress, p Progress) []Progress {
	for i := range list {
		if list[i].Resource == p.Resource {
			list[i] = p
			return list
		}
	}
	return append(list, p)
}

// actions are what can be asked for: what happens to the keys, and whether everything
// is written anew afterwards.
var actions = map[string]struct {
	change func(keyring, string) (keyring, error)
	anew   bool
}{
	"prepare": {change: func(r keyring, provider string) (keyring, error) {
		if r.off || len(r.keys) == 0 {
			return r, errors.New("secrets are not encrypted; use enable first")
		}
		if r.prepared() {
			return r, errors.New("a new key is prepared already; use rotate")
		}
		if len(r.keys) > 1 {
			return r, errors.New("a rotated key is still in use; use reencrypt first")
		}
		return r.with(provider, false), nil
	}},
	"rotate":      {change: rotated},
	"rotate-keys": {anew: true, change: rotated},
	"reencrypt":   {anew: true, change: func(r keyring, _ string) (keyring, error) { return r, nil }},
	"enable": {anew: true, change: func(r keyring, provider string) (keyring, error) {
		if len(r.keys) == 0 {
			return r.with(provider, true), nil
		}
		r.off = false
		return r, nil
	}},
	"disable": {anew: true, change: func(r keyring, _ string) (keyring, error) {
		if len(r.keys) == 0 {
			return r, errors.New("secrets are not encrypted")
		}
		r.off = true
		return r, nil
	}},
}

// rotated puts the prepared key in front, or a new one.
func rotated(r keyring, provider string) (keyring, error) {
	switch {
	case r.off || len(r.keys) == 0:
		return r, errors.New("secrets are not encrypted; use enable first")
	case r.prepared():
		return r.turned(), nil
	}
	return r.with(provider, true), nil
}

// Do carries an action out and tells of its progress. It goes on when ctx ends only if
// the caller wants that: give a context that does not.
func (e *Encryption) Do(ctx context.Context, store Store, action string, tell func(Progress)) error {
	a, ok := actions[action]
	if !ok {
		return fmt.Errorf("there is no action %q", action)
	}
	if e.theirs() && action != "reencrypt" {
		return fmt.Errorf("secrets are encrypted as %s says: change the keys there, restart the server, and use reencrypt", e.cfg.File)
	}
	if !e.busy.TryLock() {
		return errBusy
	}
	defer e.busy.Unlock()
	before := e.ringNow()
	keys, err := a.change(before, e.cfg.Provider)
	if err != nil {
		return err
	}
	if action != "reencrypt" {
		if err := e.use(keys); err != nil {
			return err
		}
		e.cfg.Log.Info("keys of secrets changed", "action", action, "keys", len(keys.keys))
	}
	if !a.anew {
		return nil
	}
	return e.reencrypt(ctx, store, tell)
}

// life ends with Run; before Run it has ended.
func (e *Encryption) life() context.Context {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.base
}

// maxAction bounds the body of a POST.
const maxAction = 1 << 10

// Page answers GET with a Status, and POST of an EncryptionAction with lines of
// EncryptionProgress, the last of which has Finished or Error set. An action that has
// begun is finished whether or not the client waits for it, unless the server ends.
func (e *Encryption) Page(store Store) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			_ = json.NewEncoder(w).Encode(e.Status()) // the client went away
			return
		}
		var a api.EncryptionAction
		if r.Method != http.MethodPost {
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		if err := json.NewDecoder(io.LimitReader(r.Body, maxAction)).Decode(&a); err != nil {
			http.Error(w, "the body is no action", http.StatusBadRequest)
			return
		}
		out := json.NewEncoder(w)
		flush := http.NewResponseController(w)
		say := func(p Progress) {
			if r.Context().Err() == nil {
				_ = out.Encode(p) // the client went away: the action goes on
				_ = flush.Flush() // likewise
			}
		}
		last := Progress{Finished: true}
		if err := e.Do(e.life(), store, a.Action, say); err != nil {
			last = Progress{Error: err.Error()}
		}
		say(last)
	})
}
