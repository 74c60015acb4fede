package stats

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// summary is the kubelet's Summary; only_cpu_and_memory=true leaves the rest out.
func (s *Stats) summary(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), scrapeLimit)
	defer cancel()
	l, err := s.sample(ctx, true)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := stats.Summary{Node: s.nodeStats(l), Pods: []stats.PodStats{}}
	for _, p := range l.pods {
		out.Pods = append(out.Pods, podStats(l, p))
	}
	if r.FormValue("only_cpu_and_memory") == "true" {
		out.Node.Network, out.Node.Fs, out.Node.Runtime, out.Node.Rlimit = nil, nil, nil, nil
		for i := range out.Pods {
			p := &out.Pods[i]
			p.Network, p.EphemeralStorage, p.ProcessStats = nil, nil, nil
			for k := range p.Containers {
				p.Containers[k].Rootfs, p.Containers[k].Logs = nil, nil
			}
		}
	} else if err := s.fileSystems(&out, l); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, out)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this fails
}

func (s *Stats) nodeStats(l look) stats.NodeStats {
	at := metav1.NewTime(l.at)
	n := stats.NodeStats{
		NodeName: s.Node, StartTime: metav1.NewTime(s.began),
		CPU: &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &l.node.cpuNanos},
		Memory: &stats.MemoryStats{Time: at, AvailableBytes: new(l.node.total - min(l.node.total, l.node.workingSet)), UsageBytes: &l.node.used,
			WorkingSetBytes: &l.node.workingSet, RSSBytes: &l.node.rss, PageFaults: &l.node.faults, MajorPageFaults: &l.node.majorFaults},
		Network: interfaces(l.at, l.node.network),
		Rlimit:  &stats.RlimitStats{Time: at, MaxPID: &l.node.maxPID, NumOfRunningProcesses: &l.node.tasks},
		Swap:    &stats.SwapStats{Time: at, SwapAvailableBytes: &l.node.swapFree, SwapUsageBytes: new(l.node.swapTotal - min(l.node.swapTotal, l.node.swapFree))},
	}
	if rate, ok := l.nodeRate(); ok {
		n.CPU.UsageNanoCores = &rate
	}
	return n
}

func podStats(l look, p podCounters) stats.PodStats {
	out := stats.PodStats{PodRef: stats.PodReference{Name: p.Name, Namespace: p.Namespace, UID: string(p.UID)}, StartTime: metav1.NewTime(p.Start),
		Containers: []stats.ContainerStats{}, Network: interfaces(l.at, p.network)}
	var cpu, rate, usage, working, rss, processes uint64
	rated := len(p.containers) > 0
	for _, c := range p.containers {
		s := containerStats(l, c)
		out.Containers = append(out.Containers, s)
		cpu, usage, working, rss, processes = cpu+c.CPUNanos, usage+c.MemoryBytes, working+c.MemoryWorkingSet, rss+c.MemoryRSS, processes+c.Pids
		if s.CPU.UsageNanoCores == nil {
			rated = false
			continue
		}
		rate += *s.CPU.UsageNanoCores
	}
	if len(p.containers) == 0 {
		return out
	}
	at := metav1.NewTime(l.at)
	out.CPU = &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &cpu}
	if rated {
		out.CPU.UsageNanoCores = &rate
	}
	out.Memory = &stats.MemoryStats{Time: at, UsageBytes: &usage, WorkingSetBytes: &working, RSSBytes: &rss}
	out.ProcessStats = &stats.ProcessStats{ProcessCount: &processes}
	return out
}

func containerStats(l look, c containerCounters) stats.ContainerStats {
	at := metav1.NewTime(c.Time)
	out := stats.ContainerStats{Name: c.Name, StartTime: metav1.NewTime(c.Start),
		CPU:    &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &c.CPUNanos},
		Memory: &stats.MemoryStats{Time: at, UsageBytes: &c.MemoryBytes, WorkingSetBytes: &c.MemoryWorkingSet, RSSBytes: &c.MemoryRSS},
		Rootfs: &stats.FsStats{Time: at, UsedBytes: &c.RootfsBytes, InodesUsed: &c.RootfsInodes}}
	if rate, ok := l.rate(c); ok {
		out.CPU.UsageNanoCores = &rate
	}
	if f, err := os.Stat(c.LogPath); err == nil {
		out.Logs = &stats.FsStats{Time: at, UsedBytes: new(uint64(f.Size())), InodesUsed: new(uint64(1))}
	}
	return out
}

func interfaces(at time.Time, list []interfaceCounters) *stats.NetworkStats {
	if len(list) == 0 {
		return nil
	}
	out := &stats.NetworkStats{Time: metav1.NewTime(at)}
	for _, i := range list {
		s := stats.InterfaceStats{Name: i.name, RxBytes: &i.rxBytes, RxErrors: &i.rxErrors, TxBytes: &i.txBytes, TxErrors: &i.txErrs}
		if out.Interfaces = append(out.Interfaces, s); len(out.Interfaces) == 1 || i.name == "eth0" {
			out.InterfaceStats = s
		}
	}
	return out
}

// fileSystems fills in what statfs says: the same for all that lie on one.
func (s *Stats) fileSystems(out *stats.Summary, l look) error {
	root, err := readFileSystem(s.RootDir)
	if err != nil {
		return err
	}
	images, err := readFileSystem(s.ImageDir)
	if err != nil {
		return err
	}
	of := func(f fileSystem) *stats.FsStats {
		return &stats.FsStats{Time: metav1.NewTime(l.at), AvailableBytes: &f.free, CapacityBytes: &f.size, UsedBytes: &f.used,
			InodesFree: &f.inodesFree, Inodes: &f.inodes, InodesUsed: &f.inodesUsed}
	}
	out.Node.Fs = of(root)
	out.Node.Runtime = &stats.RuntimeStats{ImageFs: of(images), ContainerFs: of(images)}
	for i := range out.Pods {
		var used, inodes uint64
		for k := range out.Pods[i].Containers {
			c := &out.Pods[i].Containers[k]
			for f, on := range map[*stats.FsStats]fileSystem{c.Rootfs: images, c.Logs: root} {
				if f == nil {
					continue
				}
				f.AvailableBytes, f.CapacityBytes, f.Inodes, f.InodesFree = &on.free, &on.size, &on.inodes, &on.inodesFree
				used, inodes = used+*f.UsedBytes, inodes+*f.InodesUsed
			}
		}
		out.Pods[i].EphemeralStorage = of(root)
		out.Pods[i].EphemeralStorage.UsedBytes, out.Pods[i].EphemeralStorage.InodesUsed = &used, &inodes
	}
	return nil
}

// pods is the kubelet's list of the node's pods.
func (s *Stats) pods(w http.ResponseWriter, _ *http.Request) {
	list := core.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []core.Pod{}}
	for _, p := range s.Pods() {
		list.Items = append(list.Items, *p.Object)
	}
	answer(w, list)
}
