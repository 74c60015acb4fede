package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"orch/e2e/lab"
)

// sleeps is for how long nothing may run in a process at rest. What is due by the
// clock (leases every ten seconds, a look at the node beside them) must leave such gaps.
const sleeps = 4 * time.Second

// TestAtRestNothingRuns: a poll in any part or library, be it as cheap as can be, wakes up the
// machine. Load moves timers but adds none, so one gap within a minute is enough.
func TestAtRestNothingRuns(t *testing.T) {
	l := lab.New(t)
	one, two := l.Host("one"), l.Host("two")
	one.Images()
	server := one.StartServer()
	agent := two.StartAgent(server)
	agent.WaitReady(60 * time.Second)
	c := newCluster(t, one)
	c.Sleeper("resting", "nodeName: one")
	c.Ready("resting")
	for _, p := range []*lab.Process{server, agent} {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			atRest(t, p)
		})
	}
}

// atRest waits for a gap in which no thread of the process came to run.
func atRest(t *testing.T, p *lab.Process) {
	var seen []string
	last, since := ran(t, p.PID()), time.Now()
	for start := time.Now(); time.Since(start) < time.Minute; {
		time.Sleep(100 * time.Millisecond)
		now := ran(t, p.PID())
		if now == last && time.Since(since) >= sleeps {
			return
		}
		if now != last {
			seen = append(seen, fmt.Sprintf("%.1fs: %d", time.Since(start).Seconds(), now-last))
			last, since = now, time.Now()
		}
	}
	t.Errorf("never quiet for %v; threads came to run at: %v", sleeps, seen)
}

// ran is how often threads of the process were given a processor so far: they gave it up
// as often.
func ran(t *testing.T, pid int) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("the threads of process %d: %v", pid, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) { // a thread that ended
			continue
		}
		for l := range strings.Lines(string(b)) {
			if name, v, ok := strings.Cut(l, ":"); ok && strings.HasSuffix(name, "ctxt_switches") {
				i, err := strconv.Atoi(strings.TrimSpace(v))
				if err != nil {
					t.Fatal(err)
				}
				n += i
			}
		}
	}
	return n
}
