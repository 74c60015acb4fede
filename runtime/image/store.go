package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"orch/runtime/engine"
)

// PinLabel marks an image that garbage collection leaves alone; the same as with CRI.
const (
	PinLabel = "io.cri-containerd.pinned"
	pinValue = "pinned"
)

// Config of a Store.
type Config struct {
	Client *client.Client
	// Snapshotter is where layers are unpacked.
	Snapshotter string
	// Registries is the path of the mirrors file; empty or absent: none.
	Registries string
	// MaxParallel bounds the downloads of one pull.
	MaxParallel int
	Log         *slog.Logger
}

// Store is the images of one containerd namespace.
type Store struct {
	cfg Config

	mu    sync.Mutex
	known map[digest.Digest]Contents // by digest of the image's target
	used  map[digest.Digest]time.Time
}

var _ engine.Images = (*Store)(nil)

// Contents is what one image holds for this machine's platform.
type Contents struct {
	// ID is the digest of the configuration, Chain that of the unpacked layers.
	ID, Chain digest.Digest
	Target    imagespec.Descriptor
	Config    imagespec.ImageConfig
	// Bytes are the stored (compressed) ones.
	Bytes int64
}

// NewStore makes a Store.
func NewStore(c Config) *Store {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Store{cfg: c, known: map[digest.Digest]Contents{}, used: map[digest.Digest]time.Time{}}
}

// Contents reads (once) what an image record points to.
func (s *Store) Contents(ctx context.Context, target imagespec.Descriptor) (Contents, error) {
	s.mu.Lock()
	c, ok := s.known[target.Digest]
	s.mu.Unlock()
	if ok {
		return c, nil
	}
	store := s.cfg.Client.ContentStore()
	manifest, err := images.Manifest(ctx, store, target, platforms.Default())
	if err != nil {
		return Contents{}, fmt.Errorf("reading image manifest: %w", err)
	}
	raw, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		return Contents{}, fmt.Errorf("reading image configuration: %w", err)
	}
	var img imagespec.Image
	if err := json.Unmarshal(raw, &img); err != nil {
		return Contents{}, fmt.Errorf("reading image configuration: %w", err)
	}
	c = Contents{
		ID: manifest.Config.Digest, Chain: identity.ChainID(img.RootFS.DiffIDs),
		Target: target, Config: img.Config, Bytes: manifest.Config.Size + target.Size,
	}
	for _, l := range manifest.Layers {
		c.Bytes += l.Size
	}
	s.mu.Lock()
	s.known[target.Digest] = c
	s.mu.Unlock()
	return c, nil
}

// Find resolves a reference to an image record and its contents.
func (s *Store) Find(ctx context.Context, ref string) (images.Image, Contents, error) {
	if !isDigest(ref) {
		name, err := Normalize(ref)
		if err != nil {
			return images.Image{}, Contents{}, err
		}
		img, err := s.cfg.Client.ImageService().Get(ctx, name)
		if err == nil {
			c, err := s.Contents(ctx, img.Target)
			return img, c, err
		}
		if !errdefs.IsNotFound(err) {
			return images.Image{}, Contents{}, fmt.Errorf("looking up image %s: %w", ref, err)
		}
		_, dgst, byDigest := strings.Cut(name, "@")
		if !byDigest {
			return images.Image{}, Contents{}, fmt.Errorf("image %s: %w", ref, engine.ErrNotFound)
		}
		return s.search(ctx, ref, func(img images.Image, c Contents) bool {
			return string(img.Target.Digest) == dgst && repository(img.Name) == repository(name)
		})
	}
	want := digest.Digest("sha256:" + strings.TrimPrefix(ref, "sha256:"))
	return s.search(ctx, ref, func(img images.Image, c Contents) bool {
		return c.ID == want || img.Target.Digest == want
	})
}

func (s *Store) search(ctx context.Context, ref string, match func(images.Image, Contents) bool) (images.Image, Contents, error) {
	all, err := s.cfg.Client.ImageService().List(ctx)
	if err != nil {
		return images.Image{}, Contents{}, fmt.Errorf("listing images: %w", err)
	}
	for _, img := range all {
		c, err := s.Contents(ctx, img.Target)
		if err == nil && match(img, c) {
			return img, c, nil
		}
	}
	return images.Image{}, Contents{}, fmt.Errorf("image %s: %w", ref, engine.ErrNotFound)
}

// Resolve finds a present image.
func (s *Store) Resolve(ctx context.Context, ref string) (engine.Image, error) {
	_, c, err := s.Find(ctx, ref)
	if err != nil {
		return engine.Image{}, err
	}
	// All names of it, not only the one asked for.
	all, err := s.List(ctx)
	if err != nil {
		return engine.Image{}, err
	}
	for _, img := range all {
		if img.ID == string(c.ID) {
			return img, nil
		}
	}
	return engine.Image{}, fmt.Errorf("image %s: %w", ref, engine.ErrNotFound)
}

// List shows all images that are whole for this platform, by ID.
func (s *Store) List(ctx context.Context) ([]engine.Image, error) {
	all, err := s.cfg.Client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	byID := map[string]*engine.Image{}
	for _, rec := range all {
		c, err := s.Contents(ctx, rec.Target)
		if err != nil {
			continue // of another platform, or only partly here
		}
		img := byID[string(c.ID)]
		if img == nil {
			img = s.describe(c)
			byID[img.ID] = img
		}
		img.Pinned = img.Pinned || rec.Labels[PinLabel] == pinValue
		if !strings.Contains(rec.Name, "@") {
			img.Names = append(img.Names, rec.Name)
		}
		d := repository(rec.Name) + "@" + rec.Target.Digest.String()
		if !slices.Contains(img.Digests, d) {
			img.Digests = append(img.Digests, d)
		}
	}
	out := make([]engine.Image, 0, len(byID))
	for _, img := range byID {
		slices.Sort(img.Names)
		slices.Sort(img.Digests)
		out = append(out, *img)
	}
	slices.SortFunc(out, func(a, b engine.Image) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

func (s *Store) describe(c Contents) *engine.Image {
	img := &engine.Image{ID: string(c.ID), Bytes: c.Bytes, Env: c.Config.Env}
	user, _, _ := strings.Cut(c.Config.User, ":")
	if n, err := strconv.ParseInt(user, 10, 64); err == nil {
		img.UID = &n
	} else {
		img.Username = user
	}
	s.mu.Lock()
	img.LastUsed = s.used[c.ID]
	s.mu.Unlock()
	return img
}

// MarkUsed notes that a container was made from the image.
func (s *Store) MarkUsed(id digest.Digest, at time.Time) {
	s.mu.Lock()
	s.used[id] = at
	s.mu.Unlock()
}

// Unpack makes sure that the image's layers are ready for a container.
func (s *Store) Unpack(ctx context.Context, img images.Image, c Contents) error {
	_, err := s.cfg.Client.SnapshotService(s.cfg.Snapshotter).Stat(ctx, c.Chain.String())
	if err == nil {
		return nil
	}
	if !errdefs.IsNotFound(err) {
		return fmt.Errorf("looking at layers of image %s: %w", img.Name, err)
	}
	ci := client.NewImageWithPlatform(s.cfg.Client, img, platforms.Default())
	if err := ci.Unpack(ctx, s.cfg.Snapshotter); err != nil {
		return fmt.Errorf("unpacking image %s: %w", img.Name, err)
	}
	return nil
}

// Remove takes all names of an image away; its space is given back by
// containerd's collector. Removing one that is not there is no error.
func (s *Store) Remove(ctx context.Context, id string) error {
	_, want, err := s.Find(ctx, id)
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := s.cfg.Client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	for _, rec := range all {
		c, err := s.Contents(ctx, rec.Target)
		if err != nil || c.ID != want.ID {
			continue
		}
		if err := s.cfg.Client.ImageService().Delete(ctx, rec.Name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("removing image %s: %w", rec.Name, err)
		}
		s.mu.Lock()
		delete(s.known, rec.Target.Digest)
		delete(s.used, want.ID)
		s.mu.Unlock()
	}
	return nil
}

// UsageBytes is the space of stored content and unpacked layers.
func (s *Store) UsageBytes(ctx context.Context) (int64, error) {
	var total int64
	err := s.cfg.Client.ContentStore().Walk(ctx, func(i content.Info) error {
		total += i.Size
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measuring image content: %w", err)
	}
	layers := s.cfg.Client.SnapshotService(s.cfg.Snapshotter)
	err = layers.Walk(ctx, func(ctx context.Context, i snapshots.Info) error {
		if i.Kind != snapshots.KindCommitted {
			return nil // a container's own layer is not the image's
		}
		u, err := layers.Usage(ctx, i.Name)
		if err != nil {
			return err
		}
		total += u.Size
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measuring layers: %w", err)
	}
	return total, nil
}
