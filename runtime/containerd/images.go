package containerd

import (
	"context"
	"io"

	"orch/runtime/engine"
)

// scopedImages puts the namespace into every call.
type scopedImages struct{ e *Engine }

var _ engine.Images = scopedImages{}

func (s scopedImages) Resolve(ctx context.Context, ref string) (engine.Image, error) {
	return s.e.images.Resolve(s.e.scope(ctx), ref)
}

func (s scopedImages) List(ctx context.Context) ([]engine.Image, error) {
	return s.e.images.List(s.e.scope(ctx))
}

func (s scopedImages) Pull(ctx context.Context, ref string, auths []engine.Auth, p engine.PullProgress) (engine.Image, error) {
	return s.e.images.Pull(s.e.scope(ctx), ref, auths, p)
}

func (s scopedImages) Import(ctx context.Context, r io.Reader, pin bool) ([]engine.Image, error) {
	return s.e.images.Import(s.e.scope(ctx), r, pin)
}

func (s scopedImages) Remove(ctx context.Context, id string) error {
	return s.e.images.Remove(s.e.scope(ctx), id)
}

func (s scopedImages) Mount(ctx context.Context, id, target string) error {
	return s.e.images.Mount(s.e.scope(ctx), id, target)
}

func (s scopedImages) Unmount(ctx context.Context, target string) error {
	return s.e.images.Unmount(s.e.scope(ctx), target)
}

func (s scopedImages) UsageBytes(ctx context.Context) (int64, error) {
	return s.e.images.UsageBytes(s.e.scope(ctx))
}
