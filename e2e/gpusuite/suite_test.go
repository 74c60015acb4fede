//go:build gpusuite

package gpusuite

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"orch/e2e/lab"
	"orch/gpu/device"
	"orch/gpu/inventory"
	"orch/gpu/nvml"
	"orch/gpu/sysfs"
)

var (
	out  = flag.String("out", "report.json", "file of the report; what is recorded of the machine lies beside it")
	soak = flag.Duration("soak", 10*time.Minute, "how long the soak and the watch for growth last together")
)

// check is one row of the suite.
type check struct {
	id, name string
	// limit of the whole check.
	limit time.Duration
	run   func(*run)
}

// checks are in the order of GPU.md's table: what is cheap and harmless first.
var checks = []check{
	{"H1", "discovery against nvidia-smi", time.Minute, discovery},
	{"H2", "second tier against NVML", time.Minute, secondTier},
	{"H3", "the helper finds the library, and how fast", time.Minute, helperStart},
	{"H4", "functions that the driver lacks are known and not called", time.Minute, symbols},
	{"H5", "recording of the machine", time.Minute, record},
	{"H6", "labels", time.Minute, nodeLabels},
	{"H7", "CDI against NVIDIA's own", time.Minute, cdiSpec},
	{"H8", "CUDA in a container", 3 * time.Minute, cudaInContainer},
	{"H9", "no card without a request", 2 * time.Minute, noRequest},
	{"H10", "CUDA as a user", 2 * time.Minute, asUser},
	{"H11", "no hook program, no LD_LIBRARY_PATH", 2 * time.Minute, hookFree},
	{"H12", "waiting for events costs nothing", time.Minute, waitForEvents},
	{"H13", "a program's own XID", 2 * time.Minute, benignXID},
	{"H14", "recovery action and remapped rows", time.Minute, recovery},
	{"H15", "cost of a scrape", 3*time.Minute + *soak/2, scrape},
	{"H16", "figures under a known load", 2 * time.Minute, underLoad},
	{"H17", "memory by container", 3 * time.Minute, attribution},
	{"H18", "from the request to the first CUDA call", 10 * time.Minute, latency},
	{"H19", "a card is handed over clean", 3 * time.Minute, handOver},
	{"H20", "sharing: watchdog and MPS", 5 * time.Minute, sharing},
	{"H21", "memory to the host and back", 5 * time.Minute, suspend},
	{"H22", "the helper dies", time.Minute, helperDies},
	{"H23", "soak", 2*time.Minute + *soak/2, soakPods},
}

// run is one check under way.
type run struct {
	*testing.T
	ctx     context.Context
	suite   *suite
	result  Result
	machine device.Machine
}

// figure notes a number of the report.
func (r *run) figure(name string, value any) {
	if r.result.Figures == nil {
		r.result.Figures = map[string]any{}
	}
	r.result.Figures[name] = value
}

func (r *run) note(format string, args ...any) {
	r.result.Notes = append(r.result.Notes, fmt.Sprintf(format, args...))
}

// absent ends the check: the machine lacks what it needs.
func (r *run) absent(format string, args ...any) {
	r.Helper()
	r.note(format, args...)
	r.Skipf(format, args...)
}

// fail notes a failure and goes on.
func (r *run) fail(format string, args ...any) {
	r.Helper()
	r.note(format, args...)
	r.Errorf(format, args...)
}

func (r *run) must(err error) {
	r.Helper()
	if err != nil {
		r.note("%v", err)
		r.Fatal(err)
	}
}

// host runs a program on the host itself.
func (r *run) host(name string, args ...string) string {
	r.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		r.absent("there is no %s", name)
	}
	b, err := exec.CommandContext(r.ctx, path, args...).CombinedOutput()
	if err != nil {
		r.note("%s: %v", name, err)
		r.Fatalf("%s %v: %v\n%s", name, args, err, b)
	}
	return string(b)
}

// suite is what checks share.
type suite struct {
	t      *testing.T
	client *nvml.Client
	// node runs orch with the card whole, shared with it in parts; each is started when first
	// wanted, and the other stopped.
	node *node
}

func TestSuite(t *testing.T) {
	report := &Report{Version: 1, Taken: time.Now().UTC().Truncate(time.Second), Orch: version(), Machine: probe()}
	if len(cards()) == 0 {
		t.Fatal("this machine has no NVIDIA card with a driver: nothing to check")
	}
	s := &suite{t: t}
	s.client = newClient(t)
	m, err := s.client.Machine(t.Context())
	if err != nil {
		t.Fatalf("the driver does not answer: %v", err)
	}
	for _, c := range checks {
		result := Result{ID: c.id, Name: c.name, Status: Fail, Notes: []string{"it did not end in time"}}
		began := time.Now()
		t.Run(c.id, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			defer cancel()
			r := &run{T: t, ctx: ctx, suite: s, machine: m, result: Result{ID: c.id, Name: c.name}}
			defer func() {
				result = r.result
				switch {
				case t.Failed():
					result.Status = Fail
				case t.Skipped():
					result.Status = Absent
				default:
					result.Status = Pass
				}
			}()
			c.run(r)
		})
		if result.Seconds = time.Since(began).Seconds(); result.ID == "" || !wanted(c.id) {
			continue
		}
		report.Add(result)
		if err := report.Write(*out); err != nil {
			t.Fatal(err)
		}
	}
}

// wanted: -test.run may name some checks only.
func wanted(id string) bool {
	pattern := flag.Lookup("test.run").Value.String()
	_, sub, named := strings.Cut(pattern, "/")
	return !named || sub == "" || strings.Contains("|"+strings.Trim(sub, "^$()")+"|", "|"+id+"|")
}

// beside is a file of the suite's folder.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

// cards are those that the kernel has.
func cards() []string {
	m, err := filepath.Glob("/dev/nvidia[0-9]*")
	if err != nil {
		return nil
	}
	return m
}

func version() string {
	b, _ := exec.Command(lab.Binary(), "--version").Output()
	return strings.TrimSpace(string(b))
}

// probe says what kind of machine this is.
func probe() map[string]string {
	text := func(path string) string {
		b, _ := os.ReadFile(path)
		return strings.TrimSpace(string(b))
	}
	p := map[string]string{
		"arch": runtime.GOARCH, "cores": fmt.Sprint(runtime.NumCPU()), "kernel": text("/proc/sys/kernel/osrelease"), "kernelVersion": text("/proc/version"),
		"product": text("/sys/class/dmi/id/product_name"), "driverModule": text("/proc/driver/nvidia/version"), "cgroup": "v1",
		"devices": strings.Join(cards(), " "), "libraries": strings.Join(nvml.Find("/"), " "), "uid": fmt.Sprint(os.Getuid()),
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		p["cgroup"] = "v2"
	}
	return p
}

func newClient(t testing.TB) *nvml.Client {
	t.Helper()
	c, err := nvml.New(nvml.Config{Program: func() (*os.File, error) { return os.Open(beside("orch-nvml")) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// whole is the machine as the agent sees it: both tiers in one.
func (r *run) whole() device.Machine {
	r.Helper()
	low, err := sysfs.New(sysfs.Config{}).Machine(r.ctx)
	r.must(err)
	return inventory.Merge(low, r.machine)
}
