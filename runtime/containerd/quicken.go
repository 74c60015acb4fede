package containerd

import (
	"os"
	"path/filepath"
	"strings"
)

// ownCgroupFile is a cgroup.procs file of the cgroup that this process is in.
func ownCgroupFile() string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || strings.HasPrefix(parts[1], "name=") {
			continue
		}
		file := filepath.Join("/sys/fs/cgroup", parts[1], parts[2], "cgroup.procs")
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// quicken moves this process into the cgroup it is in. That changes nothing,
// but makes the kernel wait out a grace period now (10 ms and more), beside our own
// work, instead of later when runc moves the container's first process: for a moment after one
// such move the next ones are fast.
func (e *Engine) quicken() {
	if e.ownCgroup == "" {
		return
	}
	f, err := os.OpenFile(e.ownCgroup, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString("0") // slower without, nothing else
}
