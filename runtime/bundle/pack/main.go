// Command pack compresses programs, with their calls spread (runtime/bundle/calls), into the folder that package bundle embeds
// and writes their checksums: with the host's zstd where there is one, which packs
// an eighth closer than the Go package does. Files come into place whole, by rename: a
// build that was interrupted leaves the ones before. Only scripts/bundle runs it.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"orch/runtime/bundle/calls"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: pack OUT-DIR PROGRAM...")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(dir string, programs []string) error {
	var sums string
	for _, p := range programs {
		raw, err := os.ReadFile(p)
		if err != nil {
			return fmt.Errorf("reading program: %w", err)
		}
		name := filepath.Base(p)
		sums += fmt.Sprintf("%x  %s\n", sha256.Sum256(raw), name)
		calls.Spread(raw)
		if err := whole(filepath.Join(dir, name+".zst"), func(path string) error { return compress(raw, path) }); err != nil {
			return err
		}
	}
	list := filepath.Join(dir, "SHA256SUMS")
	return whole(list, func(path string) error { return os.WriteFile(path, []byte(sums), 0o644) })
}

// whole makes path by write, which is given another name for it.
func whole(path string, write func(path string) error) error {
	part := fmt.Sprintf("%s.%d.part", path, os.Getpid())
	defer os.Remove(part) // gone after the rename
	if err := write(part); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(part, path)
}

// compress writes raw to out.
func compress(raw []byte, out string) error {
	if path, err := exec.LookPath("zstd"); err == nil {
		cmd := exec.Command(path, "-19", "-T0", "--quiet", "--force", fmt.Sprintf("--stream-size=%d", len(raw)), "-o", out)
		cmd.Stdin, cmd.Stderr = bytes.NewReader(raw), os.Stderr
		return cmd.Run()
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	return os.WriteFile(out, enc.EncodeAll(raw, nil), 0o644)
}
