package containerd

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"orch/runtime/engine"
)

// usageAge is how long a measured size of a container's layer is good for:
// measuring walks all its files.
const usageAge = 30 * time.Second

// usageCache holds the sizes of containers' layers.
type usageCache struct {
	mu   sync.Mutex
	seen map[string]usageEntry
}

type usageEntry struct {
	at            time.Time
	bytes, inodes uint64
}

func (u *usageCache) forget(id string) {
	u.mu.Lock()
	delete(u.seen, id)
	u.mu.Unlock()
}

// Stats reads the counters of a container's cgroup.
func (e *Engine) Stats(ctx context.Context, id string) (engine.Stats, error) {
	c, err := e.find(id)
	if err != nil {
		return engine.Stats{}, err
	}
	if _, _, err := c.running(); err != nil {
		return engine.Stats{}, err
	}
	s := engine.Stats{Time: time.Now()}
	read := statsV1
	if e.host.CgroupV2 {
		read = statsV2
	}
	if err := read(c.meta.CgroupPath, &s); err != nil {
		return s, fmt.Errorf("reading counters of container %s: %w", id, err)
	}
	s.RootfsBytes, s.RootfsInodes, err = e.layerUsage(e.scope(ctx), id)
	if err != nil {
		return s, fmt.Errorf("measuring the layer of container %s: %w", id, err)
	}
	return s, nil
}

func (e *Engine) layerUsage(ctx context.Context, id string) (bytes, inodes uint64, err error) {
	e.usage.mu.Lock()
	got, ok := e.usage.seen[id]
	e.usage.mu.Unlock()
	if ok && time.Since(got.at) < usageAge {
		return got.bytes, got.inodes, nil
	}
	u, err := e.snapshots().Usage(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	e.usage.mu.Lock()
	if e.usage.seen == nil {
		e.usage.seen = map[string]usageEntry{}
	}
	e.usage.seen[id] = usageEntry{time.Now(), uint64(max(u.Size, 0)), uint64(max(u.Inodes, 0))}
	e.usage.mu.Unlock()
	return uint64(max(u.Size, 0)), uint64(max(u.Inodes, 0)), nil
}

// statsV1 reads the separate hierarchies.
func statsV1(cgroup string, s *engine.Stats) error {
	in := func(controller, file string) string { return filepath.Join("/sys/fs/cgroup", controller, cgroup, file) }
	var err error
	if s.CPUNanos, err = readNumber(in("cpuacct", "cpuacct.usage")); err != nil {
		return err
	}
	if s.MemoryBytes, err = readNumber(in("memory", "memory.usage_in_bytes")); err != nil {
		return err
	}
	if cpu, err := keyedValues(in("cpu", "cpu.stat")); err == nil { // it is not there without the bandwidth controller
		s.CPUPeriods, s.CPUThrottled, s.CPUThrottledNanos = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_time"]
	}
	mem, err := keyedValues(in("memory", "memory.stat"))
	if err != nil {
		return err
	}
	s.MemoryRSS, s.MemoryCache = mem["total_rss"], mem["total_cache"]
	s.MemoryWorkingSet = less(s.MemoryBytes, mem["total_inactive_file"])
	s.Pids, err = readNumber(in("pids", "pids.current"))
	return err
}

// statsV2 reads the unified hierarchy.
func statsV2(cgroup string, s *engine.Stats) error {
	in := func(file string) string { return filepath.Join("/sys/fs/cgroup", cgroup, file) }
	cpu, err := keyedValues(in("cpu.stat"))
	if err != nil {
		return err
	}
	s.CPUNanos = cpu["usage_usec"] * 1000
	s.CPUPeriods, s.CPUThrottled, s.CPUThrottledNanos = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_usec"]*1000
	if s.MemoryBytes, err = readNumber(in("memory.current")); err != nil {
		return err
	}
	mem, err := keyedValues(in("memory.stat"))
	if err != nil {
		return err
	}
	s.MemoryRSS, s.MemoryCache = mem["anon"], mem["file"]
	s.MemoryWorkingSet = less(s.MemoryBytes, mem["inactive_file"])
	s.Pids, err = readNumber(in("pids.current"))
	return err
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}
