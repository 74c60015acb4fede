package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
)

// rootLabel keeps a view, and with it the layers below, from containerd's collector.
const rootLabel = "containerd.io/gc.root"

// viewOf names the snapshot that is mounted at target.
func viewOf(target string) string { return "mounted-at:" + target }

// Mount shows an image's root, read-only, at target.
func (s *Store) Mount(ctx context.Context, id, target string) error {
	rec, c, err := s.Find(ctx, id)
	if err != nil {
		return err
	}
	if err := s.Unpack(ctx, rec, c); err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mounting image %s: %w", rec.Name, err)
	}
	if there, err := mountinfo.Mounted(target); err != nil || there {
		return err
	}
	layers, now := s.cfg.Client.SnapshotService(s.cfg.Snapshotter), time.Now()
	mounts, err := layers.View(ctx, viewOf(target), c.Chain.String(), snapshots.WithLabels(map[string]string{rootLabel: now.UTC().Format(time.RFC3339)}))
	if errdefs.IsAlreadyExists(err) { // of before a reboot
		mounts, err = layers.Mounts(ctx, viewOf(target))
	}
	if err != nil {
		return fmt.Errorf("preparing the layers of image %s: %w", rec.Name, err)
	}
	if err := mount.All(mounts, target); err != nil {
		return errors.Join(fmt.Errorf("mounting image %s: %w", rec.Name, err), s.Unmount(ctx, target))
	}
	s.MarkUsed(c.ID, now)
	return nil
}

// Unmount takes an image away from target.
func (s *Store) Unmount(ctx context.Context, target string) error {
	if err := mount.UnmountAll(target, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmounting %s: %w", target, err)
	}
	if err := s.cfg.Client.SnapshotService(s.cfg.Snapshotter).Remove(ctx, viewOf(target)); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("giving the layers at %s back: %w", target, err)
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
