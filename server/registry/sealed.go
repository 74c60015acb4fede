package registry

import (
	"bytes"
	"context"
	"fmt"

	"orch/api"
	"orch/datastore"
	"orch/server/registry/cache"
)

// Sealed gives the keys of up to limit values of a kind that lie encrypted in the store; 0
// is all of them. It needs no Registry: it tells whether one can be made.
func Sealed(ctx context.Context, store datastore.Store, f *api.Facts, limit int) ([]string, error) {
	var keys []string
	q := datastore.ListRequest{Prefix: f.Prefix(), Limit: resealPage}
	for {
		page, err := store.List(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("looking for encrypted %s: %w", f.Plural, err)
		}
		for _, kv := range page.KVs {
			if !bytes.HasPrefix(kv.Value, cache.SealedPrefix()) {
				continue
			}
			if keys = append(keys, kv.Key); len(keys) == limit {
				return keys, nil
			}
		}
		if !page.More {
			return keys, nil
		}
		q.After = page.KVs[len(page.KVs)-1].Key
	}
}

// GiveUpSealed deletes the encrypted values of a kind, which nobody can read any more, and
// tells how many they were.
func GiveUpSealed(ctx context.Context, store datastore.Store, f *api.Facts) (int, error) {
	keys, err := Sealed(ctx, store, f, 0)
	if err != nil {
		return 0, err
	}
	for _, k := range keys {
		if _, err := store.Commit(ctx, datastore.Txn{Ops: []datastore.Op{{Key: k, Delete: true, Expect: datastore.Any}}}); err != nil {
			return 0, fmt.Errorf("deleting %s, which cannot be read: %w", k, err)
		}
	}
	return len(keys), nil
}
