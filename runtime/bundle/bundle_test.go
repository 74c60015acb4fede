package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"
)

func fakePrograms(t *testing.T, damage string) fs.FS {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := fstest.MapFS{"bin/README": {Data: []byte("x")}}
	sums := ""
	for _, name := range []string{Runc, Shim} {
		body := []byte("program " + name)
		sums += fmt.Sprintf("%s  %s\n", sha256hex(body), name)
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

func TestUnpackRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := unpack(fstest.MapFS{"bin/README": {}}, dir); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("a build without programs: %v", err)
	}
	if _, err := unpack(fakePrograms(t, Shim), dir); err == nil {
		t.Error("a damaged program was accepted")
	}
}
