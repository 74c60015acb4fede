package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"orch/runtime/engine"
)

// File reads a file of an image, as a container would see it before anything is
// mounted. Links are followed within the image only. engine.ErrNotFound if the image or
// the file is not there; a file longer than max is an error.
func (s *Store) File(ctx context.Context, ref, path string, max int64) (content []byte, err error) {
	img, c, err := s.Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := s.Unpack(ctx, img, c); err != nil {
		return nil, err
	}
	snaps := s.cfg.Client.SnapshotService(s.cfg.Snapshotter)
	key := "orch-read-" + rand.Text()
	mounts, err := snaps.View(ctx, key, c.Chain.String())
	if err != nil {
		return nil, fmt.Errorf("looking into image %s: %w", ref, err)
	}
	defer func() {
		if rm := snaps.Remove(context.WithoutCancel(ctx), key); rm != nil && !errdefs.IsNotFound(rm) {
			err = errors.Join(err, fmt.Errorf("letting go of image %s: %w", ref, rm))
		}
	}()
	err = mount.WithReadonlyTempMount(ctx, mounts, func(dir string) error {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer root.Close()
		f, err := root.Open(strings.TrimPrefix(path, "/"))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s in image %s: %w", path, ref, engine.ErrNotFound)
		}
		if err != nil {
			return err
		}
		defer f.Close()
		content, err = io.ReadAll(io.LimitReader(f, max+1))
		if err == nil && int64(len(content)) > max {
			return fmt.Errorf("%s in image %s is longer than %d bytes", path, ref, max)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading a file of an image: %w", err)
	}
	return content, nil
}
