package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	runtimev2 "github.com/containerd/containerd/v2/core/runtime/v2"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/sirupsen/logrus"

	"orch/runtime/bundle"
)

// Namespace of containerd in which the node's containers live, as with every Kubernetes.
const Namespace = "k8s.io"

const (
	boltOpenTime = 3 * time.Second
	// containerd refuses a longer folder for the sockets of its shims.
	maxSocketDir = 42
)

// Config of the Engine. Read-only after New.
type Config struct {
	// Root keeps images and containers (<data-dir>/agent/containerd).
	Root string
	// State is for this boot of the machine (/run/orch/containerd).
	State string
	// Address is the socket for ctr and nerdctl; empty: <State>/containerd.sock.
	Address string
	// SocketDir holds the shims' sockets; empty: <State>/s, or a short one in
	// /run/orch when that would be too long for a socket.
	SocketDir string
	// BinDir is where runc and the shim are unpacked; empty: <Root>/bin.
	BinDir string
	// Runc and Shim are used instead of the carried ones. Empty: carried.
	Runc, Shim string
	// HostRuntime uses the host's runc and shim instead of the carried ones.
	HostRuntime bool
	// Snapshotter is "overlayfs" or "native"; empty: overlayfs where it works.
	Snapshotter string
	// Registries is the mirrors file (k3s form); it may be absent. Empty: none.
	Registries string
	// MaxParallelPulls bounds downloads; 0 means 3.
	MaxParallelPulls int
	Log              *slog.Logger
}

func (c Config) eventAddress() string { return c.Address + ".ttrpc" }

// complete fills in what is empty and says what is wrong.
func (c Config) complete() (Config, error) {
	if !filepath.IsAbs(c.Root) || !filepath.IsAbs(c.State) || c.Root == c.State {
		return c, fmt.Errorf("container engine: root %q and state %q must be two absolute paths", c.Root, c.State)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Address == "" {
		c.Address = filepath.Join(c.State, "containerd.sock")
	}
	if c.BinDir == "" {
		c.BinDir = filepath.Join(c.Root, "bin")
	}
	if c.SocketDir == "" {
		c.SocketDir = filepath.Join(c.State, "s")
		if len(c.SocketDir) > maxSocketDir {
			sum := sha256.Sum256([]byte(c.State))
			c.SocketDir = "/run/orch/s-" + hex.EncodeToString(sum[:6])
		}
	}
	if len(c.SocketDir) > maxSocketDir {
		return c, fmt.Errorf("container engine: socket folder %s is longer than %d bytes", c.SocketDir, maxSocketDir)
	}
	if c.MaxParallelPulls <= 0 {
		c.MaxParallelPulls = 3
	}
	return c.programs()
}

// programs finds runc and the shim.
func (c Config) programs() (Config, error) {
	if c.Runc != "" && c.Shim != "" {
		return c, nil
	}
	find := func() (bundle.Paths, error) { return bundle.Unpack(c.BinDir) }
	if c.HostRuntime {
		find = bundle.Host
	}
	paths, err := find()
	if err != nil {
		return c, fmt.Errorf("container engine: %w", err)
	}
	if c.Runc == "" {
		c.Runc = paths.Runc
	}
	if c.Shim == "" {
		c.Shim = paths.Shim
	}
	return c, nil
}

func platformName() string { return platforms.Format(platforms.DefaultSpec()) }

// otherShims is containerd's own runtime, for handlers that bring their own shim.
func otherShims(ic *plugin.InitContext, c Config) (*runtimev2.TaskManager, error) {
	v, err := ic.GetByID(plugins.ShimPlugin, "manager")
	if err != nil {
		return nil, err
	}
	shims, ok := v.(*runtimev2.ShimManager)
	if !ok {
		return nil, errors.New("the shim plugin is not containerd's")
	}
	root, state := filepath.Join(c.Root, taskPlugin), filepath.Join(c.State, taskPlugin)
	if err := mkdirs(0o711, root, state); err != nil {
		return nil, err
	}
	return runtimev2.NewTaskManager(ic.Context, root, state, shims)
}

// withLog puts a logger into ctx that hands containerd's warnings and errors to
// slog; below that containerd talks too much.
func withLog(ctx context.Context, to *slog.Logger) context.Context {
	l := logrus.New()
	l.SetLevel(logrus.WarnLevel)
	l.SetOutput(discard{})
	l.AddHook(slogHook{ctx, to})
	// What containerd does in the background logs to its one global logger.
	log.L.Logger.SetLevel(logrus.WarnLevel)
	log.L.Logger.SetOutput(discard{})
	hooks := logrus.LevelHooks{}
	hooks.Add(slogHook{ctx, to})
	log.L.Logger.ReplaceHooks(hooks)
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// slogHook passes log lines on while the engine lives; what a part says when it
// is stopped under its hands is of no use.
type slogHook struct {
	life context.Context //nolint:containedctx // the engine's own life
	to   *slog.Logger
}

func (slogHook) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel}
}

// chatter is what containerd warns of and nobody can or need mend.
var chatter = []string{
	"failed check for fsverity support",
	"failed sending message on channel",          // a shim ended while its event was acknowledged
	"ttrpc: received message on inactive stream", // a shim's answer came after its asker had given up
}

func (h slogHook) Fire(e *logrus.Entry) error {
	if h.life.Err() != nil || slices.Contains(chatter, e.Message) {
		return nil
	}
	attrs := make([]any, 0, 2*len(e.Data)+4)
	attrs = append(attrs, "part", "containerd", "text", e.Message)
	for k, v := range e.Data {
		attrs = append(attrs, k, v)
	}
	level := slog.LevelWarn
	if e.Level < logrus.WarnLevel {
		level = slog.LevelError
	}
	h.to.Log(context.Background(), level, "container engine", attrs...)
	return nil
}
