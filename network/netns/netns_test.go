package netns

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestCreatePinsAndRemoves(t *testing.T) {
	dir := t.TempDir()
	spec := Spec{Net: dir + "/net", IPC: dir + "/ipc", UTS: dir + "/uts", Hostname: "inside"}
	if err := Create(spec); err != nil {
		t.Fatal(err)
	}
	defer Remove(spec.Net, spec.IPC, spec.UTS)
	for path, own := range map[string]string{spec.Net: "net", spec.IPC: "ipc", spec.UTS: "uts"} {
		if !Is(path) {
			t.Errorf("%s is not a pinned namespace", path)
		}
		if inode(t, path) == inode(t, "/proc/self/ns/"+own) {
			t.Errorf("%s is the host's own namespace", path)
		}
	}
	if err := Create(spec); !errors.Is(err, os.ErrExist) {
		t.Errorf("second Create: %v, want os.ErrExist", err)
	}
	err := Do(spec.Net, func() error {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return err
		}
		if lo.Flags&net.FlagUp == 0 {
			t.Error("lo is down")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := Remove(spec.Net, spec.IPC, spec.UTS); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
	if err := Remove(spec.Net); err != nil {
		t.Errorf("removing twice: %v", err)
	}
}

func TestCreateIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(Spec{Net: dir + "/net", IPC: dir + "/file/ipc"}); err == nil {
		t.Fatal("no error")
	}
	if Is(dir + "/net") {
		t.Error("the network namespace stayed")
	}
}

func TestLeftoverFileIsReused(t *testing.T) {
	path := t.TempDir() + "/net"
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if Is(path) {
		t.Fatal("a plain file passes as namespace")
	}
	if err := Create(Spec{Net: path}); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestPrepareTwice(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		if err := Prepare(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(dir, 0); err == nil {
		t.Error("Prepare mounted twice")
	}
}

// No goroutine may ever find itself in a namespace that it didn't ask for.
func TestDoDoesNotLeak(t *testing.T) {
	path := t.TempDir() + "/net"
	if err := Create(Spec{Net: path}); err != nil {
		t.Fatal(err)
	}
	defer Remove(path)
	home, inside := inode(t, "/proc/self/ns/net"), inode(t, path)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_ = Do(path, func() error {
				if got := inode(t, "/proc/thread-self/ns/net"); got != inside {
					t.Errorf("inside Do the namespace is %d", got)
				}
				return nil
			})
		})
		wg.Go(func() {
			if got := inode(t, "/proc/thread-self/ns/net"); got != home {
				t.Errorf("outside Do the namespace is %d", got)
			}
		})
	}
	wg.Wait()
}

func BenchmarkCreateRemove(b *testing.B) {
	dir := b.TempDir()
	spec := Spec{Net: dir + "/net", IPC: dir + "/ipc", UTS: dir + "/uts"}
	for b.Loop() {
		if err := Create(spec); err != nil {
			b.Fatal(err)
		}
		if err := Remove(spec.Net, spec.IPC, spec.UTS); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDo(b *testing.B) {
	path := b.TempDir() + "/net"
	if err := Create(Spec{Net: path}); err != nil {
		b.Fatal(err)
	}
	defer Remove(path)
	for b.Loop() {
		if err := Do(path, func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
