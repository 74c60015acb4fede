package pause

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestProgramIsAnExecutable(t *testing.T) {
	for _, m := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64} {
		b := program(m)
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			t.Fatal(m, err)
		}
		if f.Machine != m || len(f.Progs) != 1 || f.Progs[0].Filesz != uint64(len(b)) || f.Entry != base+120 {
			t.Errorf("%v: %+v", m, f.FileHeader)
		}
	}
	if n := len(arm64Code) * 4; n != 4+52 {
		t.Errorf("the action lies %d bytes behind adr, which says 52", n-4)
	}
	if n := len(amd64Code); n != 17+19 {
		t.Errorf("the action lies %d bytes behind lea, which says 19", n-17)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// ignores tells whether a process ignores a signal. Whoever runs the tests may ignore
// others, which children inherit.
func ignores(t *testing.T, pid int, s unix.Signal) bool {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var ignored uint64
	if _, after, ok := strings.Cut(string(status), "SigIgn:\t"); ok {
		fmt.Sscanf(after, "%x", &ignored)
	}
	return ignored&(1<<(s-1)) != 0
}

func TestHoldsANamespace(t *testing.T) {
	dir := t.TempDir()
	pin := filepath.Join(dir, "ns", "pid")
	pid, err := Start(filepath.Join(dir, "root"), pin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Stop(pin); err != nil {
			t.Error(err)
		}
	})
	if again, err := Start(filepath.Join(dir, "root"), pin); err != nil || again != pid {
		t.Errorf("a second start: %d, %v; want %d", again, err, pid)
	}
	// An orphan in the namespace is reaped by process 1.
	out, err := exec.Command("nsenter", "--pid="+pin, "sh", "-c", "(sh -c 'exit 0' &) ; echo ok").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Fatalf("entering: %s, %v", out, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65535", "CapEff:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in %s", want, status)
		}
	}
	// It is there before its program has begun.
	eventually(t, "SIGCHLD is ignored", func() bool { return ignores(t, pid, unix.SIGCHLD) })
	if err := Stop(pin); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process ends", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
		return os.IsNotExist(err)
	})
	if err := Stop(pin); err != nil {
		t.Error("a second stop:", err)
	}
}
