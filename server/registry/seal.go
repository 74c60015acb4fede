package registry

import (
	"context"
	"errors"

	"orch/datastore"
	"orch/server/registry/cache"
)

// resealPage is how many values a reseal reads at a time.
const resealPage = 500

// seal puts the encryption of a resource, if there is any, between its values and the store.
func (r *Registry) seal(res *Resource) {
	if r.seals != nil {
		if s := r.seals(res.Group, res.Plural); s != nil {
			res.kind.Sealer = s
		}
	}
}

// commit stores the one operation of t, sealed where its kind is.
func (r *Registry) commit(ctx context.Context, kind *cache.Kind, t datastore.Txn) (rev int64, err error) {
	if kind.Sealer == nil {
		return r.store.Commit(ctx, t)
	}
	err = kind.Sealer.Write(t.Ops[0].Key, t.Ops[0].Value, func(sealed []byte) (err error) {
		t.Ops[0].Value = sealed
		rev, err = r.store.Commit(ctx, t)
		return err
	})
	return rev, err
}

// Resealed is how far a Reseal has come.
type Resealed struct {
	// Resource is its name with the group, as kubectl writes it.
	Resource string
	// Done were looked at, Changed of them rewritten, Failed could not be read.
	Done, Changed, Failed int
}

// Reseal rewrites every stored value that its Sealer calls stale, resource by resource;
// tell hears of the progress and may be called often. It may be run again at any time.
func (r *Registry) Reseal(ctx context.Context, tell func(Resealed)) error {
	if err := r.waitLoaded(ctx); err != nil {
		return err
	}
	for _, res := range r.Resources() {
		if res.Computed || res.SameAs != nil || res.kind.Sealer == nil {
			continue
		}
		if err := r.resealKind(ctx, res, tell); err != nil {
			return err
		}
	}
	return nil
}

func (r *Registry) waitLoaded(ctx context.Context) error {
	select {
	case <-r.cache.Ready():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Registry) resealKind(ctx context.Context, res *Resource, tell func(Resealed)) error {
	progress := Resealed{Resource: res.GroupResource().String()}
	q := datastore.ListRequest{Prefix: res.Facts.Prefix(), Limit: resealPage}
	for {
		page, err := r.store.List(ctx, q)
		if err != nil {
			return err
		}
		for _, kv := range page.KVs {
			progress.Done++
			if !res.kind.Sealer.Stale(kv.Value) {
				continue
			}
			changed, err := r.resealOne(ctx, res, kv)
			switch {
			case err == nil && changed:
				progress.Changed++
			case err != nil && ctx.Err() != nil:
				return ctx.Err()
			case errors.As(err, new(*unreadable)):
				progress.Failed++
				r.log.Error("an object in the store cannot be read and is not encrypted anew", "key", kv.Key, "error", err)
			case err != nil:
				return err
			}
		}
		tell(progress)
		if !page.More {
			return nil
		}
		q.After = page.KVs[len(page.KVs)-1].Key
	}
}

// unreadable is an error that belongs to one value, not to the store.
type unreadable struct{ error }

// resealOne writes a value again as it is. One that changed meanwhile was sealed by its writer.
func (r *Registry) resealOne(ctx context.Context, res *Resource, kv datastore.KV) (bool, error) {
	plain, err := res.kind.Sealer.Open(kv.Key, kv.Value)
	if err != nil {
		return false, &unreadable{err}
	}
	_, err = r.commit(ctx, res.kind, datastore.Txn{Lazy: res.hooks.lazy, Ops: []datastore.Op{{Key: kv.Key, Value: plain, Expect: kv.ModRevision}}})
	if errors.Is(err, datastore.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// Reread tries again to read what could not be read.
func (r *Registry) Reread(ctx context.Context) error {
	if err := r.waitLoaded(ctx); err != nil {
		return err
	}
	return r.cache.Retry(ctx)
}

// sealedOtherwise tells that an object lies under another key than it would if it were
// written now: an update that changes nothing brings it up to date.
func (w *op) sealedOtherwise(ctx context.Context, old *Item) (bool, error) {
	s := w.res.kind.Sealer
	if s == nil {
		return false, nil
	}
	o := old.Object()
	kv, err := w.r.store.Get(ctx, w.res.Key(o.GetNamespace(), o.GetName()), old.Revision())
	if errors.Is(err, datastore.ErrNotFound) || errors.Is(err, datastore.ErrCompacted) {
		return false, nil // it has been replaced meanwhile
	}
	return err == nil && s.Stale(kv.Value), err
}

// ForgetPast drops the store's history: what was replaced up to now. Watches and lists
// that go on from there are told to begin anew.
func (r *Registry) ForgetPast(ctx context.Context) error {
	return r.store.Compact(ctx, r.store.Revision())
}
