package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PackOptions say what to pack and how the image runs.
type PackOptions struct {
	// Source is a folder (the root file system) or one program file, which
	// becomes /<its name>.
	Source string
	// Names of the image; at least one.
	Names []string
	// Entrypoint and Cmd of the image; with a single program both empty mean that program.
	Entrypoint, Cmd []string
	Env             []string
	// Ports that it listens on: "8080", "53/udp".
	Ports      []string
	User       string
	WorkingDir string
	Labels     map[string]string
	// Platform is "linux/amd64" or the like; empty: this machine's.
	Platform string
	// Links are further names of files: "/bin/sh" -> "/bin/busybox".
	Links map[string]string
	// Owners keeps the numbers of the files' owners; otherwise all belong to root.
	Owners bool
}

// epoch is the time of everything in a packed image: the same input gives the
// same bytes, whenever it is packed.
var epoch = time.Unix(0, 0).UTC()

// Pack writes an archive that docker, containerd and orch import. The same
// input gives the same bytes.
func Pack(o PackOptions, to io.Writer) error {
	names, platform, err := o.check()
	if err != nil {
		return fmt.Errorf("packing image: %w", err)
	}
	// The layer goes to a file first: its size and digests stand before it in the archive.
	tmp, err := os.CreateTemp("", "orch-pack-*")
	if err != nil {
		return fmt.Errorf("packing image: %w", err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	layer, diffID, err := o.writeLayer(tmp)
	if err != nil {
		return fmt.Errorf("packing image: %w", err)
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("packing image: %w", err)
	}
	a := &archive{tw: tar.NewWriter(to)}
	a.stream(blobPath(layer.Digest), layer.Size, tmp)
	config := a.json(imagespec.MediaTypeImageConfig, o.config(platform, diffID))
	manifest := a.json(imagespec.MediaTypeImageManifest, imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest,
		Config: config, Layers: []imagespec.Descriptor{layer},
	})
	a.index(manifest, names, platform)
	a.dockerManifest(config, layer, names)
	a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	if err := errors.Join(a.err, a.tw.Close()); err != nil {
		return fmt.Errorf("packing image: %w", err)
	}
	return nil
}

func (o *PackOptions) check() (names []string, p imagespec.Platform, err error) {
	if len(o.Names) == 0 {
		return nil, p, errors.New("an image needs a name")
	}
	for _, n := range o.Names {
		full, err := Normalize(n)
		if err != nil {
			return nil, p, err
		}
		if strings.Contains(full, "@") {
			return nil, p, fmt.Errorf("image name %q: a digest cannot be chosen", n)
		}
		names = append(names, full)
	}
	p = platforms.DefaultSpec()
	if o.Platform != "" {
		if p, err = platforms.Parse(o.Platform); err != nil {
			return nil, p, fmt.Errorf("platform %q: %w", o.Platform, err)
		}
	}
	p = platforms.Normalize(p)
	return names, p, nil
}

func (o *PackOptions) config(p imagespec.Platform, diffID digest.Digest) imagespec.Image {
	img := imagespec.Image{
		Created:  &epoch,
		Platform: imagespec.Platform{Architecture: p.Architecture, OS: p.OS, Variant: p.Variant},
		RootFS:   imagespec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History:  []imagespec.History{{Created: &epoch, CreatedBy: "orch images pack"}},
		Config: imagespec.ImageConfig{
			Entrypoint: o.Entrypoint, Cmd: o.Cmd, Env: o.Env, User: o.User, WorkingDir: o.WorkingDir, Labels: o.Labels,
		},
	}
	if len(o.Entrypoint) == 0 && len(o.Cmd) == 0 {
		if st, err := os.Stat(o.Source); err == nil && st.Mode().IsRegular() {
			img.Config.Entrypoint = []string{"/" + filepath.Base(o.Source)}
		}
	}
	if len(o.Env) == 0 {
		img.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	for _, port := range o.Ports {
		if img.Config.ExposedPorts == nil {
			img.Config.ExposedPorts = map[string]struct{}{}
		}
		if !strings.Contains(port, "/") {
			port += "/tcp"
		}
		img.Config.ExposedPorts[port] = struct{}{}
	}
	return img
}

// writeLayer packs the files, compressed, and returns the layer's descriptor
// and the digest of its plain form.
func (o *PackOptions) writeLayer(to io.Writer) (imagespec.Descriptor, digest.Digest, error) {
	packed, plain := sha256.New(), sha256.New()
	size := &counter{}
	z, err := gzip.NewWriterLevel(io.MultiWriter(to, packed, size), gzip.BestSpeed)
	if err != nil {
		return imagespec.Descriptor{}, "", err
	}
	tw := tar.NewWriter(io.MultiWriter(z, plain))
	if err := o.writeFiles(tw); err != nil {
		return imagespec.Descriptor{}, "", err
	}
	if err := errors.Join(tw.Close(), z.Close()); err != nil {
		return imagespec.Descriptor{}, "", err
	}
	return imagespec.Descriptor{
		MediaType: imagespec.MediaTypeImageLayerGzip, Size: size.n, Digest: digest.NewDigest(digest.SHA256, packed),
	}, digest.NewDigest(digest.SHA256, plain), nil
}

func (o *PackOptions) writeFiles(tw *tar.Writer) error {
	st, err := os.Stat(o.Source)
	if err != nil {
		return err
	}
	if st.Mode().IsRegular() {
		if err := o.writeEntry(tw, o.Source, filepath.Base(o.Source), st, 0o755); err != nil {
			return err
		}
	} else {
		// WalkDir goes in lexical order, so the archive's order is fixed.
		err = filepath.WalkDir(o.Source, func(p string, d fs.DirEntry, err error) error {
			if err != nil || p == o.Source {
				return err
			}
			rel, err := filepath.Rel(o.Source, p)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			return o.writeEntry(tw, p, filepath.ToSlash(rel), info, 0)
		})
		if err != nil {
			return err
		}
	}
	return o.writeLinks(tw)
}

// writeLinks adds the symbolic links, with the folders on the way to them.
func (o *PackOptions) writeLinks(tw *tar.Writer) error {
	made := map[string]bool{".": true, "/": true}
	for _, name := range sortedKeys(o.Links) {
		var dirs []string
		for d := path.Dir(path.Clean("/" + name)[1:]); !made[d]; d = path.Dir(d) {
			dirs = append(dirs, d)
			made[d] = true
		}
		for i := len(dirs) - 1; i >= 0; i-- {
			if _, err := os.Stat(filepath.Join(o.Source, dirs[i])); err == nil {
				continue // came with the files
			}
			h := &tar.Header{Typeflag: tar.TypeDir, Name: dirs[i] + "/", Mode: 0o755, ModTime: epoch}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
		}
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: path.Clean("/" + name)[1:], Linkname: o.Links[name], Mode: 0o777, ModTime: epoch}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
	}
	return nil
}

// writeEntry adds one file; mode 0 keeps the file's own.
func (o *PackOptions) writeEntry(tw *tar.Writer, file, name string, st fs.FileInfo, mode int64) error {
	var target string
	switch {
	case st.Mode()&fs.ModeSymlink != 0:
		var err error
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	case !st.Mode().IsRegular() && !st.IsDir():
		return fmt.Errorf("%s is neither file, folder nor link", file)
	}
	h, err := tar.FileInfoHeader(st, target)
	if err != nil {
		return err
	}
	h.Name = name
	if st.IsDir() {
		h.Name += "/"
	}
	h.Mode = cmp.Or(mode, h.Mode)
	h.ModTime, h.AccessTime, h.ChangeTime = epoch, time.Time{}, time.Time{}
	h.Uname, h.Gname, h.Uid, h.Gid, h.Format = "", "", 0, 0, tar.FormatPAX
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && o.Owners {
		h.Uid, h.Gid = int(sys.Uid), int(sys.Gid)
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(tw, f); err != nil {
		return fmt.Errorf("packing %s: %w", file, err)
	}
	return nil
}

// archive writes an OCI layout that is a docker archive too.
type archive struct {
	tw  *tar.Writer
	err error
}

func blobPath(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

func (a *archive) stream(name string, size int64, r io.Reader) {
	if a.err != nil {
		return
	}
	a.err = a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: epoch})
	if a.err == nil {
		_, a.err = io.Copy(a.tw, r)
	}
}

func (a *archive) file(name string, b []byte) { a.stream(name, int64(len(b)), bytes.NewReader(b)) }

func (a *archive) json(mediaType string, v any) imagespec.Descriptor {
	b, err := json.Marshal(v)
	if err != nil {
		a.err = errors.Join(a.err, err)
		return imagespec.Descriptor{}
	}
	d := imagespec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	a.file(blobPath(d.Digest), b)
	return d
}

func (a *archive) index(manifest imagespec.Descriptor, names []string, p imagespec.Platform) {
	idx := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex}
	for _, n := range names {
		d := manifest
		d.Platform = &p
		d.Annotations = map[string]string{
			"io.containerd.image.name":  n,
			imagespec.AnnotationRefName: n[strings.LastIndex(n, ":")+1:],
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	b, err := json.Marshal(idx)
	a.err = errors.Join(a.err, err)
	a.file("index.json", b)
}

func (a *archive) dockerManifest(config, layer imagespec.Descriptor, names []string) {
	short := make([]string, 0, len(names))
	for _, n := range names {
		short = append(short, strings.TrimPrefix(strings.TrimPrefix(n, "docker.io/"), "library/"))
	}
	b, err := json.Marshal([]map[string]any{{
		"Config": blobPath(config.Digest), "RepoTags": short, "Layers": []string{blobPath(layer.Digest)},
	}})
	a.err = errors.Join(a.err, err)
	a.file("manifest.json", b)
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }
