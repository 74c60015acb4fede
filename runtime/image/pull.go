package image

import (
	"context"

	"orch/runtime/engine"
)

func (s *Store) Pull(ctx context.Context, ref string, auths []engine.Auth, p engine.PullProgress) (engine.Image, error) {
	panic("next")
}
