package logfile

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzRead: whatever lies in a log, reading ends, and its last lines are the end of all of it.
func FuzzRead(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.000000006Z stdout F one\n2026-01-02T03:04:05.1Z stderr P tw\n2026-01-02T03:04:05.2Z stderr F:x o\n"), int64(1), int64(0))
	f.Add([]byte("torn\n2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z stdout"), int64(3), int64(5))
	f.Add([]byte("\n\n\x00"), int64(0), int64(-1))
	path := filepath.Join(f.TempDir(), "0.log")
	read := func(t *testing.T, o Options) []byte {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := Read(ctx, path, o, &out, &out); err != nil {
			t.Fatal(err)
		}
		if ctx.Err() != nil {
			t.Fatal("reading did not end")
		}
		return out.Bytes()
	}
	f.Fuzz(func(t *testing.T, text []byte, tail, limit int64) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		all := read(t, Options{})
		if end := read(t, Options{Tail: &tail}); !bytes.HasSuffix(all, end) {
			t.Errorf("the last %d lines %q are not the end of %q", tail, end, all)
		}
		if limit > 0 {
			if start := read(t, Options{LimitBytes: limit, Timestamps: true}); int64(len(start)) > limit {
				t.Errorf("%d bytes, %d wanted", len(start), limit)
			}
		}
	})
}
