package node

import (
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what the host is; it does not change while orch runs.
type Machine struct {
	CPUs        int
	MemoryBytes int64
	// DiskBytes is the size of the file system that holds the pods.
	DiskBytes int64
	// Hugepages maps a size in bytes to the bytes reserved.
	Hugepages map[int64]int64
	Info      core.NodeSystemInfo
}

// Inspect reads the machine. dir lies on the file system that holds the pods.
func Inspect(dir string) (Machine, error) {
	m := Machine{CPUs: goruntime.NumCPU(), Hugepages: map[int64]int64{}}
	memory, err := meminfo("MemTotal")
	if err != nil {
		return m, err
	}
	m.MemoryBytes = memory
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return m, fmt.Errorf("reading the size of %s: %w", dir, err)
	}
	m.DiskBytes = int64(fs.Blocks) * fs.Bsize
	pools, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	if err != nil {
		return m, fmt.Errorf("listing huge pages: %w", err)
	}
	for _, p := range pools {
		kb, err1 := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "hugepages-"), "kB"), 10, 64)
		n, err2 := strconv.ParseInt(line(filepath.Join(p, "nr_hugepages")), 10, 64)
		if err1 == nil && err2 == nil {
			m.Hugepages[kb<<10] = n * kb << 10
		}
	}
	m.Info = core.NodeSystemInfo{
		MachineID: line("/etc/machine-id"), BootID: line("/proc/sys/kernel/random/boot_id"), SystemUUID: line("/sys/class/dmi/id/product_uuid"),
		KernelVersion: line("/proc/sys/kernel/osrelease"), OSImage: osImage(), OperatingSystem: "linux", Architecture: goruntime.GOARCH,
	}
	if m.Info.SystemUUID == "" {
		m.Info.SystemUUID = m.Info.MachineID
	}
	return m, nil
}

// line is the first line of a file, empty if it cannot be read.
func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(first)
}

func osImage() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}

func meminfo(field string) (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("reading the machine's memory: %w", err)
	}
	for l := range strings.Lines(string(b)) {
		w := strings.Fields(l)
		if len(w) >= 2 && w[0] == field+":" {
			kb, err := strconv.ParseInt(w[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading the machine's memory: %w", err)
			}
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("reading the machine's memory: no %s in /proc/meminfo", field)
}

// capacity is all that the machine has.
func (m Machine) capacity(maxPods int) core.ResourceList {
	out := core.ResourceList{
		core.ResourceCPU:              *resource.NewQuantity(int64(m.CPUs), resource.DecimalSI),
		core.ResourceMemory:           *resource.NewQuantity(m.MemoryBytes, resource.BinarySI),
		core.ResourceEphemeralStorage: *resource.NewQuantity(m.DiskBytes, resource.BinarySI),
		core.ResourcePods:             *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	for size, bytes := range m.Hugepages {
		name := core.ResourceName(core.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String())
		out[name] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return out
}

// evictionMemory and evictionDiskPercent are what upstream keeps back by its default hard
// eviction thresholds.
const (
	evictionMemory      = 100 << 20
	evictionDiskPercent = 10
)

// Allocatable is what pods may ask for: the capacity less what is reserved.
func Allocatable(capacity, reserved core.ResourceList) core.ResourceList {
	out := core.ResourceList{}
	for name, q := range capacity {
		q = q.DeepCopy()
		if r, ok := reserved[name]; ok {
			q.Sub(r)
		}
		switch name {
		case core.ResourceMemory:
			q.Sub(*resource.NewQuantity(evictionMemory, resource.BinarySI))
			for other, pages := range capacity {
				if strings.HasPrefix(string(other), core.ResourceHugePagesPrefix) {
					q.Sub(pages)
				}
			}
		case core.ResourceEphemeralStorage:
			q = *resource.NewQuantity(q.Value()*(100-evictionDiskPercent)/100, resource.DecimalSI)
		}
		if q.Sign() < 0 {
			q = *resource.NewQuantity(0, q.Format)
		}
		out[name] = q
	}
	return out
}
