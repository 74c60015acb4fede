package shim

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// write fills a pipe as a container does, and closes it.
func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// left is what a pipe still holds.
func left(t *testing.T, path string) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOutputStaysInPipesThatNobodyHasOpen(t *testing.T) {
	k, err := newKeeper()
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	dir := t.TempDir()
	pipe := func(id, stream string) string { return filepath.Join(dir, id+stream) }
	ids := []string{"first", "second", strings.Repeat("x", 76)}
	for _, id := range ids {
		for _, stream := range []string{".out", ".err"} {
			if err := unix.Mkfifo(pipe(id, stream), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.put(id, pipe(id, ".out"), pipe(id, ".err")); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.put("other", "binary:///bin/true?x=y", ""); err != nil {
		t.Fatal(err)
	}
	if err := k.drop("first"); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		for _, stream := range []string{".out", ".err"} {
			write(t, pipe(id, stream), "last words")
			want := "last words"
			if id == "first" {
				want = ""
			}
			if got := left(t, pipe(id, stream)); got != want {
				t.Errorf("%.10s%s holds %q, want %q", id, stream, got, want)
			}
		}
	}
}

func TestKeeperRefusesWhatDoesNotFit(t *testing.T) {
	k, err := newKeeper()
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	pipe := filepath.Join(t.TempDir(), "out")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; n < 10000 && err == nil; n++ {
		err = k.put(fmt.Sprint("c", n), pipe)
	}
	t.Logf("%d containers fit: %v", n-1, err)
	if n < 100 || err == nil {
		t.Errorf("%d containers fit: %v", n-1, err)
	}
	if err := k.drop("c0"); err != nil {
		t.Error(err)
	}
	if err := k.put("late", pipe); err != nil {
		t.Errorf("after a drop: %v", err)
	}
}
