// Package image gets the images that containers need: pull policies, pull
// secrets, a bounded number of pulls at a time, one pull for many waiters; and
// it deletes unused images when the disk fills. It refuses to talk to
// registries: that is the engine's. Start reading at Puller.Ensure.
package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	core "k8s.io/api/core/v1"

	"orch/runtime/engine"
)

// Reasons of an Error, as container statuses show them.
const (
	ErrImagePull      = "ErrImagePull"
	ErrImageNeverPull = "ErrImageNeverPull"
	InvalidImageName  = "InvalidImageName"
	ImageInspectError = "ImageInspectError"
)

// Error is why an image is not there.
type Error struct {
	Reason string
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Request asks for one container's image.
type Request struct {
	Image  string
	Policy core.PullPolicy
	// Auths is asked for only when a pull is needed.
	Auths func(ctx context.Context, image string) []engine.Auth
	// Event tells what happens, as events of the container.
	Event func(eventType, reason, message string)
}

// Puller shares the engine's image store among pods.
type Puller struct {
	images engine.Images
	slots  *semaphore.Weighted
	one    singleflight.Group
	pulled func()
	// Arrivals waits while images come in another way than by a pull, until there is
	// enough; nil where none do.
	Arrivals func(ctx context.Context, enough func() bool)
}

// NewPuller allows that many pulls at a time. pulled is called after each; it may be nil.
func NewPuller(images engine.Images, parallel int64, pulled func()) *Puller {
	if pulled == nil {
		pulled = func() {}
	}
	return &Puller{images: images, slots: semaphore.NewWeighted(parallel), pulled: pulled}
}

// resolve looks for an image that is there, or is about to be.
func (p *Puller) resolve(ctx context.Context, ref string) (img engine.Image, err error) {
	img, err = p.images.Resolve(ctx, ref)
	if p.Arrivals == nil || !errors.Is(err, engine.ErrNotFound) {
		return img, err
	}
	p.Arrivals(ctx, func() bool {
		img, err = p.images.Resolve(ctx, ref)
		return !errors.Is(err, engine.ErrNotFound)
	})
	return img, err
}

// Ensure returns the image, pulling it if the policy says so. A failure is an *Error.
func (p *Puller) Ensure(ctx context.Context, r Request) (engine.Image, error) {
	if err := checkName(r.Image); err != nil {
		r.Event(core.EventTypeWarning, "InspectFailed", fmt.Sprintf("Failed to apply default image tag %q: %v", r.Image, err))
		return engine.Image{}, &Error{InvalidImageName, fmt.Errorf("Failed to apply default image tag %q: %w", r.Image, err)} //nolint: upstream's sentence
	}
	img, err := p.resolve(ctx, r.Image)
	present := err == nil
	if err != nil && !errors.Is(err, engine.ErrNotFound) {
		r.Event(core.EventTypeWarning, "InspectFailed", fmt.Sprintf("Failed to inspect image %q: %v", r.Image, err))
		return engine.Image{}, &Error{ImageInspectError, err}
	}
	policy := r.Policy
	if policy == "" {
		policy = DefaultPolicy(r.Image)
	}
	switch {
	case present && policy != core.PullAlways:
		r.Event(core.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", r.Image))
		return img, nil
	case policy == core.PullNever:
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Image)
		r.Event(core.EventTypeWarning, ErrImageNeverPull, msg)
		return engine.Image{}, &Error{ErrImageNeverPull, errors.New(msg)}
	}
	return p.pull(ctx, r)
}

func (p *Puller) pull(ctx context.Context, r Request) (engine.Image, error) {
	r.Event(core.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", r.Image))
	began := time.Now()
	auths := r.Auths(ctx, r.Image)
	if err := p.slots.Acquire(ctx, 1); err != nil {
		return engine.Image{}, &Error{ErrImagePull, err}
	}
	defer p.slots.Release(1)
	waited := time.Now()
	img, err := p.shared(ctx, r.Image, auths)
	if err != nil {
		if ctx.Err() == nil {
			r.Event(core.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", r.Image, err))
		}
		return engine.Image{}, &Error{ErrImagePull, err}
	}
	p.pulled()
	r.Event(core.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
		r.Image, time.Since(waited).Truncate(time.Millisecond), time.Since(began).Truncate(time.Millisecond), img.Bytes))
	return img, nil
}

// shared lets pods that want the same image with the same credentials wait for one
// pull; it goes on when one of them gives up.
func (p *Puller) shared(ctx context.Context, ref string, auths []engine.Auth) (engine.Image, error) {
	done := p.one.DoChan(ref+fmt.Sprint(auths), func() (any, error) {
		return p.images.Pull(context.WithoutCancel(ctx), ref, auths, nil)
	})
	select {
	case <-ctx.Done():
		return engine.Image{}, ctx.Err()
	case r := <-done:
		if r.Err != nil {
			return engine.Image{}, r.Err
		}
		return r.Val.(engine.Image), nil
	}
}

// DefaultPolicy is what upstream's defaulting gives: Always for :latest or no tag.
func DefaultPolicy(ref string) core.PullPolicy {
	if strings.Contains(ref, "@") {
		return core.PullIfNotPresent
	}
	name := ref[strings.LastIndex(ref, "/")+1:]
	if _, tag, ok := strings.Cut(name, ":"); ok && tag != "latest" {
		return core.PullIfNotPresent
	}
	return core.PullAlways
}

// checkName refuses what cannot be an image reference.
func checkName(ref string) error {
	name, _, _ := strings.Cut(ref, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	if ref == "" || name == "" || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.ContainsAny(ref, " \t\n\\\"'<>|&;*?") {
		return errors.New("couldn't parse image name: invalid reference format")
	}
	host, rest, ok := strings.Cut(name, "/")
	path := name
	if ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		path = rest
	}
	if path != strings.ToLower(path) {
		return fmt.Errorf("couldn't parse image name %q: invalid reference format: repository name (library/%s) must be lowercase", ref, path)
	}
	return nil
}
