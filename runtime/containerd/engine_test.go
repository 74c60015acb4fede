package containerd

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orch/runtime/engine"
	"orch/runtime/image"
)

func testConfig(t testing.TB) Config {
	t.Helper()
	// Short paths: sockets lie below.
	root, err := os.MkdirTemp("/var/tmp", "orch-rt-")
	if err != nil {
		t.Fatal(err)
	}
	state, err := os.MkdirTemp("/run", "orch-rt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(filepath.Join(state, "devices"), unix.MNT_DETACH) // where programs are pinned, on cgroup v2
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(state); err != nil {
			t.Error(err)
		}
	})
	return Config{Root: root, State: state, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
}

func open(t testing.TB, c Config) *Engine {
	t.Helper()
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// busybox packs the host's static busybox into an image and imports it.
func busybox(t testing.TB, e *Engine) {
	t.Helper()
	links := map[string]string{}
	for _, n := range strings.Fields("sh sleep cat echo id env ls dd true false kill mount stty tr head seq") {
		links["/bin/"+n] = "/busybox"
	}
	var b bytes.Buffer
	err := image.Pack(image.PackOptions{Source: "/bin/busybox", Names: []string{"busybox:test"}, Links: links, Cmd: []string{"sh"}}, &b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Images().Import(context.Background(), &b, true); err != nil {
		t.Fatal(err)
	}
}

func TestSmoke(t *testing.T) {
	c := testConfig(t)
	start := time.Now()
	e := open(t, c)
	t.Logf("boot %v", time.Since(start))
	start = time.Now()
	busybox(t, e)
	t.Logf("import %v", time.Since(start))
	ctx := t.Context()
	events := e.Events(ctx)
	for i := range 3 {
		id := fmt.Sprintf("c%d", i)
		log := filepath.Join(c.Root, "log", id+".log")
		start = time.Now()
		if err := e.Create(ctx, engine.Spec{ID: id, Pod: "pod" + id, Image: "busybox:test", Command: []string{"sh", "-c", "echo hello; id; exit 3"}, LogPath: log,
			CgroupPath: cgroupOf(c.Root, id)}); err != nil {
			t.Fatal(err)
		}
		created := time.Since(start)
		if _, err := e.Start(ctx, id); err != nil {
			t.Fatal(err)
		}
		t.Logf("create %v start %v", created, time.Since(start)-created)
		for ev := range events {
			t.Log(time.Since(start), ev)
			if ev.Kind == "exit" {
				break
			}
		}
		b, _ := os.ReadFile(log)
		t.Log(string(b))
		start = time.Now()
		if err := e.Remove(ctx, id); err != nil {
			t.Fatal(err)
		}
		t.Logf("remove %v", time.Since(start))
	}
}
