// Package volume puts the volumes of pods on the host: scratch directories, host
// paths, images, and files made of config maps, secrets, tokens and the pod itself, which
// it keeps up to date as those change. It owns <root>/pods/<uid>/volumes and
// volume-subpaths, laid out as the kubelet does. It refuses volumes that need
// storage systems. Start reading at Mount, then follow.go for how content is kept true.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/host"
	"orch/api/client"
)

var _ host.Volumes = (*Volumes)(nil)

// Fields gives the values of the downward API.
type Fields interface {
	Field(pod *core.Pod, path string) (string, error)
	Resource(pod *core.Pod, ref *core.ResourceFieldSelector) (string, error)
}

// Images is what volumes of type image want of the engine: see engine.Images.
type Images interface {
	Mount(ctx context.Context, id, target string) error
	Unmount(ctx context.Context, target string) error
}

// Config of Volumes.
type Config struct {
	// Root is the kubelet's root: /var/lib/kubelet.
	Root string
	// Client reads config maps, secrets and tokens; its cache holds the node's pods.
	Client *client.Client
	Fields Fields
	// Images mounts images.
	Images Images
	Log    *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Volumes of this node's pods. Run keeps their content up to date.
type Volumes struct {
	root   string
	client *client.Client
	fields Fields
	images Images
	log    *slog.Logger
	now    func() time.Time

	// mu guards what follows; the follower, which has a lock of its own, is told under it,
	// so that it follows what is mounted and nothing else.
	mu   sync.Mutex
	pods map[types.UID]*mountedPod
	// credentials of the mounted pods.
	credentials map[certificateKey]*credential
	// follow is non-nil while Run runs.
	follower *follower
}

// mountedPod is a pod with volumes made of objects.
type mountedPod struct {
	pod *core.Pod
	// volumes by name, with what they were last made from.
	volumes map[string]content
	gate    *gate
}

// gate keeps what is on its way to the disk from arriving after an unmount.
type gate struct {
	mu   sync.Mutex // held while something is written
	shut bool
}

// errUnmounted: the pod's volumes are gone, and nobody waits for them.
var errUnmounted = errors.New("its pod was unmounted meanwhile")

func (g *gate) through(write func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return errUnmounted
	}
	return write()
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

// New checks the configuration.
func New(c Config) (*Volumes, error) {
	if c.Root == "" || c.Client == nil || c.Fields == nil || c.Images == nil {
		return nil, fmt.Errorf("making volumes: root, client, fields or images missing")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	v := &Volumes{root: c.Root, client: c.Client, fields: c.Fields, images: c.Images, log: c.Log, now: c.Now, pods: map[types.UID]*mountedPod{},
		credentials: map[certificateKey]*credential{}}
	v.follower = newFollower(v)
	return v, nil
}

// Mount makes every volume of the pod available; see host.Volumes.
func (v *Volumes) Mount(ctx context.Context, pod *core.Pod) (map[string]host.Mounted, error) {
	out := make(map[string]host.Mounted, len(pod.Spec.Volumes))
	m := &mountedPod{pod: pod, volumes: map[string]content{}, gate: &gate{}}
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if vol.Image != nil {
			continue // see Image
		}
		mounted, err := v.mount(ctx, m, vol)
		if err != nil {
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", vol.Name, err)
		}
		out[vol.Name] = mounted
	}
	if len(m.volumes) > 0 {
		v.mu.Lock()
		v.pods[pod.UID] = m
		v.follower.use(pod.UID, m)
		v.mu.Unlock()
	}
	return out, nil
}

func (v *Volumes) mount(ctx context.Context, m *mountedPod, vol *core.Volume) (host.Mounted, error) {
	switch {
	case vol.EmptyDir != nil:
		return v.emptyDir(m.pod, vol)
	case vol.HostPath != nil:
		return hostPath(vol.HostPath)
	}
	c, ok, err := v.collect(ctx, m, vol)
	if err != nil {
		return host.Mounted{}, err
	}
	if !ok {
		return host.Mounted{}, fmt.Errorf("this node has no storage for volumes of type %s", sourceName(vol))
	}
	var dir string
	err = m.gate.through(func() (err error) {
		if dir, err = v.objectDir(m.pod, vol); err == nil {
			_, err = write(dir, c.files, fsGroup(m.pod))
		}
		return err
	})
	if err != nil {
		return host.Mounted{}, err
	}
	m.volumes[vol.Name] = c.withoutFiles()
	return host.Mounted{Path: dir, ReadOnly: true}, nil
}

// withoutFiles drops the data: it lies on the disk, and secrets need not stay in memory.
func (c content) withoutFiles() content {
	c.files = nil
	return c
}

func sourceName(vol *core.Volume) string {
	switch {
	case vol.PersistentVolumeClaim != nil:
		return "persistentVolumeClaim"
	case vol.CSI != nil:
		return "csi"
	case vol.Ephemeral != nil:
		return "ephemeral"
	case vol.NFS != nil:
		return "nfs"
	}
	return "this kind"
}

// renew makes the volumes of a pod anew where their objects changed; it is called
// by the follower only.
func (v *Volumes) renew(ctx context.Context, uid types.UID) error {
	v.mu.Lock()
	m := v.pods[uid]
	v.mu.Unlock()
	if m == nil {
		return nil
	}
	next := &mountedPod{pod: v.current(m.pod), volumes: map[string]content{}, gate: m.gate}
	var errs []error
	for i := range next.pod.Spec.Volumes {
		vol := &next.pod.Spec.Volumes[i]
		old, ok := m.volumes[vol.Name]
		if !ok {
			continue
		}
		next.volumes[vol.Name] = old
		if _, err := v.mount(ctx, next, vol); err != nil {
			errs = append(errs, fmt.Errorf("renewing volume %q: %w", vol.Name, err))
		}
	}
	v.mu.Lock()
	mounted := v.pods[uid] == m
	if mounted {
		v.pods[uid] = next
		v.follower.use(uid, next)
	}
	v.mu.Unlock()
	if !mounted {
		return nil
	}
	if v.current(next.pod).DeletionTimestamp != nil {
		return nil // what it mounts may go before it does
	}
	return errors.Join(errs...)
}

// Unmount takes away what lies on the disk for the pod.
func (v *Volumes) Unmount(ctx context.Context, uid types.UID) error {
	v.mu.Lock()
	m := v.pods[uid]
	delete(v.pods, uid)
	v.follower.drop(uid)
	v.forgetCredentialsLocked(uid)
	v.mu.Unlock()
	if m != nil {
		m.gate.close()
	}
	dir := v.podDir(uid)
	if uid == "" || strings.Contains(string(uid), "/") {
		return fmt.Errorf("unmounting volumes: %q is no pod UID", uid)
	}
	var mounts []string
	for _, sub := range []string{"volume-subpaths", "volumes"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if mounted(p) {
				mounts = append(mounts, p)
				return skip(d)
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unmounting the volumes of pod %s: %w", uid, err)
		}
	}
	slices.Reverse(mounts)
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmounting %s: %w", m, err)
		}
	}
	if err := v.unmountImages(ctx, uid); err != nil {
		return fmt.Errorf("unmounting the volumes of pod %s: %w", uid, err)
	}
	return errors.Join(os.RemoveAll(filepath.Join(dir, "volume-subpaths")), os.RemoveAll(filepath.Join(dir, "volumes")))
}

// skip: what lies below a mount goes with it.
func skip(d fs.DirEntry) error {
	if d.IsDir() {
		return fs.SkipDir
	}
	return nil
}
