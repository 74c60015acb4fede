package inventory

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/health"
)

var rewrite = flag.Bool("rewrite", false, "write what the commands print into the transcripts")

// TestTranscripts runs the fault scripts of testdata: each command on a line that begins
// with "> ", what it changed below it. Cards are named by their index at the start.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("transcripts: %v, %v", files, err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = play(t, string(want)) })
			if got == string(want) {
				return
			}
			if *rewrite {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("the transcript differs; run with -rewrite and read the diff. Got:\n%s", got)
		})
	}
}

// stage is one transcript being played.
type stage struct {
	t      *testing.T
	player *fakenvml.Player
	names  map[string]string // UUID -> "GPU 3"
	uuids  []string
	inv    *Inventory
	seq    uint64
	before State
	resets string // what a reset does: "ok", "fails", "unsupported"
	// end stops the inventory that runs and waits for it; file and boot are its memory.
	end        func()
	file, boot string
}

// play runs the commands and returns the transcript as it should be.
func play(t *testing.T, script string) string {
	s := &stage{t: t, names: map[string]string{}, resets: "ok", end: func() {}, file: filepath.Join(t.TempDir(), "health.json"), boot: "first"}
	ctx, cancel := context.WithCancel(t.Context())
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		switch command, ok := strings.CutPrefix(line, "> "); {
		case ok:
			fmt.Fprintln(&out, line)
			s.run(ctx, strings.Fields(command))
			synctest.Wait()
			out.WriteString(s.changes())
		case strings.HasPrefix(line, "#") || line == "":
			fmt.Fprintln(&out, line)
		}
	}
	s.end()
	cancel()
	synctest.Wait()
	return out.String()
}

// hostOf is what the second tier sees of the machine that is played: its bus and module.
type hostOf struct{ *fakenvml.Player }

func (h hostOf) Machine(ctx context.Context) (device.Machine, error) {
	m := h.Snapshot()
	for i, g := range m.GPUs {
		m.GPUs[i] = device.GPU{Index: i, UUID: g.UUID, Minor: g.Minor, PCI: g.PCI, Name: g.Name, NUMANode: g.NUMANode}
	}
	return device.Machine{Tier: device.TierSysfs, Host: m.Host, Module: m.Module, Driver: device.Driver{Version: m.Module.Version, LibraryVersion: m.Driver.LibraryVersion},
		GPUs: m.GPUs, NVSwitches: m.NVSwitches}, nil
}

func (h hostOf) Watch(ctx context.Context, _ func(device.Event)) error { <-ctx.Done(); return nil }

func (s *stage) start(ctx context.Context, name string, n int) {
	rec, err := fakenvml.Load(name)
	if err != nil {
		s.t.Fatal(err)
	}
	rec = fakenvml.Take(rec, n)
	s.player = fakenvml.New(rec)
	for i, g := range rec.Machine.GPUs {
		s.names[g.UUID] = fmt.Sprintf("GPU %d", i)
		s.uuids = append(s.uuids, g.UUID)
		for _, d := range g.MIGDevices() {
			s.names[d.UUID] = fmt.Sprintf("MIG %d:%d", i, d.Index)
		}
	}
	s.launch(ctx)
}

// launch starts an inventory over the player, as a start of orch does.
func (s *stage) launch(ctx context.Context) {
	policy, err := health.ParsePolicy("", "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.inv, err = New(Config{Host: hostOf{s.player}, Driver: s.player, Policy: policy, Memory: s.file, Boot: s.boot, Reset: func(context.Context, device.GPU) health.ResetDone {
		return map[string]health.ResetDone{"ok": {}, "fails": {Err: "the device is busy"}, "unsupported": {Err: "no reset method", Unsupported: true}}[s.resets]
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.inv.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	s.end = func() { cancel(); <-done }
}

// restart ends the inventory and starts another one; what it shows is told anew.
func (s *stage) restart(ctx context.Context) {
	s.end()
	s.seq, s.before = 0, State{}
	s.launch(ctx)
}

// run does one command.
func (s *stage) run(ctx context.Context, f []string) {
	commands := map[string]func(args []string){
		"machine": func(a []string) { s.start(ctx, a[0], s.number(a, 1, 99)) },
		"advance": func(a []string) {
			d, err := time.ParseDuration(a[0])
			if err != nil {
				s.t.Fatal(err)
			}
			time.Sleep(d)
		},
		"xid":   func(a []string) { s.player.Send(s.event(device.EventXID, a)) },
		"event": func(a []string) { s.player.Send(s.event(device.EventKind(a[0]), a[1:])) },
		"lose": func(a []string) {
			s.player.Fail(s.uuid(a), &device.Problem{Op: "card", Code: device.CodeGPULost, Text: "GPU is lost"})
		},
		"hang": func(a []string) {
			s.player.Fail(s.uuid(a), &device.Problem{Op: "card", Code: device.CodeHang, Text: "the driver did not answer within 20s"})
		},
		"crash": func(a []string) {
			s.player.Fail(s.uuid(a), &device.Problem{Op: "card", Code: device.CodeCrash, Text: "the helper ended during the call: signal: segmentation fault"})
		},
		"mend": func(a []string) { s.player.Fail(s.uuid(a), nil) },
		"break": func(a []string) {
			s.player.Break(&device.Problem{Op: "nvmlInit", Code: s.number(a, 0, 0), Text: strings.Join(a[1:], " ")})
		},
		"unbreak": func([]string) { s.player.Break(nil) },
		"set": func(a []string) {
			v, err := strconv.ParseFloat(a[2], 64)
			if err != nil {
				s.t.Fatal(err)
			}
			s.player.Set(s.uuid(a), device.Figure(a[1]), v)
		},
		"unsupported": func(a []string) { s.player.Unsupported(device.Figure(a[0])) },
		"holds": func(a []string) {
			s.player.SetProcesses(device.Process{PID: s.number(a, 1, 0), UUID: s.uuid(a), Kind: device.ProcessCompute})
		},
		"released": func([]string) { s.player.SetProcesses() },
		"drained":  func(a []string) { s.must(s.inv.Drained(ctx, Key{s.uuid(a), s.number(a, 1, -1)})) },
		"resets":   func(a []string) { s.resets = a[0] },
		"observe": func([]string) {
			figures, err := s.player.Figures(ctx, s.uuids...)
			s.must(err)
			s.must(s.inv.Observe(ctx, figures))
		},
		"restart": func([]string) { s.restart(ctx) },
		"reboot":  func([]string) { s.boot += "+"; s.restart(ctx) },
		"damage":  func([]string) { s.end(); s.must(os.WriteFile(s.file, []byte(`{"version": 1, "units": [`), 0o600)) },
		"refresh": func([]string) { s.must(s.inv.Refresh(ctx)) },
		"changed": func([]string) { s.player.Send(device.Event{Kind: device.EventChanged}) },
		"driver":  s.driver,
		"unload": func([]string) {
			s.player.Change(func(m *device.Machine) { m.Module = device.Module{State: device.ModuleUnused} })
		},
		"remove": func(a []string) {
			s.player.Change(func(m *device.Machine) {
				m.GPUs = slices.DeleteFunc(m.GPUs, func(g device.GPU) bool { return g.UUID == s.uuid(a) })
			})
		},
		"add": s.add,
		"create": func(a []string) {
			_, err := s.player.CreateInstance(ctx, s.uuid(a), s.number(a, 1, 0), nil)
			s.must(err)
		},
		"destroy": func(a []string) { s.must(s.player.DestroyInstance(ctx, s.uuid(a), s.number(a, 1, 0))) },
		"fabric-manager": func(a []string) {
			s.player.Change(func(m *device.Machine) { m.Host.FabricManager = new(a[0] == "on") })
		},
		"without": func(a []string) { s.player.Change(func(m *device.Machine) { m.Missing = append(m.Missing, a[0]) }) },
	}
	do, ok := commands[f[0]]
	if !ok {
		s.t.Fatalf("no command %q", f[0])
	}
	do(f[1:])
}

func (s *stage) must(err error) {
	if err != nil {
		s.t.Error(err)
	}
}

func (s *stage) uuid(a []string) string { return s.uuids[s.number(a, 0, 0)] }

func (s *stage) number(a []string, i, otherwise int) int {
	if i >= len(a) {
		return otherwise
	}
	n, err := strconv.Atoi(a[i])
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// event of a card: "3 79 gi=1 pid=42 name=python3 log".
func (s *stage) event(kind device.EventKind, a []string) device.Event {
	e := device.Event{Kind: kind, UUID: s.uuid(a), Data: uint64(s.number(a, 1, 0))}
	for _, w := range a[min(2, len(a)):] {
		k, v, _ := strings.Cut(w, "=")
		n, _ := strconv.Atoi(v) // a name has none
		switch k {
		case "gi":
			e.GI = new(n)
		case "pid":
			e.PID = n
		case "name":
			e.Process = v
		case "log":
			e.FromLog, e.UUID = true, ""
			for _, g := range s.player.Snapshot().GPUs {
				if g.UUID == s.uuid(a) {
					e.PCI = g.PCI.Address
				}
			}
		}
	}
	return e
}

// driver loads the module anew: "version uvm-major".
func (s *stage) driver(a []string) {
	major := uint32(s.number(a, 1, 0))
	s.player.Change(func(m *device.Machine) {
		m.Driver.Version, m.Driver.LibraryVersion = a[0], a[0]
		m.Module = device.Module{State: device.ModuleLoaded, Version: a[0], Majors: map[string]uint32{"nvidia": 195, "nvidia-uvm": major}}
	})
}

// add puts a second card like the first into the next slot.
func (s *stage) add([]string) {
	s.player.Change(func(m *device.Machine) {
		g := m.GPUs[0].Clone()
		g.Index, g.UUID, g.Minor, g.PCI.Address = len(m.GPUs), fmt.Sprintf("GPU-new-%d", len(m.GPUs)), new(len(m.GPUs)), "0000:f0:00.0"
		m.GPUs = append(m.GPUs, g)
		s.names[g.UUID] = fmt.Sprintf("GPU %d", g.Index)
		s.uuids = append(s.uuids, g.UUID)
	})
}

// changes prints what is new in the state since the last command.
func (s *stage) changes() string {
	if s.inv == nil {
		return ""
	}
	now := s.inv.State()
	var out strings.Builder
	if what := summary(now); what != summary(s.before) {
		fmt.Fprintf(&out, "  %s\n", what)
	}
	for _, n := range now.Notices {
		if n.Seq > s.seq {
			pid := ""
			if n.PID != 0 {
				pid = fmt.Sprintf(" pid %d", n.PID)
			}
			fmt.Fprintf(&out, "  event %s %s%s: %s\n", n.Type, n.Reason, pid, n.Message)
			s.seq = n.Seq
		}
	}
	for _, u := range sortedUnits(now) {
		k := Key{u.UUID, -1}
		if u.GI != nil {
			k.GI = *u.GI
		}
		if old, ok := s.before.Units[k]; !ok || old.State != u.State || old.Evict != u.Evict {
			fmt.Fprintf(&out, "  unit %s: %s evict=%v attempts=%d taints=%v\n", u.Name(), u.State, u.Evict, u.Attempts, u.Taints())
		}
	}
	for _, g := range now.Machine.GPUs {
		if list := now.XIDs[g.UUID]; len(list) != len(s.before.XIDs[g.UUID]) {
			var xids []uint64
			for _, x := range list {
				xids = append(xids, x.XID)
			}
			fmt.Fprintf(&out, "  XIDs of GPU %s: %v\n", g.UUID, xids)
		}
	}
	was := Conditions(s.before)
	for i, c := range Conditions(now) {
		if i >= len(was) || was[i] != c {
			fmt.Fprintf(&out, "  condition %s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	s.before = now
	text := out.String()
	for _, uuid := range slices.SortedFunc(maps.Keys(s.names), func(a, b string) int { return len(b) - len(a) }) {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "GPU "+uuid, s.names[uuid]), uuid, s.names[uuid])
	}
	return text
}

// summary is what can be given out.
func summary(s State) string {
	cards, mig := 0, map[string]int{}
	for _, g := range s.Machine.GPUs {
		if !g.MIG.Enabled() && s.Allocatable(g.UUID) {
			cards++
		}
		for _, d := range g.MIGDevices() {
			if s.Allocatable(d.UUID) {
				mig[d.Profile]++
			}
		}
	}
	text := fmt.Sprintf("tier %s, usable %v, %d of %d GPUs allocatable", s.Machine.Tier, s.Usable(), cards, len(s.Machine.GPUs))
	for _, p := range slices.Sorted(maps.Keys(mig)) {
		text += fmt.Sprintf(", %d×%s", mig[p], p)
	}
	return text
}
