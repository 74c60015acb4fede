package client

import (
	"context"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
)

// Writes collects, per kind, the newest revision that was written with a
// context. Many goroutines may write with the same context.
type Writes struct {
	mu     sync.Mutex
	newest map[*api.Facts]int64 // guarded by mu; nil until the first write
}

type writesKey struct{}

// WithWrites returns a context whose successful writes through a *Client are
// noted in the Writes.
func WithWrites(ctx context.Context) (context.Context, *Writes) {
	w := new(Writes)
	return context.WithValue(ctx, writesKey{}, w), w
}

// Newest returns the newest revision written of each kind; nil if nothing was
// written. It is a copy.
func (w *Writes) Newest() map[*api.Facts]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.newest == nil {
		return nil
	}
	out := make(map[*api.Facts]int64, len(w.newest))
	for f, r := range w.newest {
		out[f] = r
	}
	return out
}

// note records the resource version of a written object. Answers without one
// (the Status of a binding, a token) leave nothing to wait for.
func note(ctx context.Context, t Target, o runtime.Object, err error) (runtime.Object, error) {
	if err != nil {
		return o, err
	}
	w, _ := ctx.Value(writesKey{}).(*Writes)
	obj, isObject := o.(metav1.Object)
	if w == nil || !isObject {
		return o, nil
	}
	rev, perr := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if perr != nil {
		return o, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.newest == nil {
		w.newest = make(map[*api.Facts]int64, 2)
	}
	w.newest[t.Kind] = max(w.newest[t.Kind], rev)
	return o, nil
}

// Create, Update, Patch and Delete are the Transport's, and note what they wrote.

func (c *Client) Create(ctx context.Context, t Target, obj runtime.Object, o metav1.CreateOptions) (runtime.Object, error) {
	out, err := c.Transport.Create(ctx, t, obj, o)
	return note(ctx, t, out, err)
}

func (c *Client) Update(ctx context.Context, t Target, obj runtime.Object, o metav1.UpdateOptions) (runtime.Object, error) {
	out, err := c.Transport.Update(ctx, t, obj, o)
	return note(ctx, t, out, err)
}

func (c *Client) Patch(ctx context.Context, t Target, pt types.PatchType, patch []byte, o metav1.PatchOptions) (runtime.Object, error) {
	out, err := c.Transport.Patch(ctx, t, pt, patch, o)
	return note(ctx, t, out, err)
}

func (c *Client) Delete(ctx context.Context, t Target, o metav1.DeleteOptions) (runtime.Object, error) {
	out, err := c.Transport.Delete(ctx, t, o)
	return note(ctx, t, out, err)
}
