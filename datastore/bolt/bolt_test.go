package bolt

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"orch/datastore"
	"orch/datastore/memory"
	"orch/datastore/storetest"
)

var seed = flag.Uint64("seed", 0, "seed of the simulation; 0 takes one from the clock")

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) datastore.Store { return open(t, filepath.Join(t.TempDir(), "state.db")) })
}

func TestSimulation(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	for i := range uint64(4) {
		path := filepath.Join(t.TempDir(), "state.db")
		storetest.Simulation{Seed: *seed + i, Steps: 1500, Store: open(t, path), Model: memory.New(), Reopen: func(s datastore.Store) datastore.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, path)
		}}.Run(t)
	}
}

func put(key, value string) datastore.Txn {
	return datastore.Txn{Ops: []datastore.Op{{Key: key, Value: []byte(value), Expect: datastore.Any}}}
}

func mustCommit(t testing.TB, s *Store, txn datastore.Txn) int64 {
	t.Helper()
	r, err := s.Commit(context.Background(), txn)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWatchGoesOnAcrossRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	from := mustCommit(t, s, put("/a", "1"))
	mustCommit(t, s, put("/a", "2"))
	mustCommit(t, s, put("/b", "1"))
	s.Close()
	s = open(t, path)
	w, err := s.Watch(context.Background(), "/", from)
	if err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, put("/c", "1"))
	var got []string
	for len(got) < 3 {
		for _, e := range <-w.Events() {
			got = append(got, fmt.Sprintf("%s=%s", e.Key, e.Value))
		}
	}
	if want := "/a=2 /b=1 /c=1"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestSnapshotOpensAsStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "state.db"))
	mustCommit(t, s, put("/a", "1"))
	lazy := put("/l", "1")
	lazy.Lazy = true
	mustCommit(t, s, lazy)
	var b bytes.Buffer
	if err := s.Snapshot(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "copy.db")
	if err := os.WriteFile(copied, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, copied)
	for _, k := range []string{"/a", "/l"} {
		if _, err := c.Get(context.Background(), k, 0); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
}

// TestUnusableFiles: each is refused with one line, and not one byte changes.
func TestUnusableFiles(t *testing.T) {
	filled := filepath.Join(t.TempDir(), "filled.db")
	s := open(t, filled)
	for i := range 200 {
		mustCommit(t, s, put(fmt.Sprintf("/k/%d", i), strings.Repeat("x", 500)))
	}
	s.Close()
	good, err := os.ReadFile(filled)
	if err != nil {
		t.Fatal(err)
	}
	damage := func(from, to int) []byte {
		b := bytes.Clone(good)
		for i := from; i < min(to, len(b)); i++ {
			b[i] ^= 0x5a
		}
		return b
	}
	newer := bytes.Clone(good)
	for _, c := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"not a database", bytes.Repeat([]byte("nonsense"), 4096), "damaged"},
		{"both meta pages gone", damage(0, 2*os.Getpagesize()), "damaged"},
		{"pages in the middle", damage(len(good)/2, len(good)/2+6*os.Getpagesize()), "damaged"},
		{"cut off", good[:len(good)/2], "damaged"},
		{"newer layout", newer, "newer orch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			os.WriteFile(path, c.content, 0o600)
			if c.name == "newer layout" {
				setVersion(t, path, layoutVersion+1)
			}
			before, _ := os.ReadFile(path)
			s, err := Open(Config{Path: path})
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is %q, want one line with %q", err, c.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

func setVersion(t *testing.T, path string, v uint64) {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bbolt.Tx) error { return putUint(tx.Bucket(bucketMeta), metaVersion, v) }); err != nil {
		t.Fatal(err)
	}
}

func TestLockedByAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	open(t, path)
	if _, err := Open(Config{Path: path}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("error %v", err)
	}
}

// TestFullDisk: writes are refused, reads go on, and writes work again with room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mounting a small tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := open(t, filepath.Join(dir, "state.db"))
	mustCommit(t, s, put("/first", "1"))
	ballast := filepath.Join(dir, "ballast")
	os.WriteFile(ballast, make([]byte, 1<<20), 0o600)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = s.Commit(context.Background(), put(fmt.Sprintf("/k/%d", n), strings.Repeat("x", 100_000)))
	}
	if err == nil || !strings.Contains(err.Error(), datastore.ErrNoSpace.Error()) {
		t.Fatalf("after %d writes: %v", n, err)
	}
	for i := range n - 1 {
		if _, err := s.Get(context.Background(), fmt.Sprintf("/k/%d", i), 0); err != nil {
			t.Errorf("reading with a full disk: %v", err)
		}
	}
	os.Remove(ballast)
	mustCommit(t, s, put("/again", strings.Repeat("x", 100_000)))
	s.Close()
	s = open(t, filepath.Join(dir, "state.db"))
	if _, err := s.Get(context.Background(), "/again", 0); err != nil {
		t.Error(err)
	}
}

func TestCompactionByAgeAndSize(t *testing.T) {
	s, err := Open(Config{Path: filepath.Join(t.TempDir(), "state.db"), KeepHistory: time.Hour, KeepBytes: 64 << 10, CompactAt: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 300 {
		mustCommit(t, s, put("/a", strings.Repeat(fmt.Sprint(i%10), 1000)))
	}
	if _, err := s.Get(context.Background(), "/a", 2); err == nil {
		t.Error("300 kB of history are kept where 64 kB are allowed")
	}
	if _, err := s.Get(context.Background(), "/a", 0); err != nil {
		t.Error(err)
	}
}

// TestPagesExpireByAge: where few versions are replaced nothing was ever compacted, and a token of a list
// served for days.
func TestPagesExpireByAge(t *testing.T) {
	s, err := Open(Config{Path: filepath.Join(t.TempDir(), "state.db"), KeepHistory: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// The writer looks at the time once it has answered: it takes a question in turn afterwards.
	looked := func() {
		t.Helper()
		if err := s.Compact(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	first := mustCommit(t, s, put("/a", "1"))
	looked()
	if old := s.Oldest(); old > first {
		t.Fatalf("revision %d is too old at once, the oldest is %d", first, old)
	}
	time.Sleep(5 * time.Millisecond)
	last := mustCommit(t, s, put("/a", "2"))
	if looked(); s.Oldest() != first {
		t.Errorf("after revision %d the oldest is %d, want %d", last, s.Oldest(), first)
	}
	if _, err := s.Get(context.Background(), "/a", first); err != nil {
		t.Errorf("one replaced version was worth a write: %v", err)
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, parallel := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("callers=%d", parallel), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "state.db"))
			value := strings.Repeat("x", 1024)
			b.SetParallelism(parallel)
			n := make(chan int, 1)
			n <- 0
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := <-n
					n <- i + 1
					if _, err := s.Commit(context.Background(), put(fmt.Sprintf("/registry/configmaps/default/c%d", i), value)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
