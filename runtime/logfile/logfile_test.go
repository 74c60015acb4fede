package logfile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 600000000, time.UTC)

func newWriter(t *testing.T, c Config) *Writer {
	t.Helper()
	if c.Path == "" {
		c.Path = filepath.Join(t.TempDir(), "c", "0.log")
	}
	w, err := NewWriter(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriterFormat(t *testing.T) {
	long := strings.Repeat("x", maxRecordBytes)
	const stamp = "2026-01-02T03:04:05.600000000Z "
	tests := []struct {
		name   string
		chunks []string
		want   string
	}{
		{"one line", []string{"hello\n"}, stamp + "stdout F hello\n"},
		{"two lines in a chunk", []string{"a\nb\n"}, stamp + "stdout F a\n" + stamp + "stdout F b\n"},
		{"a line in three chunks", []string{"a", "b", "c\n"}, stamp + "stdout F abc\n"},
		{"empty line", []string{"\n"}, stamp + "stdout F \n"},
		{"no end yet", []string{"a\nrest"}, stamp + "stdout F a\n"},
		{"exactly the limit", []string{long + "\n"}, stamp + "stdout F " + long + "\n"},
		{"over the limit", []string{long + "y\n"}, stamp + "stdout P " + long + "\n" + stamp + "stdout F y\n"},
		{"over the limit in chunks", []string{long, "y", "\n"}, stamp + "stdout P " + long + "\n" + stamp + "stdout F y\n"},
		{"chunk ends in a rest, next has many", []string{"a", "b\nc\nd"}, stamp + "stdout F ab\n" + stamp + "stdout F c\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWriter(t, Config{})
			for _, c := range tt.chunks {
				if err := w.Append(at, Stdout, []byte(c)); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(tt.want, contents(t, w.cfg.Path)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestWriterEndsTornLineOnOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte("2026-01-02T03:04:05Z stdout F whole\n2026-01-02T03:0"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, Config{Path: path})
	if err := w.Append(at, Stdout, []byte("next\n")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Read(t.Context(), path, Options{}, &out, nil); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "whole\nnext\n" {
		t.Errorf("read %q", got)
	}
}

func TestWriterStreamsDoNotMix(t *testing.T) {
	w := newWriter(t, Config{})
	w.Append(at, Stdout, []byte("out"))
	w.Append(at, Stderr, []byte("err\n"))
	w.Append(at, Stdout, []byte("put\n"))
	w.Append(at, Stdout, []byte("tail without end"))
	w.Close()
	var o, e bytes.Buffer
	if err := Read(t.Context(), w.cfg.Path, Options{}, &o, &e); err != nil {
		t.Fatal(err)
	}
	if o.String() != "output\ntail without end" || e.String() != "err\n" {
		t.Errorf("stdout %q stderr %q", o.String(), e.String())
	}
}

func TestRotation(t *testing.T) {
	w := newWriter(t, Config{MaxBytes: 200, MaxFiles: 3})
	for i := range 38 {
		if err := w.Append(time.Now(), Stdout, fmt.Appendf(nil, "line %02d\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files := rotated(w.cfg.Path)
	if len(files) != 2 {
		t.Fatalf("rotated files: %v", files)
	}
	if !strings.HasSuffix(files[0], gzipSuffix) || strings.HasSuffix(files[1], gzipSuffix) {
		t.Errorf("only the newest rotated file stays plain: %v", files)
	}
	var out bytes.Buffer
	tail := int64(6) // more than the current file has
	if err := Read(t.Context(), w.cfg.Path, Options{Tail: &tail}, &out, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "line 32\nline 33\nline 34\nline 35\nline 36\nline 37\n"; got != want {
		t.Errorf("tail over a rotation: %q", got)
	}
}

func TestReadOptions(t *testing.T) {
	w := newWriter(t, Config{})
	for i := range 5 {
		w.Append(at.Add(time.Duration(i)*time.Second), Stdout, fmt.Appendf(nil, "line %d\n", i))
	}
	w.Append(at.Add(9*time.Second), Stderr, []byte("oops\n"))
	n := func(i int64) *int64 { return &i }
	tests := []struct {
		name string
		opts Options
		want string
	}{
		{"all", Options{}, "line 0\nline 1\nline 2\nline 3\nline 4\noops\n"},
		{"tail 2", Options{Tail: n(2)}, "line 4\noops\n"},
		{"tail 0", Options{Tail: n(0)}, ""},
		{"tail more than there is", Options{Tail: n(99)}, "line 0\nline 1\nline 2\nline 3\nline 4\noops\n"},
		{"since", Options{Since: at.Add(4 * time.Second)}, "line 4\noops\n"},
		{"limit", Options{LimitBytes: 9}, "line 0\nli"},
		{"timestamps", Options{Tail: n(1), Timestamps: true}, "2026-01-02T03:04:14.600000000Z oops\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Read(t.Context(), w.cfg.Path, tt.opts, &out, &out); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, out.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestReadMissing(t *testing.T) {
	if err := Read(t.Context(), filepath.Join(t.TempDir(), "0.log"), Options{}, io.Discard, io.Discard); err != nil {
		t.Errorf("a log that is not there yet: %v", err)
	}
}

// lineSink is a writer on whose contents a test can wait.
type lineSink struct {
	mu    sync.Mutex
	b     bytes.Buffer
	wrote chan struct{}
}

func (s *lineSink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.wrote <- struct{}{}:
	default:
	}
	return s.b.Write(p)
}

func (s *lineSink) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		s.mu.Lock()
		got := s.b.String()
		s.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-s.wrote:
		case <-deadline:
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestFollowOverRotation(t *testing.T) {
	w := newWriter(t, Config{MaxBytes: 300, MaxFiles: 4})
	sink := &lineSink{wrote: make(chan struct{}, 1)}
	done := make(chan struct{})
	finished := make(chan error, 1)
	go func() {
		finished <- Read(t.Context(), w.cfg.Path, Options{Follow: true, Done: done}, sink, sink)
	}()
	var want strings.Builder
	for i := range 50 {
		fmt.Fprintf(&want, "line %03d\n", i)
		if err := w.Append(time.Now(), Stdout, fmt.Appendf(nil, "line %03d\n", i)); err != nil {
			t.Fatal(err)
		}
		sink.await(t, want.String())
	}
	w.Append(time.Now(), Stdout, []byte("last"))
	w.Close()
	close(done)
	if err := <-finished; err != nil {
		t.Fatal(err)
	}
	sink.await(t, want.String()+"last")
}

func TestFollowWaitsForLogAndEndsWithContext(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	sink := &lineSink{wrote: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan error, 1)
	go func() { finished <- Read(ctx, path, Options{Follow: true}, sink, sink) }()
	w := newWriter(t, Config{Path: path})
	w.Append(at, Stdout, []byte("hi\n"))
	sink.await(t, "hi\n")
	cancel()
	if err := <-finished; err != nil {
		t.Fatal(err)
	}
}

func TestWriterReopen(t *testing.T) {
	w := newWriter(t, Config{})
	w.Append(at, Stdout, []byte("one\n"))
	if err := os.Rename(w.cfg.Path, w.cfg.Path+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	w.Append(at, Stdout, []byte("two\n"))
	if got := contents(t, w.cfg.Path); !strings.HasSuffix(got, "F two\n") || strings.Contains(got, "one") {
		t.Errorf("after reopen: %q", got)
	}
}

func BenchmarkAppend(b *testing.B) {
	w, err := NewWriter(Config{Path: filepath.Join(b.TempDir(), "0.log")})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	line := []byte(strings.Repeat("log line of a usual length ", 4) + "\n")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if err := w.Append(time.Now(), Stdout, line); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRotatedName(t *testing.T) {
	tests := []struct {
		name     string
		existing []string
		want     string
	}{
		{"first", nil, "/l/0.log.20260102-030405"},
		{"later", []string{"/l/0.log.20260101-000000.gz"}, "/l/0.log.20260102-030405"},
		{"same second", []string{"/l/0.log.20260102-030405"}, "/l/0.log.20260102-030405-001"},
		{"third of a second", []string{"/l/0.log.20260102-030405.gz", "/l/0.log.20260102-030405-001"}, "/l/0.log.20260102-030405-002"},
		{"clock gone back", []string{"/l/0.log.20300101-000000"}, "/l/0.log.20300101-000000-001"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := rotatedName("/l/0.log", at, tt.existing); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
