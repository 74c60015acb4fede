// Package enginetest is the suite that every engine.Engine passes, real or
// fake. A test calls Run with a function that makes a Rig; each check has its own
// containers and leaves none behind. Start reading at checks.
package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"orch/runtime/engine"
)

// Rig is an engine with what the checks need.
type Rig struct {
	Engine engine.Engine
	// Image is a reference that is present; Absent one that is not.
	Image, Absent string
	// Commands for containers of Image.
	Forever  []string // runs until SIGTERM, then exits with 143
	Exit3    []string // exits at once with 3
	Hello    []string // prints "hello\n" and then runs as Forever
	Stubborn []string // ignores SIGTERM
	Missing  []string // cannot be run
	// Exec7 is a further process that exits with 7, Cat one that prints its input.
	Exec7, Cat []string
	// File of the image's root, as a path below it; empty if the images hold nothing.
	File string
	// LogDir takes logs.
	LogDir string
	// CgroupParent, if any, is the parent of the containers' cgroups.
	CgroupParent string
}

const patience = time.Minute

// Run runs all checks.
func Run(t *testing.T, make func(t *testing.T) Rig) {
	rig := make(t)
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			k := &kit{T: t, Rig: rig, ctx: ctx, events: rig.Engine.Events(ctx)}
			c.run(k)
		})
	}
}

var checks = []struct {
	name string
	run  func(*kit)
}{
	{"LifeOfAContainer", lifeOfAContainer},
	{"ExitCodeAndEvents", exitCodeAndEvents},
	{"TermAndKill", termAndKill},
	{"Refusals", refusals},
	{"MissingCommand", missingCommand},
	{"Log", logIsWritten},
	{"Attach", attach},
	{"Exec", exec},
	{"ExecEndsWithContext", execEndsWithContext},
	{"ListShowsAll", listShowsAll},
	{"ManyAtOnce", manyAtOnce},
	{"RemoveCreated", removeCreated},
	{"Images", imagesAreFound},
	{"MountedImage", mountedImage},
}

// kit is the rig during one check.
type kit struct {
	*testing.T
	Rig
	ctx    context.Context //nolint:containedctx // the check's own deadline
	events <-chan engine.Event
}

var (
	serialMu sync.Mutex
	serial   int
)

// spec makes a spec with a fresh ID; the container is removed at the end.
func (k *kit) spec(command []string) engine.Spec {
	k.Helper()
	serialMu.Lock()
	serial++
	id := fmt.Sprintf("suite-%d-%d", os.Getpid(), serial)
	serialMu.Unlock()
	k.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = k.Engine.Signal(ctx, id, 9, false)
		for k.Engine.Remove(ctx, id) != nil && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
	})
	s := engine.Spec{ID: id, Pod: "pod-" + id, Image: k.Image, Command: command, LogPath: filepath.Join(k.LogDir, id, "0.log")}
	if k.CgroupParent != "" {
		s.CgroupPath = k.CgroupParent + "/" + id
	}
	return s
}

func (k *kit) must(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

func (k *kit) wantError(err, want error) {
	k.Helper()
	if !errors.Is(err, want) {
		k.Errorf("got error %v, want %v", err, want)
	}
}

func (k *kit) run(s engine.Spec) {
	k.Helper()
	k.must(k.Engine.Create(k.ctx, s))
	_, err := k.Engine.Start(k.ctx, s.ID)
	k.must(err)
}

// await waits for an event of a container.
func (k *kit) await(id, kind string) engine.Event {
	k.Helper()
	for ev := range k.events {
		if ev.ID == id && ev.Kind == kind {
			return ev
		}
	}
	k.Fatalf("no %s event of %s within %v", kind, id, patience)
	return engine.Event{}
}

func (k *kit) inspect(id string) engine.Container {
	k.Helper()
	c, err := k.Engine.Inspect(k.ctx, id)
	k.must(err)
	return c
}

func lifeOfAContainer(k *kit) {
	s := k.spec(k.Forever)
	s.Labels = map[string]string{"io.kubernetes.pod.name": "web"}
	k.must(k.Engine.Create(k.ctx, s))
	c := k.inspect(s.ID)
	if c.State != engine.Created || c.Pod != s.Pod || c.Image != s.Image || !strings.HasPrefix(c.ImageID, "sha256:") || c.CreatedAt.IsZero() {
		k.Errorf("after create: %+v", c)
	}
	pid, err := k.Engine.Start(k.ctx, s.ID)
	k.must(err)
	c = k.inspect(s.ID)
	if c.State != engine.Running || c.PID != pid || pid <= 0 || c.StartedAt.IsZero() || c.Labels["io.kubernetes.pod.name"] != "web" {
		k.Errorf("after start (pid %d): %+v", pid, c)
	}
	k.must(k.Engine.Signal(k.ctx, s.ID, 9, false))
	k.await(s.ID, "exit")
	c = k.inspect(s.ID)
	if c.State != engine.Exited || c.ExitCode != 137 || c.FinishedAt.IsZero() || c.PID != 0 {
		k.Errorf("after the end: %+v", c)
	}
	k.must(k.Engine.Remove(k.ctx, s.ID))
	_, err = k.Engine.Inspect(k.ctx, s.ID)
	k.wantError(err, engine.ErrNotFound)
}

func exitCodeAndEvents(k *kit) {
	s := k.spec(k.Exit3)
	k.run(s)
	started := false
	for ev := range k.events {
		if ev.ID != s.ID {
			continue
		}
		if ev.Kind == "start" {
			started = true
			continue
		}
		if !started || ev.Kind != "exit" || ev.ExitCode != 3 || ev.Pod != s.Pod {
			k.Fatalf("start seen: %v, then %+v", started, ev)
		}
		break
	}
	// The event comes after the state: who hears it can rely on Inspect.
	if c := k.inspect(s.ID); c.State != engine.Exited || c.ExitCode != 3 || c.OOMKilled {
		k.Errorf("after the exit event: %+v", c)
	}
}

func termAndKill(k *kit) {
	polite := k.spec(k.Hello)
	k.run(polite)
	k.awaitLog(polite, "hello")
	k.must(k.Engine.Signal(k.ctx, polite.ID, 0, false)) // the stop signal, SIGTERM when nothing else is said
	if ev := k.await(polite.ID, "exit"); ev.ExitCode != 143 {
		k.Errorf("exit code after SIGTERM is %d", ev.ExitCode)
	}
	stubborn := k.spec(k.Stubborn)
	k.run(stubborn)
	k.must(k.Engine.Signal(k.ctx, stubborn.ID, 15, false))
	k.must(k.Engine.Signal(k.ctx, stubborn.ID, 9, false))
	if ev := k.await(stubborn.ID, "exit"); ev.ExitCode != 137 {
		k.Errorf("exit code after SIGKILL is %d", ev.ExitCode)
	}
}

func refusals(k *kit) {
	s := k.spec(k.Forever)
	unknown := s
	unknown.Image = k.Absent
	k.wantError(k.Engine.Create(k.ctx, unknown), engine.ErrNotFound)
	k.run(s)
	k.wantError(k.Engine.Create(k.ctx, s), engine.ErrExists)
	if _, err := k.Engine.Start(k.ctx, s.ID); err == nil {
		k.Error("starting twice was accepted")
	}
	if err := k.Engine.Remove(k.ctx, s.ID); err == nil {
		k.Error("removing a running container was accepted")
	}
	k.must(k.Engine.Signal(k.ctx, s.ID, 9, false))
	k.await(s.ID, "exit")
	k.wantError(k.Engine.Signal(k.ctx, s.ID, 15, false), engine.ErrNotRunning)
	_, err := k.Engine.Exec(k.ctx, s.ID, engine.ExecSpec{Command: k.Exec7}, engine.IO{})
	k.wantError(err, engine.ErrNotRunning)
	if _, err := k.Engine.Start(k.ctx, s.ID); err == nil {
		k.Error("starting an exited container was accepted")
	}
	k.must(k.Engine.Remove(k.ctx, s.ID))
	k.must(k.Engine.Remove(k.ctx, s.ID))
	_, err = k.Engine.Start(k.ctx, s.ID)
	k.wantError(err, engine.ErrNotFound)
	k.wantError(k.Engine.Signal(k.ctx, s.ID, 15, false), engine.ErrNotFound)
	k.wantError(k.Engine.Attach(k.ctx, s.ID, engine.IO{}), engine.ErrNotFound)
}

func missingCommand(k *kit) {
	s := k.spec(k.Missing)
	err := k.Engine.Create(k.ctx, s)
	if err == nil {
		_, err = k.Engine.Start(k.ctx, s.ID)
	}
	k.wantError(err, engine.ErrProcess)
	// The ID is free again.
	k.must(k.Engine.Remove(k.ctx, s.ID))
	s.Command = k.Exit3
	k.run(s)
	k.await(s.ID, "exit")
}

// awaitLog waits until the log has the text.
func (k *kit) awaitLog(s engine.Spec, text string) {
	k.Helper()
	for k.ctx.Err() == nil {
		b, _ := os.ReadFile(s.LogPath)
		if strings.Contains(string(b), text) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	k.Fatalf("log never had %q", text)
}

func logIsWritten(k *kit) {
	s := k.spec(k.Hello)
	k.run(s)
	k.awaitLog(s, " stdout F hello\n")
	if c := k.inspect(s.ID); c.LogPath != s.LogPath {
		k.Errorf("log path is %q", c.LogPath)
	}
}

// buffer is a writer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func attach(k *kit) {
	s := k.spec(k.Hello)
	k.run(s)
	k.awaitLog(s, "hello")
	ctx, cancel := context.WithCancel(k.ctx)
	left := make(chan error, 1)
	go func() { left <- k.Engine.Attach(ctx, s.ID, engine.IO{Stdout: &buffer{}}) }()
	cancel()
	k.must(<-left) // a client that leaves is no error, and the container goes on
	if c := k.inspect(s.ID); c.State != engine.Running {
		k.Errorf("after a client left: %+v", c)
	}
	ended := make(chan error, 1)
	go func() { ended <- k.Engine.Attach(k.ctx, s.ID, engine.IO{Stdout: &buffer{}}) }()
	k.must(k.Engine.Signal(k.ctx, s.ID, 15, false))
	err := <-ended // ends with the container; too late to attach is fine as well
	if err != nil && !errors.Is(err, engine.ErrNotRunning) {
		k.Errorf("attached at the end: %v", err)
	}
}

func exec(k *kit) {
	s := k.spec(k.Forever)
	k.run(s)
	code, err := k.Engine.Exec(k.ctx, s.ID, engine.ExecSpec{Command: k.Exec7}, engine.IO{})
	k.must(err)
	if code != 7 {
		k.Errorf("exit code is %d", code)
	}
	var out buffer
	in := strings.Repeat("0123456789abcdef\n", 10_000) // more than a pipe holds
	code, err = k.Engine.Exec(k.ctx, s.ID, engine.ExecSpec{Command: k.Cat}, engine.IO{Stdin: strings.NewReader(in), Stdout: &out, Stderr: &out})
	k.must(err)
	if code != 0 || out.String() != in {
		k.Errorf("cat: code %d, %d bytes of %d", code, len(out.String()), len(in))
	}
}

func execEndsWithContext(k *kit) {
	s := k.spec(k.Forever)
	k.run(s)
	ctx, cancel := context.WithTimeout(k.ctx, 300*time.Millisecond)
	defer cancel()
	_, err := k.Engine.Exec(ctx, s.ID, engine.ExecSpec{Command: k.Forever}, engine.IO{})
	k.wantError(err, context.DeadlineExceeded)
	if c := k.inspect(s.ID); c.State != engine.Running {
		k.Errorf("the container did not survive it: %+v", c)
	}
}

func listShowsAll(k *kit) {
	a, b := k.spec(k.Forever), k.spec(k.Exit3)
	k.run(a)
	k.run(b)
	k.await(b.ID, "exit")
	all, err := k.Engine.List(k.ctx)
	k.must(err)
	states := map[string]engine.State{}
	for _, c := range all {
		states[c.ID] = c.State
	}
	if states[a.ID] != engine.Running || states[b.ID] != engine.Exited {
		k.Errorf("list: %v", states)
	}
}

func manyAtOnce(k *kit) {
	const n = 8
	specs := make([]engine.Spec, n)
	for i := range specs {
		specs[i] = k.spec(k.Exit3)
		specs[i].Pod = fmt.Sprintf("pod-many-%d-%d", os.Getpid(), i/2) // two to a pod
	}
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for _, s := range specs {
		wg.Go(func() {
			err := k.Engine.Create(k.ctx, s)
			if err == nil {
				_, err = k.Engine.Start(k.ctx, s.ID)
			}
			errs <- err
		})
	}
	wg.Wait()
	for range n {
		k.must(<-errs)
	}
	left := map[string]bool{}
	for _, s := range specs {
		left[s.ID] = true
	}
	for ev := range k.events {
		if ev.Kind == "exit" {
			delete(left, ev.ID)
		}
		if len(left) == 0 {
			return
		}
	}
	k.Errorf("no exit event of %v", left)
}

func removeCreated(k *kit) {
	s := k.spec(k.Forever)
	k.must(k.Engine.Create(k.ctx, s))
	k.must(k.Engine.Remove(k.ctx, s.ID))
	_, err := k.Engine.Inspect(k.ctx, s.ID)
	k.wantError(err, engine.ErrNotFound)
}

func imagesAreFound(k *kit) {
	img, err := k.Engine.Images().Resolve(k.ctx, k.Image)
	k.must(err)
	if len(img.Names) == 0 || len(img.Digests) == 0 || img.Bytes <= 0 {
		k.Fatalf("image: %+v", img)
	}
	for _, ref := range []string{img.ID, strings.TrimPrefix(img.ID, "sha256:"), img.Names[0], img.Digests[0]} {
		got, err := k.Engine.Images().Resolve(k.ctx, ref)
		if err != nil || got.ID != img.ID {
			k.Errorf("resolving %s: %v %v", ref, got.ID, err)
		}
	}
	_, err = k.Engine.Images().Resolve(k.ctx, k.Absent)
	k.wantError(err, engine.ErrNotFound)
	all, err := k.Engine.Images().List(k.ctx)
	k.must(err)
	if len(all) == 0 {
		k.Error("list is empty")
	}
	n, err := k.Engine.Images().UsageBytes(k.ctx)
	k.must(err)
	if n <= 0 {
		k.Errorf("usage is %d", n)
	}
	k.must(k.Engine.Images().Remove(k.ctx, k.Absent))
}

func mountedImage(k *kit) {
	images, target := k.Engine.Images(), filepath.Join(k.LogDir, "mounted", "image")
	img, err := images.Resolve(k.ctx, k.Image)
	k.must(err)
	k.wantError(images.Mount(k.ctx, k.Absent, target), engine.ErrNotFound)
	for range 2 { // the second finds it there
		k.must(images.Mount(k.ctx, img.ID, target))
	}
	if k.File != "" {
		if st, err := os.Stat(filepath.Join(target, k.File)); err != nil || st.Size() == 0 {
			k.Errorf("the image's %s: %v", k.File, err)
		}
		if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
			k.Errorf("writing into the image: %v", err)
		}
	}
	for range 2 {
		k.must(images.Unmount(k.ctx, target))
	}
	if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
		k.Errorf("%s is left: %v", target, err)
	}
}
