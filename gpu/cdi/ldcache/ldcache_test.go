package ldcache

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// hostCache is the cache of this machine, which ldconfig wrote.
func hostCache(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cache")
	if out, err := exec.Command("/sbin/ldconfig", "-C", path).CombinedOutput(); err != nil {
		t.Fatalf("ldconfig: %v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHostCache: what ldconfig wrote is read, and written again is the same for ldconfig -p.
func TestHostCache(t *testing.T) {
	b := hostCache(t)
	entries, err := Parse(b)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	again := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(again, Append(nil, entries), 0o644); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(t.TempDir(), "first")
	if err := os.WriteFile(first, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := listed(t, again), listed(t, first); !reflect.DeepEqual(got, want) {
		t.Errorf("ldconfig lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// listed is what ldconfig -p says, without what we leave out.
func listed(t *testing.T, path string) []string {
	t.Helper()
	out, err := exec.Command("/sbin/ldconfig", "-p", "-C", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "=>") && !strings.Contains(line, "hwcap") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	slices.Sort(lines)
	return lines
}

// TestOrder: the loader searches by halves, so every name must be found by its order.
func TestOrder(t *testing.T) {
	flags, _ := FlagsFor(runtime.GOARCH)
	names := []string{"libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libc.so.6", "libz.so.1", "libX11.so.6", "libfoo.so.10", "libfoo.so.9", "lib10.so", "lib9.so"}
	var in []Entry
	for _, n := range names {
		in = append(in, Entry{Flags: flags, Name: n, Path: "/usr/lib/" + n})
	}
	out, err := Parse(Append(nil, in))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		left, right, found := 0, len(out)-1, false
		for left <= right && !found { // as the loader: the list descends
			mid := (left + right) / 2
			switch c := compare(n, out[mid].Name); {
			case c == 0:
				found = true
			case c < 0:
				left = mid + 1
			default:
				right = mid - 1
			}
		}
		if !found {
			t.Errorf("%s is not found", n)
		}
	}
	if compare("libfoo.so.10", "libfoo.so.9") <= 0 || compare("lib1", "liba") <= 0 {
		t.Error("numbers count as numbers and stand above letters")
	}
}

func TestFirstGivenIsFoundFirst(t *testing.T) {
	out, err := Parse(Append(nil, []Entry{{X86_64, "libcuda.so.1", "/ours", 0, 0}, {X86_64, "libcuda.so.1", "/image", 0, 0}, {3, "libcuda.so.1", "/32bit", 0, 0}}))
	if err != nil || out[0].Path != "/ours" || out[1].Path != "/image" || out[2].Path != "/32bit" {
		t.Errorf("%v %v", out, err)
	}
}

// TestDamaged: no cut or changed byte makes it panic.
func TestDamaged(t *testing.T) {
	b := Append(nil, []Entry{{X86_64, "a.so", "/a", 0, 0}, {X86_64, "b.so", "/b", 0, 0}})
	for n := range b {
		if e, err := Parse(b[:n]); err == nil && len(e) == 2 {
			t.Errorf("the first %d of %d bytes are taken", n, len(b))
		}
		c := bytes.Clone(b)
		c[n] ^= 0xff
		if _, err := Parse(c); err != nil && !errors.Is(err, ErrForm) {
			t.Error(err)
		}
	}
	if _, err := Parse([]byte(oldMagic + "\xff\xff\xff\xff")); !errors.Is(err, ErrForm) {
		t.Error(err)
	}
}

// TestOldForm: a cache that begins with the older form has the new one behind it.
func TestOldForm(t *testing.T) {
	old := append([]byte(oldMagic), 1, 0, 0, 0)
	old = append(old, make([]byte, oldEntry)...)
	for len(old)%8 != 0 {
		old = append(old, 0)
	}
	e, err := Parse(Append(old, []Entry{{X86_64, "a.so", "/a", 0, 0}}))
	if err != nil || len(e) != 1 || e[0].Path != "/a" {
		t.Errorf("%v %v", e, err)
	}
}
