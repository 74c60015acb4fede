package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
)

// podDir is everything of a pod below the kubelet's root, laid out as the kubelet does.
func (v *Volumes) podDir(uid types.UID) string { return filepath.Join(v.root, "pods", string(uid)) }

func (v *Volumes) volumeDir(uid types.UID, plugin, name string) string {
	return filepath.Join(v.podDir(uid), "volumes", "kubernetes.io~"+plugin, name)
}

// emptyDir makes a scratch volume: a directory, or a tmpfs of bounded size.
func (v *Volumes) emptyDir(pod *core.Pod, vol *core.Volume) (host.Mounted, error) {
	dir := v.volumeDir(pod.UID, "empty-dir", vol.Name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return host.Mounted{}, err
	}
	switch m := vol.EmptyDir.Medium; {
	case m == core.StorageMediumDefault:
	case m == core.StorageMediumMemory:
		if err := mountTmpfs(dir, memorySize(pod, vol.EmptyDir)); err != nil {
			return host.Mounted{}, err
		}
	case strings.HasPrefix(string(m), string(core.StorageMediumHugePages)):
		if err := mountHugepages(dir, strings.TrimPrefix(string(m), string(core.StorageMediumHugePagesPrefix))); err != nil {
			return host.Mounted{}, err
		}
	default:
		return host.Mounted{}, fmt.Errorf("unknown medium %q", m)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return host.Mounted{}, err
	}
	return host.Mounted{Path: dir}, own(dir, fsGroup(pod), false)
}

// memorySize is the smaller of the volume's and the pod's memory limit; 0 means
// what the kernel gives (half of the memory).
func memorySize(pod *core.Pod, e *core.EmptyDirVolumeSource) int64 {
	size := int64(0)
	if e.SizeLimit != nil {
		size = e.SizeLimit.Value()
	}
	limit := int64(0)
	for _, c := range pod.Spec.Containers {
		l, ok := c.Resources.Limits[core.ResourceMemory]
		if !ok {
			return size
		}
		limit += l.Value()
	}
	if size == 0 || limit < size {
		return limit
	}
	return size
}

func mountTmpfs(dir string, size int64) error {
	if mounted(dir) {
		return nil
	}
	options := ""
	if size > 0 {
		options = fmt.Sprintf("size=%d", size)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mounting a tmpfs on %s: %w", dir, err)
	}
	return nil
}

func mountHugepages(dir, size string) error {
	if mounted(dir) {
		return nil
	}
	options := ""
	if size != "" {
		options = "pagesize=" + strings.TrimSuffix(size, "i")
	}
	if err := unix.Mount("none", dir, "hugetlbfs", 0, options); err != nil {
		return fmt.Errorf("mounting huge pages on %s: %w", dir, err)
	}
	return nil
}

// mounted tells whether dir is the root of a mount.
func mounted(dir string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	return err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// objectDir makes the directory of a volume made of API objects, on a tmpfs where
// it may hold secrets.
func (v *Volumes) objectDir(pod *core.Pod, vol *core.Volume) (string, error) {
	dir := v.objectPath(pod.UID, vol)
	memory := vol.Secret != nil || vol.Projected != nil
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if memory {
		if err := mountTmpfs(dir, memorySize(pod, &core.EmptyDirVolumeSource{})); err != nil {
			return "", err
		}
	}
	return dir, os.Chmod(dir, 0o777)
}

func (v *Volumes) objectPath(uid types.UID, vol *core.Volume) string {
	plugin := "projected"
	switch {
	case vol.ConfigMap != nil:
		plugin = "configmap"
	case vol.Secret != nil:
		plugin = "secret"
	case vol.DownwardAPI != nil:
		plugin = "downward-api"
	}
	return v.volumeDir(uid, plugin, vol.Name)
}

// hostPath checks and, where the type asks for it, makes a path of the host.
func hostPath(s *core.HostPathVolumeSource) (host.Mounted, error) {
	kind := core.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	switch kind {
	case core.HostPathUnset, core.HostPathDirectoryOrCreate:
		if _, err := os.Stat(s.Path); errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(s.Path, 0o755); err != nil {
				return host.Mounted{}, err
			}
		}
	case core.HostPathFileOrCreate:
		f, err := os.OpenFile(s.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return host.Mounted{}, err
		}
		f.Close()
	}
	st, err := os.Stat(s.Path)
	if err != nil {
		return host.Mounted{}, fmt.Errorf("hostPath type check failed: %s is not a %s", s.Path, describe(kind))
	}
	if !isKind(st.Mode(), kind) {
		return host.Mounted{}, fmt.Errorf("hostPath type check failed: %s is not a %s", s.Path, describe(kind))
	}
	return host.Mounted{Path: s.Path}, nil
}

func isKind(m fs.FileMode, kind core.HostPathType) bool {
	switch kind {
	case core.HostPathDirectory, core.HostPathDirectoryOrCreate:
		return m.IsDir()
	case core.HostPathFile, core.HostPathFileOrCreate:
		return m.IsRegular()
	case core.HostPathSocket:
		return m&fs.ModeSocket != 0
	case core.HostPathCharDev:
		return m&fs.ModeCharDevice != 0
	case core.HostPathBlockDev:
		return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
	}
	return true
}

func describe(kind core.HostPathType) string {
	switch kind {
	case core.HostPathDirectory, core.HostPathDirectoryOrCreate:
		return "directory"
	case core.HostPathFile, core.HostPathFileOrCreate:
		return "file"
	case core.HostPathSocket:
		return "socket file"
	case core.HostPathCharDev:
		return "character device"
	case core.HostPathBlockDev:
		return "block device"
	}
	return "path"
}

// fsGroup of a pod, nil if it has none.
func fsGroup(pod *core.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// own gives a tree to a group: group-writable (unless readOnly), new files inherit the group.
func own(dir string, group *int64, readOnly bool) error {
	if group == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return os.Lchown(p, -1, int(*group))
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode() | 0o660
		if readOnly {
			mode = info.Mode() | 0o440
		}
		if d.IsDir() {
			mode |= fs.ModeSetgid | 0o110
		}
		return errors.Join(os.Chown(p, -1, int(*group)), os.Chmod(p, mode))
	})
}

// SubPath resolves the path inside the volume, without leaving it by a link, and
// pins it by a bind mount, so that a later change of links has no effect.
func (v *Volumes) SubPath(_ context.Context, s host.SubPath) (string, error) {
	root, err := os.Open(s.Host.Path)
	if err != nil {
		return "", err
	}
	defer root.Close()
	fd, err := openBeneath(int(root.Fd()), s.Path)
	if err != nil {
		return "", fmt.Errorf("preparing subPath %q of volume %q: %w", s.Path, s.Volume, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	target := filepath.Join(v.podDir(s.Pod), "volume-subpaths", s.Volume, s.Container, fmt.Sprint(s.Index))
	if mounted(target) {
		return target, nil
	}
	if err := makeTarget(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("pinning subPath %q of volume %q: %w", s.Path, s.Volume, err)
	}
	return target, nil
}

func makeTarget(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

// openBeneath opens path below root; what is missing is made as directories.
func openBeneath(root int, path string) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, path, how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parts := strings.Split(filepath.Clean(path), "/")
	for i := range parts {
		if fd, err = makeBeneath(root, filepath.Join(parts[:i]...), parts[i], how); err != nil {
			return -1, err
		}
		if i < len(parts)-1 {
			unix.Close(fd)
		}
	}
	return fd, nil
}

// makeBeneath opens root/parent/name, made as a directory if it is missing.
func makeBeneath(root int, parent, name string, how *unix.OpenHow) (int, error) {
	if parent == "" {
		parent = "."
	}
	at, err := unix.Openat2(root, parent, how)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	if err := unix.Mkdirat(at, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return unix.Openat2(root, filepath.Join(parent, name), how)
}
