package image_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orch/runtime/fakeengine"
	"orch/runtime/image"
)

// TestWaitForArchives: who waits goes on with the archive that it wanted, else after the
// last one; lists of images to pull hold nobody up.
func TestWaitForArchives(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.txt": "never:1", "b.tar": "app:1", "c.tar": "other:1"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var looks atomic.Int32
	images := fakeengine.New(fakeengine.Options{OnlyImages: true}).Images()
	taken := make(chan struct{}, 3)
	d, err := image.NewDir(image.DirConfig{Path: dir, Images: images, Imported: func() { taken <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	wait := func(ref string) <-chan bool {
		found := make(chan bool, 1)
		go func() {
			ok := false
			d.Wait(t.Context(), func() bool {
				looks.Add(1)
				_, err := images.Resolve(t.Context(), ref)
				ok = err == nil
				return ok
			})
			found <- ok
		}()
		return found
	}
	here, missing := wait("app:1"), wait("missing:1")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	if !<-here {
		t.Error("it went on without the image that is in the folder")
	}
	if <-missing {
		t.Error("it found an image that is nowhere")
	}
	for range 3 { // the list is pulled after the archives
		<-taken
	}
	if all, err := images.List(ctx); err != nil || len(all) != 3 || looks.Load() > 20 {
		t.Errorf("%v, %v, looked %d times", all, err, looks.Load())
	}
	<-d.Ready()
	began := time.Now()
	d.Wait(ctx, func() bool { return false })
	if time.Since(began) > 15*time.Second {
		t.Error("waiting for nothing took its time")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || !slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, "b.tar") }) {
		t.Errorf("%v, %v: the archives stay", names, err)
	}
}

// TestLinksIntoTheFolderAreTaken: nobody closes a file that was linked in, whether its first name stays
// or not; one that somebody writes waits until that is done.
func TestLinksIntoTheFolderAreTaken(t *testing.T) {
	dir := t.TempDir()
	path := func(elem ...string) string { return filepath.Join(append([]string{dir}, elem...)...) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	images := fakeengine.New(fakeengine.Options{OnlyImages: true}).Images()
	d, err := image.NewDir(image.DirConfig{Path: path("images"), Images: images, Log: slog.New(slog.DiscardHandler)})
	must(err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	<-d.Ready()
	here := func(ref string) bool { _, err := images.Resolve(ctx, ref); return err == nil }
	comes := func(ref string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !here(ref); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s was not taken", ref)
			}
		}
	}
	for _, name := range []string{"hard", "moved", "soft"} {
		must(os.WriteFile(path(name), []byte(name+":1"), 0o600))
	}
	must(os.Link(path("hard"), path("images", "hard.tar")))
	comes("hard:1")
	must(os.Link(path("moved"), path("images", "moved.tar")))
	must(os.Remove(path("moved")))
	comes("moved:1")
	must(os.Symlink(path("soft"), path("images", "soft.tar")))
	comes("soft:1")

	f, err := os.Create(path("images", "slow.tar"))
	must(err)
	_, err = f.WriteString("slow:")
	must(err)
	must(os.WriteFile(path("images", "next.tar"), []byte("next:1"), 0o600))
	comes("next:1") // events are seen in order
	if all, err := images.List(ctx); err != nil || len(all) != 4 {
		t.Errorf("a file was taken that is being written: %v %v", all, err)
	}
	_, err = f.WriteString("1")
	must(err)
	must(f.Close())
	comes("slow:1")
	stop()
	must(<-done)
}
