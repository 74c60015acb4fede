// Package deviceguard keeps the device rules of running containers as the runtime wrote
// them. Others write there too: systemd, told to reload, sets the rules of what it takes for its own,
// and a container loses its GPU while it runs. On cgroup v2 the rules are a program attached to
// the control group: it is pinned when the container starts, compared, and attached again where
// another took its place. On v1 they are lines of devices.list. It owns the pins and nothing
// else; it refuses to invent rules: what it puts back is what was there.
//
// Start reading at Guard.Check; program.go speaks with the kernel.
package deviceguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Rule is a device that a container may use.
type Rule struct {
	Type   string `json:"type"` // "c" or "b"
	Major  int64  `json:"major"`
	Minor  int64  `json:"minor"`
	Access string `json:"access"` // of "rwm"
}

// String is the rule as a line of devices.list and devices.allow.
func (r Rule) String() string { return fmt.Sprintf("%s %d:%d %s", r.Type, r.Major, r.Minor, r.Access) }

// Rules are the single devices that a specification allows. A container that may use
// everything has none to lose.
func Rules(spec *specs.Spec) []Rule {
	if spec.Linux == nil || spec.Linux.Resources == nil {
		return nil
	}
	var out []Rule
	for _, d := range spec.Linux.Resources.Devices {
		switch {
		case d.Allow && d.Major == nil:
			return nil
		case d.Allow && d.Minor != nil && (d.Type == "c" || d.Type == "b"):
			out = append(out, Rule{d.Type, *d.Major, *d.Minor, d.Access})
		}
	}
	return out
}

// Guard of the containers of one engine.
type Guard struct {
	// Mount is where control groups are mounted; V2 tells that it is the unified hierarchy.
	Mount string
	V2    bool
	// Pins is a folder for pinned programs; a file system is mounted there when it is needed.
	Pins string
}

// Keep remembers the rules of a container that the runtime has just made.
func (g Guard) Keep(id, cgroup string) error {
	if !g.V2 {
		return nil // the list can be read at any time
	}
	if err := g.mountPins(); err != nil {
		return err
	}
	return inGroup(filepath.Join(g.Mount, cgroup), func(dir int) error {
		ids, err := attached(dir)
		if err != nil {
			return err
		}
		if len(ids) != 1 {
			return fmt.Errorf("remembering the device rules: %d programs are attached to %s, the runtime attaches one", len(ids), cgroup)
		}
		return pin(ids[0], filepath.Join(g.Pins, id))
	})
}

// Check compares a running container's rules with what they should be, puts back what is
// missing, and says what it did; "" if all is well.
func (g Guard) Check(id, cgroup string, rules []Rule) (repaired string, err error) {
	if len(rules) == 0 {
		return "", nil
	}
	if g.V2 {
		repaired, err = g.checkProgram(id, cgroup)
	} else {
		repaired, err = g.checkList(cgroup, rules)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // the container ended meanwhile
	}
	return repaired, err
}

// Forget drops what was kept of a container.
func (g Guard) Forget(id string) error {
	if err := os.Remove(filepath.Join(g.Pins, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Forgotten drops what was kept of containers that are no more.
func (g Guard) Forgotten(alive func(id string) bool) error {
	list, err := os.ReadDir(g.Pins)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range list {
		own := strings.Contains(e.Name(), ".") // the file system's
		if !own && !alive(e.Name()) {
			err = errors.Join(err, g.Forget(e.Name()))
		}
	}
	return err
}

func (g Guard) checkList(cgroup string, rules []Rule) (string, error) {
	dir := filepath.Join(g.Mount, "devices", cgroup)
	b, err := os.ReadFile(filepath.Join(dir, "devices.list"))
	if err != nil {
		return "", err
	}
	lost := missing(string(b), rules)
	for _, r := range lost {
		f, err := os.OpenFile(filepath.Join(dir, "devices.allow"), os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		_, err = f.WriteString(r.String())
		if err = errors.Join(err, f.Close()); err != nil {
			return "", fmt.Errorf("allowing %s in %s: %w", r, cgroup, err)
		}
	}
	if len(lost) == 0 {
		return "", nil
	}
	return fmt.Sprintf("allowed %v again", lost), nil
}

// missing are the rules that no line of devices.list covers.
func missing(list string, rules []Rule) (out []Rule) {
	for _, r := range rules {
		found := false
		for line := range strings.Lines(list) {
			found = found || covers(strings.Fields(line), r)
		}
		if !found {
			out = append(out, r)
		}
	}
	return out
}

func covers(line []string, r Rule) bool {
	if len(line) != 3 || line[0] != "a" && line[0] != r.Type {
		return false
	}
	major, minor, _ := strings.Cut(line[1], ":")
	if major != "*" && major != fmt.Sprint(r.Major) || minor != "*" && minor != fmt.Sprint(r.Minor) {
		return false
	}
	return !strings.ContainsFunc(r.Access, func(a rune) bool { return !strings.ContainsRune(line[2], a) })
}

func (g Guard) checkProgram(id, cgroup string) (string, error) {
	own, err := pinned(filepath.Join(g.Pins, id))
	if errors.Is(err, fs.ErrNotExist) {
		return "", g.Keep(id, cgroup) // an older orch started it
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(own.fd)
	repaired := ""
	return repaired, inGroup(filepath.Join(g.Mount, cgroup), func(dir int) error {
		ids, err := attached(dir)
		if err != nil {
			return err
		}
		put, away := plan(own.id, ids)
		if !put && len(away) == 0 {
			return nil
		}
		// Ours first: without a program everything would be allowed for a moment.
		if put {
			if err := attach(dir, own.fd); err != nil {
				return fmt.Errorf("attaching the device program of %s again: %w", cgroup, err)
			}
		}
		for _, other := range away {
			if err := detach(dir, other); err != nil {
				return fmt.Errorf("detaching the device program %d from %s: %w", other, cgroup, err)
			}
		}
		repaired = fmt.Sprintf("attached own program: %v, detached those of others: %v", put, away)
		return nil
	})
}

// plan says what makes our program the only one: of several each must allow a device.
func plan(own uint32, ids []uint32) (put bool, away []uint32) {
	put = true
	for _, id := range ids {
		if id == own {
			put = false
		} else {
			away = append(away, id)
		}
	}
	return put, away
}
