package fakeengine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"orch/runtime/engine"
)

// images is the image store of the fake: references and made-up digests.
type images struct {
	opts Options

	mu   sync.Mutex
	byID map[string]*engine.Image
}

var _ engine.Images = (*images)(nil)

func newImages(o Options) *images {
	i := &images{opts: o, byID: map[string]*engine.Image{}}
	for _, ref := range o.Images {
		i.addLocked(ref, false)
	}
	return i
}

// full completes a reference the way people expect: docker.io/library/x:latest.
// Digests and IDs stay as they are.
func full(ref string) string {
	if strings.HasPrefix(ref, "sha256:") {
		return ref
	}
	first, _, hasSlash := strings.Cut(ref, "/")
	switch {
	case !hasSlash:
		ref = "docker.io/library/" + ref
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		ref = "docker.io/" + ref
	}
	last := ref[strings.LastIndex(ref, "/")+1:]
	if !strings.ContainsAny(last, ":@") {
		ref += ":latest"
	}
	return ref
}

func idOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (i *images) addLocked(ref string, pin bool) *engine.Image {
	name := full(ref)
	id := idOf(name)
	img := i.byID[id]
	if img == nil {
		img = &engine.Image{ID: id, Bytes: 1 << 20}
		if strings.Contains(name, "@") {
			img.Digests = []string{name}
		} else {
			img.Names = []string{name}
			img.Digests = []string{name[:strings.LastIndex(name, ":")] + "@" + id}
		}
		i.byID[id] = img
	}
	img.Pinned = img.Pinned || pin
	return img
}

func (i *images) Resolve(_ context.Context, ref string) (engine.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if ref == "" {
		return engine.Image{}, errors.New("image reference \"\": empty")
	}
	name := full(ref)
	for _, img := range i.byID {
		if img.ID == name || img.ID == "sha256:"+ref || slices.Contains(img.Names, name) || slices.Contains(img.Digests, name) {
			return *img, nil
		}
	}
	if i.opts.OnlyImages || len(i.opts.Images) > 0 {
		return engine.Image{}, fmt.Errorf("image %s: %w", ref, engine.ErrNotFound)
	}
	return *i.addLocked(ref, false), nil
}

func (i *images) List(context.Context) ([]engine.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]engine.Image, 0, len(i.byID))
	for _, img := range i.byID {
		out = append(out, *img)
	}
	slices.SortFunc(out, func(a, b engine.Image) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

func (i *images) Pull(_ context.Context, ref string, auths []engine.Auth, p engine.PullProgress) (engine.Image, error) {
	if i.opts.Pull != nil {
		if err := i.opts.Pull(ref, auths); err != nil {
			return engine.Image{}, fmt.Errorf("pulling image %s: %w", ref, err)
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	img := i.addLocked(ref, false)
	if p != nil {
		p(img.Bytes, img.Bytes)
	}
	return *img, nil
}

// Import takes the archive for a list of references, one a line.
func (i *images) Import(_ context.Context, r io.Reader, pin bool) ([]engine.Image, error) {
	b, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("importing images: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []engine.Image
	for ref := range strings.FieldsSeq(string(b)) {
		out = append(out, *i.addLocked(ref, pin))
	}
	if len(out) == 0 {
		return nil, errors.New("importing images: the archive names no image")
	}
	return out, nil
}

func (i *images) Remove(ctx context.Context, id string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	name := full(id)
	for key, img := range i.byID {
		if key == id || key == "sha256:"+id || slices.Contains(img.Names, name) || slices.Contains(img.Digests, name) {
			delete(i.byID, key)
		}
	}
	return nil
}

// Mount makes an empty directory: made-up images hold nothing.
func (i *images) Mount(ctx context.Context, id, target string) error {
	if _, err := i.Resolve(ctx, id); err != nil {
		return err
	}
	return os.MkdirAll(target, 0o755)
}

func (i *images) Unmount(_ context.Context, target string) error {
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (i *images) UsageBytes(context.Context) (int64, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var n int64
	for _, img := range i.byID {
		n += img.Bytes
	}
	return n, nil
}
