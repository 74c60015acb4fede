package nodes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"orch/gpu/device"
	"orch/gpu/health"
)

// Bounds of what the host's programs may take. A module without persistence wakes every
// card; a reset waits for the card.
const (
	modprobeLimit = 60 * time.Second
	resetLimit    = 120 * time.Second
	// modprobeAgain is how long a module that did not load is not tried again.
	modprobeAgain = time.Minute
)

// Config of an Owner; the zero value is this host.
type Config struct {
	// Root is put before every path.
	Root string
	// Run executes a program of the host; os/exec if nil.
	Run func(ctx context.Context, name string, args ...string) (output string, err error)
	Log *slog.Logger
}

// Owner makes modules, nodes and links. Its methods are called by one at a time.
type Owner struct {
	config Config
	failed map[string]time.Time // modules that did not load
}

// New makes an owner.
func New(config Config) *Owner {
	if config.Run == nil {
		config.Run = run
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	return &Owner{config: config, failed: map[string]time.Time{}}
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

// Prepare does what is missing for the machine as the second tier sees it, and tells
// whether it did anything: then the machine must be read again, as what a module brings
// is known only when it is loaded.
func (o *Owner) Prepare(ctx context.Context, m device.Machine) (changed bool, err error) {
	if len(m.GPUs) == 0 && m.Module.State != device.ModuleLoaded {
		return false, nil
	}
	if name := Modules(m); name != "" && time.Since(o.failed[name]) > modprobeAgain {
		if err := o.modprobe(ctx, name); err != nil {
			o.failed[name] = time.Now()
			return false, err
		}
		return true, nil
	}
	var all error
	for _, s := range Plan(m, o) {
		if err := o.do(s); err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", s, err))
			continue
		}
		o.config.Log.Info("made what the NVIDIA driver needs", "step", s.String())
		changed = true
	}
	return changed, all
}

func (o *Owner) modprobe(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, modprobeLimit)
	defer cancel()
	if out, err := o.config.Run(ctx, "modprobe", name); err != nil {
		return fmt.Errorf("loading the kernel module %s: %w: %s", name, err, out)
	}
	o.config.Log.Info("loaded a kernel module", "module", name)
	return nil
}

func (o *Owner) path(p string) string { return filepath.Join("/", o.config.Root, p) }

func (o *Owner) do(s Step) error {
	if s.Link != nil {
		path := o.path(s.Link.Path)
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), replace(path, func(to string) error { return os.Symlink(s.Link.Target, to) }))
	}
	path := o.path(s.Node.Path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return replace(path, func(to string) error {
		if err := unix.Mknod(to, unix.S_IFCHR|s.Node.Mode, int(unix.Mkdev(s.Node.Major, s.Node.Minor))); err != nil {
			return err
		}
		return os.Chmod(to, os.FileMode(s.Node.Mode)) // the umask has taken some away
	})
}

// replace makes something beside path and renames it: who opens path meanwhile finds the
// old one or the new one.
func replace(path string, make func(to string) error) error {
	beside := path + ".orch"
	if err := os.Remove(beside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := make(beside); err != nil {
		return err
	}
	return os.Rename(beside, path)
}

// Device is View's.
func (o *Owner) Device(path string) (major, minor uint32, ok bool) {
	var st unix.Stat_t
	if err := unix.Lstat(o.path(path), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return 0, 0, false
	}
	return unix.Major(st.Rdev), unix.Minor(st.Rdev), true
}

// Link is View's.
func (o *Owner) Link(path string) string {
	target, _ := os.Readlink(o.path(path)) // none is ""
	return target
}

// Params is View's.
func (o *Owner) Params() map[string]string {
	out := map[string]string{}
	b, err := os.ReadFile(o.path("/proc/driver/nvidia/params"))
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			out[k] = strings.TrimSpace(v)
		}
	}
	return out
}

// Reset resets a card that nobody holds: by the driver's own tool, which knows what else
// must be reset with it; without the tool through the bus.
func (o *Owner) Reset(ctx context.Context, g device.GPU) health.ResetDone {
	ctx, cancel := context.WithTimeout(ctx, resetLimit)
	defer cancel()
	out, err := o.config.Run(ctx, "nvidia-smi", "--gpu-reset", "-i", g.PCI.NVMLBusID())
	switch {
	case err == nil:
		return health.ResetDone{}
	case errors.Is(err, exec.ErrNotFound):
		return o.busReset(g)
	}
	return health.ResetDone{Err: strings.TrimSpace(firstLine(out) + " (" + err.Error() + ")"),
		Unsupported: strings.Contains(strings.ToLower(out), "not supported")}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// busReset takes the driver off the card, resets its function and puts the driver back.
func (o *Owner) busReset(g device.GPU) health.ResetDone {
	dir := o.path("/sys/bus/pci/devices/" + g.PCI.Address)
	if _, err := os.Stat(dir + "/reset"); err != nil {
		return health.ResetDone{Err: "the bus offers no reset of " + g.PCI.Address + " and nvidia-smi is not installed", Unsupported: true}
	}
	write := func(path, what string) error { return os.WriteFile(path, []byte(what), 0o200) }
	if err := write(dir+"/driver/unbind", g.PCI.Address); err != nil {
		return health.ResetDone{Err: "taking the driver off: " + err.Error()}
	}
	err := write(dir+"/reset", "1")
	if bind := write(o.path("/sys/bus/pci/drivers/nvidia/bind"), g.PCI.Address); bind != nil {
		err = errors.Join(err, fmt.Errorf("putting the driver back: %w", bind))
	}
	if err != nil {
		return health.ResetDone{Err: err.Error()}
	}
	return health.ResetDone{}
}
