// Package bundle carries programs inside the executable, packed: runc and the
// containerd shim, which it puts on disk, verified, when a node starts; the tools
// (kubectl and ctr), which it unpacks and executes when they are called; and the NVML
// helper, which runs from memory. It owns nothing else and knows no container.
//
// The programs are built by scripts/bundle into bin/ (not kept in git); without
// them the package still compiles and says what to do. Start reading at Unpack and
// at Exec.
package bundle

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"orch/runtime/bundle/calls"
)

//go:embed bin
var embedded embed.FS

// Names of the programs.
const (
	Runc  = "runc"
	Shim  = "containerd-shim-runc-v2"
	Tools = "tools"     // kubectl and ctr, by the name it is called
	NVML  = "orch-nvml" // gpu/nvml/helper, the only dynamic one
)

// maxProgramBytes bounds what a damaged archive may expand to.
const maxProgramBytes = 128 << 20

// ErrNotBuilt: this executable was built without the programs.
var ErrNotBuilt = errors.New("this build of orch carries no programs (runc, shim, kubectl, ctr): run `make build` (or scripts/bundle, then build again)")

// Paths are where the programs lie.
type Paths struct {
	Runc, Shim string
	// Crun is a crun found on this host, empty if there is none.
	Crun string
}

// Unpack puts the programs into dir, unless they are there already and right,
// and returns their paths. A file is replaced by rename, so a program that is
// running (the shims of running pods) keeps its old contents.
func Unpack(dir string) (Paths, error) { return unpack(embedded, dir) }

// Host returns the programs found on this host's PATH instead of the embedded ones.
func Host() (Paths, error) {
	runc, err := exec.LookPath(Runc)
	if err != nil {
		return Paths{}, fmt.Errorf("finding the host's runc: %w", err)
	}
	shim, err := exec.LookPath(Shim)
	if err != nil {
		return Paths{}, fmt.Errorf("finding the host's shim: %w", err)
	}
	return Paths{Runc: runc, Shim: shim, Crun: crun()}, nil
}

func unpack(from fs.FS, dir string) (Paths, error) {
	sums, err := checksums(from)
	if err != nil {
		return Paths{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Paths{}, fmt.Errorf("making the folder of programs: %w", err)
	}
	for _, name := range []string{Runc, Shim} {
		sum, ok := sums[name]
		if !ok {
			return Paths{}, fmt.Errorf("unpacking %s: no checksum for it: %w", name, ErrNotBuilt)
		}
		if err := place(from, name, sum, filepath.Join(dir, name)); err != nil {
			return Paths{}, fmt.Errorf("unpacking %s: %w", name, err)
		}
	}
	return Paths{Runc: filepath.Join(dir, Runc), Shim: filepath.Join(dir, Shim), Crun: crun()}, nil
}

func crun() string {
	path, _ := exec.LookPath("crun") // absent is the usual case
	return path
}

// checksums reads the embedded list: SHA-256 of each program, not compressed.
func checksums(from fs.FS) (map[string]string, error) {
	list, err := fs.ReadFile(from, "bin/SHA256SUMS")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotBuilt
	}
	if err != nil {
		return nil, fmt.Errorf("reading checksums: %w", err)
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(list)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if ok {
			sums[name] = sum
		}
	}
	return sums, nil
}

// place makes sure that path holds the program with that checksum.
func place(from fs.FS, name, sum, path string) error {
	if f, err := os.Open(path); err == nil {
		h := sha256.New()
		_, err := io.Copy(h, f)
		f.Close()
		if err == nil && hex.EncodeToString(h.Sum(nil)) == sum {
			return os.Chmod(path, 0o755)
		}
	}
	return replace(path, func(w io.Writer) error { return expand(from, name, sum, w) })
}

// expand writes the unpacked program; an error may come after the last byte, when
// the checksum turns out wrong.
func expand(from fs.FS, name, sum string, w io.Writer) error {
	packed, err := from.Open("bin/" + name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotBuilt
	}
	if err != nil {
		return fmt.Errorf("reading embedded file: %w", err)
	}
	defer packed.Close()
	dec, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxProgramBytes))
	if err != nil {
		return fmt.Errorf("making decompressor: %w", err)
	}
	defer dec.Close()
	h := sha256.New()
	whole := calls.Gather(io.MultiWriter(w, h))
	_, err = io.Copy(whole, io.LimitReader(dec, maxProgramBytes))
	if err := errors.Join(err, whole.Close()); err != nil {
		return fmt.Errorf("decompressing: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("checksum is %s, want %s: the executable is damaged", got, sum)
	}
	return nil
}

// replace writes path by rename. The file is synced first: after a power cut
// it is either whole or absent.
func replace(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("making temporary file: %w", err)
	}
	defer os.Remove(f.Name()) // gone after the rename
	err = errors.Join(write(f), f.Chmod(0o755), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("writing program: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("putting program in place: %w", err)
	}
	return nil
}
