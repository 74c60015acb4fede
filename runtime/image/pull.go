package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"orch/runtime/engine"
)

// Pull fetches an image through the mirrors, trying auths in order (none:
// anonymously), and unpacks it. The registries file is read anew each time.
func (s *Store) Pull(ctx context.Context, ref string, auths []engine.Auth, p engine.PullProgress) (engine.Image, error) {
	name, err := Normalize(ref)
	if err != nil {
		return engine.Image{}, err
	}
	registries, err := LoadRegistries(s.cfg.Registries)
	if err != nil {
		return engine.Image{}, err
	}
	if len(auths) == 0 {
		auths = []engine.Auth{{}}
	}
	var errs []error
	for _, auth := range auths {
		img, err := s.pull(ctx, name, registries.hosts(auth), p)
		if err == nil {
			return img, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	// The first login is the one people look at; the others failed as well.
	return engine.Image{}, fmt.Errorf("failed to pull and unpack image %q: %w", ref, joinDistinct(errs))
}

func (s *Store) pull(ctx context.Context, name string, hosts docker.RegistryHosts, p engine.PullProgress) (engine.Image, error) {
	keep, err := s.labels(ctx, name)
	if err != nil {
		return engine.Image{}, err
	}
	opts := []client.RemoteOpt{
		client.WithResolver(&countingResolver{Resolver: docker.NewResolver(docker.ResolverOptions{Hosts: hosts}), progress: newProgress(p)}),
		client.WithPlatformMatcher(platforms.Default()),
		client.WithPullUnpack, client.WithPullSnapshotter(s.cfg.Snapshotter),
		client.WithPullLabels(keep),
	}
	if s.cfg.MaxParallel > 0 {
		opts = append(opts, client.WithMaxConcurrentDownloads(s.cfg.MaxParallel))
	}
	got, err := s.cfg.Client.Pull(ctx, name, opts...)
	if err != nil {
		return engine.Image{}, err
	}
	c, err := s.Contents(ctx, got.Target())
	if err != nil {
		return engine.Image{}, err
	}
	rec := images.Image{Name: got.Name(), Target: got.Target()}
	if err := s.Unpack(ctx, rec, c); err != nil {
		return engine.Image{}, err
	}
	return s.Resolve(ctx, string(c.ID))
}

// labels are those the image has already: pulling it anew must not unpin it.
func (s *Store) labels(ctx context.Context, name string) (map[string]string, error) {
	rec, err := s.cfg.Client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up image: %w", err)
	}
	return maps.Clone(rec.Labels), nil
}

func joinDistinct(errs []error) error {
	seen := map[string]bool{}
	var out []error
	for _, err := range errs {
		if !seen[err.Error()] {
			seen[err.Error()] = true
			out = append(out, err)
		}
	}
	if len(out) == 1 {
		return out[0]
	}
	return errors.Join(out...)
}

// countingResolver reports what is fetched through it.
type countingResolver struct {
	remotes.Resolver
	progress *progress
}

func (r *countingResolver) Fetcher(ctx context.Context, ref string) (remotes.Fetcher, error) {
	f, err := r.Resolver.Fetcher(ctx, ref)
	if err != nil {
		return nil, err
	}
	return remotes.FetcherFunc(func(ctx context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
		rc, err := f.Fetch(ctx, d)
		if err != nil {
			return nil, err
		}
		r.progress.add(0, d.Size)
		return &countingReader{rc, r.progress}, nil
	}), nil
}

// progress sums up all parts of a pull.
type progress struct {
	report engine.PullProgress // nil: nobody listens

	mu          sync.Mutex
	done, total int64
}

func newProgress(report engine.PullProgress) *progress { return &progress{report: report} }

func (p *progress) add(done, total int64) {
	if p.report == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += done
	p.total += total
	p.report(p.done, p.total)
}

type countingReader struct {
	io.ReadCloser
	progress *progress
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.progress.add(int64(n), 0)
	return n, err
}
