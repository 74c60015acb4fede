package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"orch/runtime/engine"
)

// GCConfig says when images are deleted.
type GCConfig struct {
	// Dir lies on the file system that holds the images.
	Dir string
	// HighPercent of that file system in use starts a collection, which ends at LowPercent.
	HighPercent, LowPercent int
	// MinAge spares images that came a moment ago.
	MinAge time.Duration
	Every  time.Duration
	// InUse tells the IDs of the images that containers use.
	InUse func(ctx context.Context) (map[string]bool, error)
	Log   *slog.Logger
}

// Collect deletes images in a loop until ctx ends. One statfs per interval is
// all that it costs while the disk has room.
func Collect(ctx context.Context, images engine.Images, c GCConfig) error {
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := collect(ctx, images, c); err != nil && ctx.Err() == nil {
			c.Log.Warn("collecting images failed", "err", err)
		}
	}
}

func collect(ctx context.Context, images engine.Images, c GCConfig) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.Dir, &fs); err != nil {
		return fmt.Errorf("reading the usage of %s: %w", c.Dir, err)
	}
	total := int64(fs.Blocks) * fs.Bsize
	used := total - int64(fs.Bavail)*fs.Bsize
	if total == 0 || used*100 < total*int64(c.HighPercent) {
		return nil
	}
	all, err := images.List(ctx)
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	inUse, err := c.InUse(ctx)
	if err != nil {
		return err
	}
	var bad error
	for _, img := range Victims(all, inUse, used-total*int64(c.LowPercent)/100, time.Now().Add(-c.MinAge)) {
		if err := images.Remove(ctx, img.ID); err != nil {
			bad = errors.Join(bad, fmt.Errorf("removing image %s: %w", img.ID, err))
			continue
		}
		c.Log.Info("removed an unused image for disk space", "image", img.ID, "names", img.Names, "bytes", img.Bytes)
	}
	return bad
}

// Victims picks what to delete to free that many bytes: unused, unpinned images,
// the longest unused first, none used after spare.
func Victims(all []engine.Image, inUse map[string]bool, bytes int64, spare time.Time) []engine.Image {
	var free []engine.Image
	for _, img := range all {
		if !img.Pinned && !inUse[img.ID] && !img.LastUsed.After(spare) {
			free = append(free, img)
		}
	}
	slices.SortFunc(free, func(a, b engine.Image) int { return a.LastUsed.Compare(b.LastUsed) })
	for i, img := range free {
		if bytes <= 0 {
			return free[:i]
		}
		bytes -= img.Bytes
	}
	return free
}
