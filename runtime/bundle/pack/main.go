// Command pack compresses programs into the folder that package bundle embeds
// and writes their checksums. Only scripts/bundle runs it.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
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
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return fmt.Errorf("making compressor: %w", err)
	}
	var sums string
	for _, p := range programs {
		raw, err := os.ReadFile(p)
		if err != nil {
			return fmt.Errorf("reading program: %w", err)
		}
		name := filepath.Base(p)
		sums += fmt.Sprintf("%x  %s\n", sha256.Sum256(raw), name)
		if err := os.WriteFile(filepath.Join(dir, name+".zst"), enc.EncodeAll(raw, nil), 0o644); err != nil {
			return fmt.Errorf("writing compressed program: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sums), 0o644); err != nil {
		return fmt.Errorf("writing checksums: %w", err)
	}
	return nil
}
