package inventory

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
)

// remembering runs an inventory with a memory for a moment, and returns what it logged.
func remembering(t *testing.T, path string, do func(i *Inventory, p *fakenvml.Player)) (log string) {
	t.Helper()
	rec, err := fakenvml.Load("h200")
	if err != nil {
		t.Fatal(err)
	}
	p := fakenvml.New(rec)
	var b bytes.Buffer
	i, err := New(Config{Host: hostOf{p}, Driver: p, Memory: path, Boot: "b", Log: slog.New(slog.NewTextHandler(&b, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = i.Run(ctx) }()
	synctest.Wait()
	do(i, p)
	cancel()
	<-done
	return b.String()
}

// TestMemoryThatIsNoMemory: whatever the file has, cards are looked at anew, and it is said.
func TestMemoryThatIsNoMemory(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "half": `{"version":1,"boot":"b","units":[{"uu`, "newer": `{"version":99,"boot":"b"}`,
		"no such state":        `{"version":1,"boot":"b","units":[{"uuid":"GPU-1","state":"Fine"}]}`,
		"no card":              `{"version":1,"boot":"b","units":[{"state":"Failed"}]}`,
		"less than no attempt": `{"version":1,"boot":"b","units":[{"uuid":"GPU-1","state":"Failed","attempts":-4}]}`,
		"too large":            `{"version":1,"boot":"` + strings.Repeat("b", maxMemory) + `"}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "health.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			log := remembering(t, path, func(i *Inventory, p *fakenvml.Player) {
				if s := i.State(); len(s.Units) != 0 || !s.Allocatable(s.Machine.GPUs[0].UUID) {
					t.Errorf("%s: %+v", name, s.Units)
				}
				p.Send(device.Event{Kind: device.EventXID, UUID: i.State().Machine.GPUs[0].UUID, Data: 79})
				synctest.Wait()
			})
			if !strings.Contains(log, "begun anew") || !strings.Contains(log, path) {
				t.Errorf("%s: said %q", name, log)
			}
			if m, err := readMemory(path); err != nil || len(m.Units) != 1 || m.Units[0].Cause.XID != 79 {
				t.Errorf("%s: kept %+v, %v", name, m, err)
			}
		})
	}
}

// TestMemoryOnAFullDisk: what cannot be kept is told all the same, and tried again.
func TestMemoryOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "in-the-way")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "health.json")
		log := remembering(t, path, func(i *Inventory, p *fakenvml.Player) {
			uuid := i.State().Machine.GPUs[0].UUID
			p.Send(device.Event{Kind: device.EventXID, UUID: uuid, Data: 79})
			synctest.Wait()
			if i.State().Allocatable(uuid) {
				t.Error("it is given out")
			}
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			time.Sleep(saveAgain)
			synctest.Wait()
			if m, err := readMemory(path); err != nil || len(m.Units) != 1 {
				t.Errorf("after the disk has room: %+v, %v", m, err)
			}
		})
		if strings.Count(log, "cannot be kept") != 1 {
			t.Errorf("said %q", log)
		}
	})
}

func TestLately(t *testing.T) {
	now := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	s := State{XIDs: map[string][]Sighting{"a": {{79, now.Add(-time.Hour)}, {31, now.Add(-time.Minute)}, {31, now}, {13, now.Add(-6 * time.Minute)}}}}
	if last, counts := s.Lately("a", now); last != 13 || len(counts) != 1 || counts[31] != 2 {
		t.Errorf("%d, %v", last, counts)
	}
	if last, counts := s.Lately("b", now); last != 0 || counts != nil {
		t.Errorf("%d, %v", last, counts)
	}
}
