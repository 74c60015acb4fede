package stats

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nodeCounters are those of the whole machine.
type nodeCounters struct {
	cpuNanos uint64
	// Memory in bytes. used is without what is free, workingSet also without the page
	// cache that nobody has touched lately: as the kubelet counts for its root cgroup.
	total, used, workingSet, rss, cache uint64
	swapTotal, swapFree                 uint64
	faults, majorFaults                 uint64
	tasks, maxPID                       int64
	network                             []interfaceCounters
}

// interfaceCounters are those of a network interface.
type interfaceCounters struct {
	name                                                                         string
	rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrs, txDrops uint64
}

// userHZ is the kernel's unit of CPU time in /proc/stat, the same on all machines.
const userHZ = 100

func readNode(root string) (nodeCounters, error) {
	var n nodeCounters
	proc := func(name string) string { return filepath.Join("/", root, "proc", name) }
	stat, err := os.ReadFile(proc("stat"))
	if err != nil {
		return n, err
	}
	n.cpuNanos = cpuNanos(stat)
	text, err := os.ReadFile(proc("meminfo"))
	if err != nil {
		return n, err
	}
	mem := keyed(text)
	kib := func(key string) uint64 { return mem[key+":"] << 10 }
	n.total, n.cache = kib("MemTotal"), kib("Cached")
	n.used = n.total - kib("MemFree")
	n.workingSet = n.used - min(n.used, kib("Inactive(file)"))
	n.rss = kib("AnonPages")
	n.swapTotal, n.swapFree = kib("SwapTotal"), kib("SwapFree")
	if text, err = os.ReadFile(proc("vmstat")); err == nil {
		vm := keyed(text)
		n.faults, n.majorFaults = vm["pgfault"], vm["pgmajfault"]
	}
	if text, err = os.ReadFile(proc("loadavg")); err == nil {
		if f := strings.Fields(string(text)); len(f) > 3 {
			_, tasks, _ := strings.Cut(f[3], "/")
			n.tasks, _ = strconv.ParseInt(tasks, 10, 64)
		}
	}
	if text, err = os.ReadFile(proc("sys/kernel/pid_max")); err == nil {
		n.maxPID, _ = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	n.network = readInterfaces(root, 1)
	return n, nil
}

// cpuNanos sums the first line of /proc/stat without idle time and without guests, which
// are counted as user time already.
func cpuNanos(stat []byte) uint64 {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	var ticks uint64
	for i, f := range strings.Fields(string(line)) {
		n, err := strconv.ParseUint(f, 10, 64)
		if err == nil && i != 4 && i != 5 && i < 9 { // 4 idle, 5 iowait, from 9 on guests
			ticks += n
		}
	}
	return ticks * (1e9 / userHZ)
}

// keyed reads lines of a key and a number.
func keyed(text []byte) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 {
			if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				out[f[0]] = n
			}
		}
	}
	return out
}

// readInterfaces reads the network namespace of a process, without loopback and what
// hangs on a bridge: the kubelet's choice. One that cannot be read has none.
func readInterfaces(root string, pid int) []interfaceCounters {
	f, err := os.Open(filepath.Join("/", root, "proc", strconv.Itoa(pid), "net", "dev"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []interfaceCounters
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		if name = strings.TrimSpace(name); !ok || name == "lo" || strings.HasPrefix(name, "veth") {
			continue
		}
		v := make([]uint64, 16)
		for i, f := range strings.Fields(rest) {
			if i < len(v) {
				v[i], _ = strconv.ParseUint(f, 10, 64)
			}
		}
		out = append(out, interfaceCounters{name: name, rxBytes: v[0], rxPackets: v[1], rxErrors: v[2], rxDropped: v[3],
			txBytes: v[8], txPackets: v[9], txErrs: v[10], txDrops: v[11]})
	}
	return out
}

// fileSystem is what statfs says, in bytes and inodes.
type fileSystem struct{ size, free, used, inodes, inodesFree, inodesUsed uint64 }

func readFileSystem(path string) (fileSystem, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return fileSystem{}, fmt.Errorf("looking at the file system of %s: %w", path, err)
	}
	unit := uint64(s.Frsize)
	return fileSystem{
		size: s.Blocks * unit, free: s.Bavail * unit, used: (s.Blocks - s.Bfree) * unit,
		inodes: s.Files, inodesFree: s.Ffree, inodesUsed: s.Files - s.Ffree,
	}, nil
}

func cores() int { return runtime.NumCPU() }
