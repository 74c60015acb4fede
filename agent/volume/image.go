package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
)

// imageTree is where a volume's images lie, each below the digest of its configuration: a container
// that starts anew may find a newer image than its neighbour, which keeps its own.
func (v *Volumes) imageTree(uid types.UID, volume string) string {
	return v.volumeDir(uid, "image", volume)
}

// Image mounts an image as a volume; see host.Volumes. Errors read as upstream's runtime says them.
func (v *Volumes) Image(ctx context.Context, i host.ImageVolume) (host.Mounted, error) {
	target := filepath.Join(v.imageTree(i.Pod, i.Volume), strings.TrimPrefix(i.Image, digestKind))
	if err := v.images.Mount(ctx, i.Image, target); err != nil {
		return host.Mounted{}, fmt.Errorf("ImageVolumeMountFailed: %w", err)
	}
	path, err := directoryIn(target, i.Path)
	if err != nil {
		return host.Mounted{}, fmt.Errorf("ImageVolumeMountFailed: failed to ensure image subpath %q in %q: %w", i.Path, target, err)
	}
	return host.Mounted{Path: path, ReadOnly: true}, nil
}

const digestKind = "sha256:"

// directoryIn resolves a path below root, which no link leads out of. An image does not change, so what
// was a directory stays one.
func directoryIn(root, path string) (string, error) {
	if path == "" {
		return root, nil
	}
	f, err := os.OpenInRoot(root, path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "", errors.New("only directories of an image can be mounted")
	}
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// Images lists what is mounted, by what lies on the disk.
func (v *Volumes) Images() ([]string, error) {
	found, err := filepath.Glob(filepath.Join(v.imageTree("*", "*"), "*"))
	for i, f := range found {
		found[i] = digestKind + filepath.Base(f)
	}
	return found, err
}

// unmountImages gives the images of a pod back to the engine.
func (v *Volumes) unmountImages(ctx context.Context, uid types.UID) error {
	volumes, err := os.ReadDir(filepath.Dir(v.imageTree(uid, "x")))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, vol := range volumes {
		tree := v.imageTree(uid, vol.Name())
		images, bad := os.ReadDir(tree)
		err = errors.Join(err, bad)
		for _, i := range images {
			err = errors.Join(err, v.images.Unmount(ctx, filepath.Join(tree, i.Name())))
		}
	}
	return err
}
