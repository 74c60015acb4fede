package agent_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent"
	"orch/agent/host"
	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/runtime/fakeengine"
	"orch/server/registry"
)

// patience is how long a test waits for what must happen, on a machine that is busy.
const patience = time.Minute

// nothing is a host that does nothing: pods get an address out of thin air.
type nothing struct{}

func (nothing) Setup(context.Context, host.Sandbox) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("10.42.0.9")}, nil
}
func (nothing) Teardown(context.Context, host.Sandbox) error          { return nil }
func (nothing) Keep(context.Context, map[types.UID]bool) error        { return nil }
func (nothing) Ready() error                                          { return nil }
func (nothing) Changed() <-chan struct{}                              { return nil }
func (nothing) Create(context.Context, host.Sandbox) error            { return nil }
func (nothing) Remove(context.Context, host.Sandbox) error            { return nil }
func (nothing) Pinned(string) bool                                    { return true }
func (nothing) SubPath(context.Context, host.SubPath) (string, error) { return "", nil }
func (nothing) Image(context.Context, host.ImageVolume) (host.Mounted, error) {
	return host.Mounted{}, nil
}
func (nothing) Images() ([]string, error)                { return nil, nil }
func (nothing) Unmount(context.Context, types.UID) error { return nil }
func (nothing) Mount(context.Context, *core.Pod) (map[string]host.Mounted, error) {
	return nil, nil
}

// newAPI is a real registry with the namespaces that a node needs, and a client of
// node n1. It ends with the test, before which ctx is done.
func newAPI(t *testing.T) (context.Context, *client.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	reg, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn(), Now: time.Now, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		if err := reg.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	<-reg.Ready()
	c := reg.Client(registry.User{Name: "system:node:n1", Groups: []string{api.GroupNodes}})
	for _, ns := range []string{api.NamespaceNodeLease, api.NamespaceDefault} {
		if _, err := client.Create(ctx, c, api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
			t.Fatal(err)
		}
	}
	return ctx, c
}

// TestWhole runs an agent against a real registry: the node becomes Ready, a pod that
// fits runs, one that does not is refused.
func TestWhole(t *testing.T) {
	ctx, c := newAPI(t)
	dir := t.TempDir()
	began := time.Now()
	a, err := agent.New(agent.Config{NodeName: "n1", NodeIP: "192.0.2.1", DataDir: dir, CgroupRoot: cgroupRoot()},
		agent.Deps{Client: c, Engine: fakeengine.New(fakeengine.Options{}), Network: nothing{}, Namespaces: nothing{}, Volumes: nothing{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { clean(t, dir) })
	runCtx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(runCtx) }()
	select {
	case <-a.Ready():
		t.Logf("ready after %v", time.Since(began))
	case <-time.After(patience):
		t.Fatal("agent is not ready")
	}
	phases := make(chan string, 100)
	if err := c.Subscribe(ctx, api.Pods.Facts, func(ch client.Change) {
		if p, ok := ch.New.(*core.Pod); ok && (p.Status.Phase != core.PodPending) {
			phases <- p.Name + " " + string(p.Status.Phase) + " " + p.Status.Reason
		}
	}); err != nil {
		t.Fatal(err)
	}
	for name, cpu := range map[string]string{"small": "10m", "large": "1000"} {
		pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		pod.Spec = core.PodSpec{NodeName: "n1", Containers: []core.Container{{Name: "a", Image: "x:1"}}}
		if err := setCPU(pod, cpu); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Create(ctx, c, api.Pods, pod); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]bool{"small Running ": true, "large Failed OutOfcpu": true}
	for len(want) > 0 {
		select {
		case p := <-phases:
			delete(want, p)
		case <-time.After(patience):
			t.Fatalf("missing: %v", want)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func setCPU(pod *core.Pod, cpu string) error {
	q, err := resource.ParseQuantity(cpu)
	pod.Spec.Containers[0].Resources.Requests = core.ResourceList{core.ResourceCPU: q}
	return err
}

func clean(t *testing.T, dir string) {
	mounts, err := filepath.Glob(filepath.Join(dir, "agent/run/pods/*/shm"))
	if err != nil {
		t.Error(err)
	}
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + cgroupRoot())
	if err != nil {
		t.Error(err)
	}
	if v2 := "/sys/fs/cgroup/" + cgroupRoot(); exists(v2) {
		groups = append(groups, v2)
	}
	for _, g := range groups {
		var dirs []string
		if err := filepath.WalkDir(g, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		for _, d := range slices.Backward(dirs) {
			if err := unix.Rmdir(d); err != nil {
				t.Error(err)
			}
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string // part of the error, or empty
	}{
		{"defaults", nil, ""},
		{"own data dir", []string{"--data-dir=/d"}, ""},
		{"label", []string{"--node-label=a b=c"}, "--node-label"},
		{"taint", []string{"--node-taint=a=b:Never"}, "unknown effect"},
		{"address", []string{"--node-ip=1.2.3"}, "is not an address"},
		{"reserved", []string{"--system-reserved=cpu=lots"}, "--system-reserved"},
		{"thresholds", []string{"--image-gc-high-threshold=10"}, "--image-gc-low-threshold 80"},
		{"name", []string{"--node-name=A_B"}, "--node-name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c agent.Config
			f := pflag.NewFlagSet("", pflag.ContinueOnError)
			f.String("node-external-ip", "", "declared by another part")
			c.AddFlags(f)
			if err := f.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
			got, err := c.Complete()
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if tt.name == "own data dir" {
				if d := cmp.Diff([]string{"/d/agent/kubelet", "/d/agent/run", "/d/agent/log/pods"}, []string{got.RootDir, got.RunDir, got.LogDir}); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

// cgroupRoot keeps runs of this test apart that happen at the same time.
func cgroupRoot() string { return fmt.Sprintf("orch-test-agent-%d", os.Getpid()) }
