package image

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"

	"orch/runtime/engine"
)

// Import reads an OCI or docker archive (tar, gzip or zstd). Names are
// completed as Normalize does; an image without a name is left out.
func (s *Store) Import(ctx context.Context, r io.Reader, pin bool) ([]engine.Image, error) {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return nil, fmt.Errorf("importing images: %w", err)
	}
	defer plain.Close()
	ctx, done, err := s.cfg.Client.WithLease(ctx) // nothing of it is collected before it is whole
	if err != nil {
		return nil, fmt.Errorf("importing images: %w", err)
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()

	recs, err := s.cfg.Client.Import(ctx, plain, client.WithSkipMissing(), client.WithImportPlatform(platforms.Default()))
	if err != nil {
		return nil, fmt.Errorf("importing images: %w", err)
	}
	at := map[string]int{} // by ID, in out
	var out []engine.Image
	for _, rec := range recs {
		if rec, err = s.settle(ctx, rec, pin); err != nil {
			return out, err
		}
		c, err := s.Contents(ctx, rec.Target)
		if err != nil {
			return out, fmt.Errorf("importing image %s: %w", rec.Name, err)
		}
		if err := s.Unpack(ctx, rec, c); err != nil {
			return out, err
		}
		if i, there := at[string(c.ID)]; there {
			out[i].Names = addName(out[i].Names, rec.Name)
			continue
		}
		img, err := s.Resolve(ctx, string(c.ID))
		if err != nil {
			return out, err
		}
		img.Names = []string{rec.Name}
		at[string(c.ID)] = len(out)
		out = append(out, img)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("importing images: the archive names no image for %s", platforms.DefaultString())
	}
	return out, nil
}

func addName(names []string, name string) []string {
	if slices.Contains(names, name) {
		return names // the archive has both a docker and an OCI index
	}
	return append(names, name)
}

// settle gives an image record its full name and, if asked, the pin.
func (s *Store) settle(ctx context.Context, rec images.Image, pin bool) (images.Image, error) {
	name, err := Normalize(rec.Name)
	if err != nil {
		return rec, fmt.Errorf("importing images: %w", err)
	}
	want := images.Image{Name: name, Target: rec.Target, Labels: map[string]string{}}
	maps.Copy(want.Labels, rec.Labels)
	if pin {
		want.Labels[PinLabel] = pinValue
	}
	if name == rec.Name && !pin {
		return rec, nil
	}
	got, err := s.put(ctx, want)
	if err != nil {
		return rec, err
	}
	if name != rec.Name {
		if err := s.cfg.Client.ImageService().Delete(ctx, rec.Name); err != nil && !errdefs.IsNotFound(err) {
			return rec, fmt.Errorf("renaming image %s: %w", rec.Name, err)
		}
	}
	return got, nil
}

// put writes an image record, new or not.
func (s *Store) put(ctx context.Context, img images.Image) (images.Image, error) {
	store := s.cfg.Client.ImageService()
	got, err := store.Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		got, err = store.Update(ctx, img)
	}
	if err != nil {
		return img, fmt.Errorf("recording image %s: %w", img.Name, err)
	}
	return got, nil
}
