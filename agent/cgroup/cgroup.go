// Package cgroup keeps the control groups above containers: kubepods, its
// classes burstable and besteffort, and one for every pod, on cgroup v2 and v1.
// Those of containers belong to the runtime. A controller that the host lacks is
// left out, not an error. Start reading at Tree; files.go says what is written.
//
//	kubepods                    what the node gives to pods
//	├── pod<uid>                guaranteed
//	├── burstable/pod<uid>
//	└── besteffort/pod<uid>
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"
)

// Config says where the hierarchy is.
type Config struct {
	// Mount is where cgroups are mounted; empty: /sys/fs/cgroup.
	Mount string
	// Root is the group below which kubepods is made; empty: the hierarchy's root.
	Root string
}

// Tree makes and removes groups. Its methods may be called by many goroutines.
type Tree struct {
	mount, root string
	v2          bool

	mu sync.Mutex
	// burstable holds the CPU requests of the pods in that class, in shares.
	burstable map[types.UID]uint64
}

// New finds out which version is mounted.
func New(c Config) (*Tree, error) {
	if c.Mount == "" {
		c.Mount = "/sys/fs/cgroup"
	}
	t := &Tree{mount: c.Mount, root: path.Join("/", c.Root), burstable: map[types.UID]uint64{}}
	if _, err := os.Stat(filepath.Join(c.Mount, "cgroup.controllers")); err == nil {
		t.v2 = true
		return t, nil
	}
	if len(t.hierarchies()) == 0 {
		return nil, fmt.Errorf("finding control groups: none are mounted at %s; mount cgroup2 there", c.Mount)
	}
	return t, nil
}

// V2 tells whether the unified hierarchy is in use.
func (t *Tree) V2() bool { return t.v2 }

// Dir is the folder of a group; of the hierarchies of v1 the one that counts memory.
func (t *Tree) Dir(group string) string {
	if t.v2 {
		return filepath.Join(t.mount, group)
	}
	return filepath.Join(t.mount, "memory", group)
}

// ContainerOf finds the container's ID that a process belongs to, in the kernel's list of
// its groups (/proc/<pid>/cgroup): the last part of a path that looks like one. Empty for a
// process of the host.
func ContainerOf(groups string) string {
	for line := range strings.Lines(groups) {
		parts := strings.Split(strings.TrimSpace(line), "/")
		for i := len(parts) - 1; i > 0; i-- {
			if id := parts[i]; len(id) == idLength && strings.Trim(id, "0123456789abcdef") == "" {
				return id
			}
		}
	}
	return ""
}

// idLength of containers, which are hexadecimal.
const idLength = 64

// PodPath is the group of a pod, from the root of the hierarchy.
func (t *Tree) PodPath(class core.PodQOSClass, uid types.UID) string {
	return path.Join(t.classPath(class), "pod"+string(uid))
}

func (t *Tree) classPath(class core.PodQOSClass) string {
	base := path.Join(t.root, "kubepods")
	switch class {
	case core.PodQOSBurstable:
		return path.Join(base, "burstable")
	case core.PodQOSBestEffort:
		return path.Join(base, "besteffort")
	}
	return base
}

// Prepare makes kubepods and its classes, limited to what the node has for pods.
func (t *Tree) Prepare(node Limits) error {
	if err := t.ensure(t.classPath(core.PodQOSGuaranteed), node); err != nil {
		return fmt.Errorf("making the control group kubepods: %w", err)
	}
	for _, class := range []core.PodQOSClass{core.PodQOSBurstable, core.PodQOSBestEffort} {
		if err := t.ensure(t.classPath(class), Limits{CPUShares: 2}); err != nil {
			return fmt.Errorf("making the control group of class %s: %w", class, err)
		}
	}
	return nil
}

// EnsurePod makes the pod's group, or brings its limits up to date.
func (t *Tree) EnsurePod(pod *core.Pod, class core.PodQOSClass) error {
	l := PodLimits(pod)
	if err := t.ensure(t.PodPath(class, pod.UID), l); err != nil {
		return fmt.Errorf("making the control group of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if class == core.PodQOSBurstable {
		return t.weigh(pod.UID, l.CPUShares)
	}
	return nil
}

// Join moves a process of the agent's own into a group below the pod's.
func (t *Tree) Join(pod, name string, pid int) error {
	group := path.Join(pod, name)
	if err := t.ensure(group, Limits{}); err != nil {
		return fmt.Errorf("making the control group %s: %w", group, err)
	}
	for _, dir := range t.dirs(group) {
		if err := write(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(pid)); err != nil {
			return fmt.Errorf("moving process %d to %s: %w", pid, group, err)
		}
	}
	return nil
}

// RemovePod removes the pod's group in whatever class it is. Processes that are
// left in it keep it busy: that is an error.
func (t *Tree) RemovePod(uid types.UID) error {
	var bad error
	for _, class := range []core.PodQOSClass{core.PodQOSGuaranteed, core.PodQOSBurstable, core.PodQOSBestEffort} {
		for _, dir := range t.dirs(t.PodPath(class, uid)) {
			if err := removeTree(dir); err != nil {
				bad = errors.Join(bad, fmt.Errorf("removing control group %s: %w", dir, err))
			}
		}
	}
	return errors.Join(bad, t.weigh(uid, 0))
}

// weigh sets the share of the class burstable to the sum of its pods' requests.
func (t *Tree) weigh(uid types.UID, shares uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.burstable[uid] == shares {
		return nil
	}
	t.burstable[uid] = shares
	if shares == 0 {
		delete(t.burstable, uid)
	}
	sum := uint64(0)
	for _, s := range t.burstable {
		sum += s
	}
	return t.write(t.classPath(core.PodQOSBurstable), Limits{CPUShares: max(2, sum)})
}

// hierarchies lists the mounts of the controllers that pods are limited by.
func (t *Tree) hierarchies() []string {
	var out []string
	for _, name := range []string{"cpu", "memory", "pids"} {
		if _, err := os.Stat(filepath.Join(t.mount, name)); err == nil {
			out = append(out, name)
		}
	}
	return out
}

// dirs lists every directory that a group has, in all hierarchies.
func (t *Tree) dirs(group string) []string {
	if t.v2 {
		return existing([]string{filepath.Join(t.mount, group)})
	}
	mounts, err := os.ReadDir(t.mount)
	if err != nil {
		return nil
	}
	var out []string
	for _, m := range mounts {
		if m.Type()&fs.ModeSymlink == 0 {
			out = append(out, filepath.Join(t.mount, m.Name(), group))
		}
	}
	return existing(out)
}

func existing(dirs []string) []string {
	return slices.DeleteFunc(dirs, func(d string) bool {
		_, err := os.Stat(d)
		return err != nil
	})
}

// ensure makes a group with its parents and writes its limits.
func (t *Tree) ensure(group string, l Limits) error {
	if t.v2 {
		if err := t.ensureV2(group); err != nil {
			return err
		}
	} else {
		for _, h := range t.hierarchies() {
			if err := os.MkdirAll(filepath.Join(t.mount, h, group), 0o755); err != nil {
				return err
			}
		}
	}
	return t.write(group, l)
}

// ensureV2 hands the controllers down from group to group.
func (t *Tree) ensureV2(group string) error {
	dir := t.mount
	if err := t.delegate(dir); err != nil {
		return err
	}
	for _, name := range strings.Split(strings.Trim(group, "/"), "/") {
		dir = filepath.Join(dir, name)
		switch err := os.Mkdir(dir, 0o755); {
		case err != nil && !errors.Is(err, fs.ErrExist):
			return err
		}
		if err := t.delegate(dir); err != nil {
			return err
		}
	}
	return nil
}

// delegate enables for the children of dir what dir itself was given.
func (t *Tree) delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	on, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	enabled := strings.Fields(string(on))
	for _, c := range strings.Fields(string(have)) {
		if !slices.Contains(wanted, c) || slices.Contains(enabled, c) {
			continue
		}
		err := write(control, "+"+c)
		if errors.Is(err, unix.EBUSY) && dir == t.mount {
			// In a container the root group holds processes: they have to go one down.
			if err = evacuate(dir); err == nil {
				err = write(control, "+"+c)
			}
		}
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("enabling controller %s in %s: %w", c, dir, err)
		}
	}
	return nil
}

// wanted are the controllers that containers use.
var wanted = []string{"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}

func evacuate(dir string) error {
	leaf := filepath.Join(dir, "init")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return err
	}
	pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(pids)) {
		if err := write(filepath.Join(leaf, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("moving process %s to %s: %w", pid, leaf, err)
		}
	}
	return nil
}

// write sets the limits of a group; files that the kernel does not have are skipped.
func (t *Tree) write(group string, l Limits) error {
	for _, f := range l.files(t.v2) {
		name := filepath.Join(t.mount, group, f.name)
		if !t.v2 {
			name = filepath.Join(t.mount, f.controller, group, f.name)
		}
		if err := write(name, f.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// write does not create: on a kernel file system a missing file stays missing.
func write(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// removeTree removes a group and those below it, deepest first.
func removeTree(dir string) error {
	below, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, b := range below {
		if b.IsDir() {
			if err := removeTree(filepath.Join(dir, b.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
