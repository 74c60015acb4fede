package bolt

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// mapSize adds up this process's maps of a file.
func mapSize(t *testing.T, path string) (size uintptr) {
	t.Helper()
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if strings.HasSuffix(lines.Text(), path) {
			if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &from, &to); err != nil {
				t.Fatal(err)
			}
			size += to - from
		}
	}
	return size
}

// TestForgettingStaysInTheMap: pages were once given back to the end of the file, which bbolt
// grows ahead of its map. Other memory of the process was wiped, and it crashed anywhere.
func TestForgettingStaysInTheMap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	longer := false
	for i := range 200 {
		mustCommit(t, s, put(fmt.Sprintf("/k/%d", i), strings.Repeat("x", 500_000)))
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		err = s.db.View(func(tx *bbolt.Tx) error {
			size := mapSize(t, path)
			longer = longer || uintptr(st.Size()) > size
			if mapped(tx) > size {
				t.Fatalf("%d bytes would be forgotten of a map of %d", mapped(tx), size)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !longer {
		t.Error("the file was never longer than its map: this tests nothing")
	}
}
