package containerd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
	containerdoci "github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"orch/runtime/oci"
)

// hostFacts looks once at what this machine offers.
func hostFacts() (oci.Host, error) {
	h := oci.Host{
		CgroupV2:       cgroups.Mode() == cgroups.Unified,
		Devices:        containerdoci.HostDevices,
		Device:         devicesAt,
		MinOOMScoreAdj: minOOMScoreAdj(),
	}
	_, err := os.Stat("/sys/fs/selinux/enforce")
	h.SELinux = err == nil
	h.SwapLimit = swapLimit(h.CgroupV2)
	h.X32 = hasX32()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return h, fmt.Errorf("reading own status: %w", err)
	}
	for line := range bytes.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "CapEff":
			mask, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return h, fmt.Errorf("reading own capabilities: %w", err)
			}
			h.Caps = oci.CapsOf(mask)
		case "Seccomp":
			h.Seccomp = true // the line is there when the kernel can filter
		}
	}
	return h, nil
}

// devicesAt describes a device node, or all below a folder.
func devicesAt(path string) ([]specs.LinuxDevice, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	var out []specs.LinuxDevice
	err = filepath.WalkDir(resolved, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		node, err := containerdoci.DeviceFromPath(p)
		if errors.Is(err, containerdoci.ErrNotADevice) && p != resolved {
			return nil
		}
		if err != nil {
			return err
		}
		node.Path = path + strings.TrimPrefix(p, resolved)
		out = append(out, *node)
		return nil
	})
	return out, err
}

// minOOMScoreAdj tries whether the score may be lowered; without the right to,
// the own one is the lowest.
func minOOMScoreAdj() int {
	const path, lowest = "/proc/self/oom_score_adj", -1000
	own, err := os.ReadFile(path)
	if err != nil {
		return lowest
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(own)))
	if err != nil {
		return lowest
	}
	if os.WriteFile(path, []byte(strconv.Itoa(n-1)), 0) != nil {
		return n
	}
	_ = os.WriteFile(path, own, 0)
	return lowest
}

// hasX32 asks for our own process by the x32 interface, which most kernels leave out.
func hasX32() bool {
	if runtime.GOARCH != "amd64" {
		return false
	}
	const x32getpid = 0x40000000 + 39
	pid, _, errno := unix.RawSyscall(x32getpid, 0, 0, 0)
	return errno == 0 && int(pid) == os.Getpid()
}

func swapLimit(v2 bool) bool {
	if v2 {
		found, _ := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
		return len(found) > 0
	}
	_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	return err == nil
}

// defaultSnapshotter is overlayfs where the file system under root can carry it.
func defaultSnapshotter(root string) string {
	if overlayutils.Supported(root) == nil {
		return "overlayfs"
	}
	return "native"
}

// oomKills counts the processes of a cgroup that the kernel killed for memory.
func oomKills(cgroup string) uint64 {
	if cgroup == "" {
		return 0
	}
	for _, f := range []string{
		filepath.Join("/sys/fs/cgroup", cgroup, "memory.events"),
		filepath.Join("/sys/fs/cgroup/memory", cgroup, "memory.oom_control"),
	} {
		if n, err := keyedValue(f, "oom_kill"); err == nil {
			return n
		}
	}
	return 0
}

// keyedValue reads one line of a cgroup file of names and numbers.
func keyedValue(path, key string) (uint64, error) {
	values, err := keyedValues(path)
	if err != nil {
		return 0, err
	}
	v, ok := values[key]
	if !ok {
		return 0, errors.New("no " + key + " in " + path)
	}
	return v, nil
}

func keyedValues(path string) (map[string]uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			out[name] = n
		}
	}
	return out, lines.Err()
}

func readNumber(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}
