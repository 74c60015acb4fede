package logfile

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The suffix of a rotated file, as the kubelet writes it.
const rotatedFormat = "20060102-150405"

const gzipSuffix = ".gz"

// rotateLocked moves the current file aside and starts a new one. The old files
// are compressed and dropped beside the writer's work, one round at a time.
func (w *Writer) rotateLocked(now time.Time) error {
	target := rotatedName(w.cfg.Path, now, rotated(w.cfg.Path))
	if err := os.Rename(w.cfg.Path, target); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotating log: %w", err)
		}
		// Removed under us: just start a new one.
	}
	old := w.file
	if err := w.openLocked(); err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		return fmt.Errorf("closing rotated log: %w", err)
	}
	w.tidy.Wait() // a round lasts milliseconds; two would race for the same files
	w.tidy.Go(func() { tidy(w.cfg.Path, w.cfg.MaxFiles) })
	return nil
}

// rotatedName names the next rotated file so that it sorts after those that
// are there, also within one second and when the clock has gone back.
func rotatedName(path string, now time.Time, existing []string) string {
	target := path + "." + now.UTC().Format(rotatedFormat)
	if len(existing) == 0 {
		return target
	}
	last := strings.TrimSuffix(existing[len(existing)-1], gzipSuffix)
	if target > last {
		return target
	}
	base, n := last, 0
	if end := len(path) + 1 + len(rotatedFormat); len(last) > end {
		if _, err := fmt.Sscanf(last[end:], "-%03d", &n); err == nil {
			base = last[:end]
		}
	}
	return fmt.Sprintf("%s-%03d", base, n+1)
}

// tidy drops the oldest rotated files and compresses all but the newest. What
// fails is left for the next round.
func tidy(path string, maxFiles int) {
	files := rotated(path)
	for len(files) > maxFiles-1 {
		_ = os.Remove(files[0])
		files = files[1:]
	}
	if len(files) < 2 {
		return
	}
	for _, f := range files[:len(files)-1] {
		if !strings.HasSuffix(f, gzipSuffix) {
			_ = compress(f)
		}
	}
}

// rotated lists the rotated files of the log at path, the oldest first.
func rotated(path string) []string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	prefix := filepath.Base(path) + "."
	var out []string
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if strings.HasSuffix(name, tempSuffix) {
			continue // being compressed, or left by a crash then: compress starts over
		}
		out = append(out, filepath.Join(filepath.Dir(path), name))
	}
	slices.SortFunc(out, func(a, b string) int {
		return strings.Compare(strings.TrimSuffix(a, gzipSuffix), strings.TrimSuffix(b, gzipSuffix))
	})
	return out
}

const tempSuffix = ".tmp"

func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening rotated log: %w", err)
	}
	defer in.Close()
	temp := path + tempSuffix
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return fmt.Errorf("making compressed log: %w", err)
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err == nil {
		err = os.Rename(temp, path+gzipSuffix)
	}
	if err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("compressing rotated log: %w", err)
	}
	return os.Remove(path)
}
