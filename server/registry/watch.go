package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/datastore"
	"orch/server/registry/cache"
)

// Watch starts a watch with upstream's resourceVersion semantics: unset and "0"
// begin with the present state, N behind N. Of its errors, those that InStream knows are told
// to clients as an event.
//
// A watch from a revision that this server has not reached is refused, where upstream
// leaves it waiting: after a restore of the datastore it would miss everything until the
// old revision comes round again.
func (r *Registry) Watch(ctx context.Context, q Request, o metav1.ListOptions) (*Watch, error) {
	return anew(ctx, r, q, func(q Request, res *Resource) (*Watch, error) { return r.watchOnce(ctx, q, res, o) })
}

func (r *Registry) watchOnce(ctx context.Context, q Request, res *Resource, o metav1.ListOptions) (*Watch, error) {
	filter, err := res.filter(&q, &o, true)
	if err != nil {
		return nil, err
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if err := r.fresh(ctx, rev); err != nil {
		return nil, err
	}
	opts := cache.WatchOptions{Filter: filter, After: rev, Bookmarks: o.AllowWatchBookmarks, State: rev == 0}
	if o.TimeoutSeconds != nil {
		opts.Timeout = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	if s := o.SendInitialEvents; s != nil {
		opts.State = *s
		if !*s && rev == 0 {
			opts.After = r.cache.Revision()
		}
	}
	opts.EndMark = opts.State && o.AllowWatchBookmarks
	w, err := r.cache.Watch(ctx, res.kind, opts)
	if errors.Is(err, datastore.ErrCompacted) {
		return nil, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rev, r.cache.Revision()))
	}
	if err != nil {
		return nil, storeError(err)
	}
	return w, nil
}

// InStream tells whether an error of Watch is told to a client as an ERROR event of a watch
// that has begun, as upstream does with all that is found out behind admission: clients that
// resume by themselves give up at such an event, and try for ever at a failed request.
func InStream(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// WatchError gives an error of Watch.Next, other than io.EOF, the status that a
// client is told.
func WatchError(err error) error {
	if errors.Is(err, datastore.ErrCompacted) {
		return apierrors.NewResourceExpired("too old resource version")
	}
	return storeError(err)
}
