package bolt

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"orch/datastore"
)

// crashEnv tells the test binary to be the child that writes until it is killed.
const crashEnv = "ORCH_TEST_CRASH_STORE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		writeUntilKilled(path)
	}
	os.Exit(m.Run())
}

// writeUntilKilled writes from 16 goroutines and prints, after the store has
// acknowledged it, every write: writer, count, revision, lazy.
func writeUntilKilled(path string) {
	s, err := Open(Config{Path: path, FlushAfter: 20 * time.Millisecond, KeepBytes: 1 << 20, CompactAt: 200, KeepHistory: time.Millisecond})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	fmt.Printf("open %d\n", s.Revision())
	for i := range 16 {
		go func() {
			for n := 0; ; n++ {
				lazy := n%4 == 3
				t := put(fmt.Sprintf("/w/%d", i), fmt.Sprint(n))
				t.Lazy = lazy
				if n%3 == 0 {
					t.Ops = append(t.Ops, datastore.Op{Key: fmt.Sprintf("/n/%d/%d", i, n), Value: []byte("x"), Expect: datastore.Any})
				}
				r, err := s.Commit(context.Background(), t)
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println("ack", i, n, r, lazy)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// TestKill9 kills the writing child at random points; after every reopening all
// acknowledged durable writes are there and no revision was given out twice.
func TestKill9(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	given := map[int64]bool{}
	newest := int64(0)
	for round := range 8 {
		durable, opened := crashOnce(t, path, given, &newest)
		if opened < newest && round > 0 {
			t.Logf("reopened at %d", opened)
		}
		s := open(t, path)
		if s.Revision() < newest {
			t.Fatalf("round %d: reopened at revision %d, but %d was given out", round, s.Revision(), newest)
		}
		for i, n := range durable {
			kv, err := s.Get(context.Background(), fmt.Sprintf("/w/%d", i), 0)
			var got int
			fmt.Sscan(string(kv.Value), &got)
			if err != nil || (got < n.count && kv.ModRevision <= n.revision) || kv.ModRevision < n.revision {
				t.Errorf("round %d: writer %d had %d acknowledged at %d, the store has %q at %d (%v)", round, i, n.count, n.revision, kv.Value, kv.ModRevision, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

type acked struct {
	count    int
	revision int64
}

func crashOnce(t *testing.T, path string, given map[int64]bool, newest *int64) (map[int]acked, int64) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), crashEnv+"="+path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	durable := map[int]acked{}
	var opened int64
	limit := 50 + rand.IntN(600)
	lines := bufio.NewScanner(out)
	for seen := 0; lines.Scan(); {
		var i, n int
		var r int64
		var lazy bool
		if _, err := fmt.Sscanf(lines.Text(), "open %d", &opened); err == nil {
			continue
		}
		if _, err := fmt.Sscanf(lines.Text(), "ack %d %d %d %t", &i, &n, &r, &lazy); err != nil {
			continue // a line cut short by the kill, which was not acknowledged to us
		}
		if given[r] {
			t.Fatalf("revision %d was given out twice", r)
		}
		given[r] = true
		*newest = max(*newest, r)
		if !lazy {
			durable[i] = acked{n, r}
		}
		if seen++; seen == limit {
			child.Process.Signal(syscall.SIGKILL)
		}
	}
	child.Wait()
	return durable, opened
}
