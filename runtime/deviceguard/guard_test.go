package deviceguard

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"orch/runtime/deviceguard/guardtest"
)

func TestRules(t *testing.T) {
	spec := func(d ...specs.LinuxDeviceCgroup) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: d}}}
	}
	none := specs.LinuxDeviceCgroup{Access: "rwm"}
	card := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(195)), Minor: new(int64(0)), Access: "rw"}
	for name, tc := range map[string]struct {
		spec *specs.Spec
		want []Rule
	}{
		"a card":     {spec(none, card), []Rule{{"c", 195, 0, "rw"}}},
		"none":       {spec(none), nil},
		"everything": {spec(none, card, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}), nil},
		"nothing":    {&specs.Spec{}, nil},
	} {
		if got := Rules(tc.spec); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestListIsMended: cgroup v1, where a reload wrote a list without the card.
func TestListIsMended(t *testing.T) {
	rules := []Rule{{"c", 195, 0, "rw"}, {"c", 195, 255, "rw"}, {"c", 507, 0, "rw"}}
	for name, tc := range map[string]struct {
		list    string
		allowed string
	}{
		"all there":       {"c 1:3 rwm\nc 195:0 rw\nc 195:255 rwm\nc 507:* rw\n", ""},
		"everything":      {"a *:* rwm\n", ""},
		"the card lost":   {"c 1:3 rwm\nc 195:255 rw\nc 507:0 rw\n", "c 195:0 rw"},
		"only to be read": {"c 195:0 r\nc 195:255 rw\nc 507:0 rw\n", "c 195:0 rw"},
		"a block device":  {"b 195:0 rw\nc 195:255 rw\nc 507:0 rw\n", "c 195:0 rw"},
		"only mknod":      {"c *:* m\nc 195:255 rw\nc 507:0 rw\n", "c 195:0 rw"},
	} {
		g := Guard{Mount: t.TempDir()}
		dir := filepath.Join(g.Mount, "devices", "kubepods", "x")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"devices.list": tc.list, "devices.allow": ""} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		said, err := g.Check("id", "kubepods/x", rules)
		if err != nil || (said == "") != (tc.allowed == "") || !strings.Contains(said, tc.allowed) {
			t.Errorf("%s: %q, %v", name, said, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "devices.allow")); err != nil || string(b) != tc.allowed {
			t.Errorf("%s: allowed %q, %v", name, b, err)
		}
		if said, err := g.Check("id", "kubepods/gone", rules); said != "" || err != nil {
			t.Errorf("%s: a group that is gone: %q, %v", name, said, err)
		}
	}
}

func loaded(t *testing.T, allow bool) int {
	t.Helper()
	fd, err := guardtest.Load(allow)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// TestProgramIsMended: cgroup v2, in a hierarchy mounted beside whatever the machine has. The
// runtime's program is replaced, joined by another, or taken away, as a reload does; it comes back alone,
// also for a guard of a later orch.
func TestProgramIsMended(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("none", mount, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mount, unix.MNT_DETACH) })
	g := Guard{Mount: mount, V2: true, Pins: filepath.Join(t.TempDir(), "pins")}
	t.Cleanup(func() { unix.Unmount(g.Pins, unix.MNT_DETACH) })
	group := "orch-guard-" + filepath.Base(filepath.Dir(mount))
	if err := os.Mkdir(filepath.Join(mount, group), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(filepath.Join(mount, group)) })
	in := func(f func(dir int) error) {
		t.Helper()
		if err := inGroup(filepath.Join(mount, group), f); err != nil {
			t.Fatal(err)
		}
	}
	ids := func() (out []uint32) {
		in(func(dir int) (err error) { out, err = attached(dir); return err })
		return out
	}
	if err := g.Keep("c1", group); err == nil {
		t.Error("a group without a program was taken for one of the runtime's")
	}
	rule := []Rule{{"c", 195, 0, "rw"}}
	own, other := loaded(t, true), loaded(t, false)
	in(func(dir int) error { return attach(dir, own) })
	want := ids()
	if err := g.Keep("c1", group); err != nil {
		t.Fatal(err)
	}
	for name, harm := range map[string]func(dir int) error{
		"nothing":  func(int) error { return nil },
		"joined":   func(dir int) error { return attach(dir, other) },
		"gone":     func(dir int) error { return detach(dir, want[0]) },
		"replaced": func(dir int) error { return errors.Join(attach(dir, other), detach(dir, want[0])) },
	} {
		in(harm)
		harmed := !slices.Equal(ids(), want)
		g := Guard{Mount: g.Mount, V2: true, Pins: g.Pins}
		said, err := g.Check("c1", group, rule)
		if err != nil || (said != "") != harmed {
			t.Errorf("%s: %q, %v", name, said, err)
		}
		if got := ids(); !slices.Equal(got, want) {
			t.Errorf("%s: programs are %v, want %v", name, got, want)
		}
	}
	if err := g.Forgotten(func(id string) bool { return id == "c1" }); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(g.Pins, "c1")); err != nil {
		t.Error(err)
	}
	if err := g.Forgotten(func(string) bool { return false }); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(g.Pins, "c1")); err == nil {
		t.Error("what was kept of a container outlives it")
	}
	// One that was started before there was a guard is taken as it is.
	if said, err := g.Check("c2", group, rule); said != "" || err != nil {
		t.Errorf("%q, %v", said, err)
	}
	if _, err := os.Stat(filepath.Join(g.Pins, "c2")); err != nil {
		t.Error(err)
	}
}
