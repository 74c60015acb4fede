package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"

	"orch/runtime/bundle/calls"
)

func fakePrograms(t *testing.T, damage string) fs.FS {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := fstest.MapFS{"bin/README": {Data: []byte("x")}}
	sums := ""
	for _, name := range []string{Runc, Shim, Tools} {
		body := []byte("program " + name)
		sums += fmt.Sprintf("%x  %s\n", sha256.Sum256(body), name)
		if damage == name {
			body = append(body, '!')
		}
		m["bin/"+name+".zst"] = &fstest.MapFile{Data: enc.EncodeAll(body, nil)}
	}
	m["bin/SHA256SUMS"] = &fstest.MapFile{Data: []byte(sums)}
	return m
}

func TestUnpack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bin")
	programs := fakePrograms(t, "")
	paths, err := unpack(programs, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{paths.Runc, paths.Shim} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o755 {
			t.Errorf("%s has mode %v", p, st.Mode())
		}
	}
	// Right already: left alone. Wrong: replaced.
	old := time.Unix(1000, 0)
	if err := os.Chtimes(paths.Runc, old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(paths.Shim, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(programs, dir); err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(paths.Runc); !st.ModTime().Equal(old) {
		t.Error("a right program was written again")
	}
	if got, _ := os.ReadFile(paths.Shim); string(got) != "program "+Shim {
		t.Errorf("the torn program was kept: %q", got)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 2 {
		t.Errorf("temporary files left behind: %v", left)
	}
}

// TestProgramsCallsAreGathered: what is embedded is a program with its calls spread.
func TestProgramsCallsAreGathered(t *testing.T) {
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	spread := bytes.Clone(own)
	calls.Spread(spread)
	programs := fstest.MapFS{"bin/a.zst": {Data: enc.EncodeAll(spread, nil)}}
	var out bytes.Buffer
	if err := expand(programs, "a", fmt.Sprintf("%x", sha256.Sum256(own)), &out); err != nil || !bytes.Equal(out.Bytes(), own) {
		t.Errorf("%d bytes of %d: %v", out.Len(), len(own), err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := unpack(fstest.MapFS{"bin/README": {}}, dir); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("a build without programs: %v", err)
	}
	if _, err := unpack(fakePrograms(t, Shim), dir); err == nil {
		t.Error("a damaged program was accepted")
	}
}

func TestTool(t *testing.T) {
	programs := fakePrograms(t, "")
	dir := filepath.Join(t.TempDir(), "tools")
	path, memory, err := tool(programs, Tools, dir)
	if err != nil || memory != nil {
		t.Fatal(path, memory, err)
	}
	content(t, path)
	// Kept: not written again. Another version: removed.
	old := time.Unix(1000, 0)
	other := filepath.Join(dir, Tools+"-0123456789abcdef")
	if err := errors.Join(os.Chtimes(path, old, old), os.WriteFile(other, nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	if again, _, err := tool(programs, Tools, dir); err != nil || again != path {
		t.Fatal(again, err)
	}
	if st, err := os.Stat(path); err != nil || !st.ModTime().Equal(old) {
		t.Errorf("it was written again: %v %v", st, err)
	}
	if err := os.Chmod(path, 0o777); err != nil { // anybody could have written it
		t.Fatal(err)
	}
	if _, _, err := tool(programs, Tools, dir); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("an open program was kept as it was: %v %v", st, err)
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another version is still there: %v", err)
	}
}

func TestToolInMemory(t *testing.T) {
	programs := fakePrograms(t, "")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"no folder": "", "a folder that cannot be": filepath.Join(file, "tools")} {
		t.Run(name, func(t *testing.T) {
			path, memory, err := tool(programs, Tools, dir)
			if err != nil {
				t.Fatal(err)
			}
			defer memory.Close()
			content(t, path)
		})
	}
	if _, _, err := tool(fakePrograms(t, Tools), Tools, ""); err == nil {
		t.Error("a damaged program was accepted")
	}
}

func content(t *testing.T, path string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != "program "+Tools {
		t.Errorf("%q, %v", got, err)
	}
}
