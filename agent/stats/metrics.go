package stats

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

func seconds(nanos uint64) float64 { return float64(nanos) / 1e9 }

// resource is the page that metrics-server and autoscalers read, with upstream's names.
func (s *Stats) resource(l look, emit func(family)) {
	of := []string{"container", "namespace", "pod"}
	start := family{name: "container_start_time_seconds", help: "Start time of the container since unix epoch in seconds", kind: gauge, labels: of}
	cpu := family{name: "container_cpu_usage_seconds_total", help: "Cumulative cpu time consumed by the container in core-seconds", kind: counter, labels: of}
	mem := family{name: "container_memory_working_set_bytes", help: "Current working set of the container in bytes", kind: gauge, labels: of}
	podCPU := family{name: "pod_cpu_usage_seconds_total", help: "Cumulative cpu time consumed by the pod in core-seconds", kind: counter, labels: of[1:]}
	podMem := family{name: "pod_memory_working_set_bytes", help: "Current working set of the pod in bytes", kind: gauge, labels: of[1:]}
	for _, p := range l.pods {
		var nanos, bytes uint64
		for _, c := range p.containers {
			start.add(float64(c.Start.UnixNano())/1e9, c.Name, p.Namespace, p.Name)
			cpu.add(seconds(c.CPUNanos), c.Name, p.Namespace, p.Name)
			mem.add(float64(c.MemoryWorkingSet), c.Name, p.Namespace, p.Name)
			nanos += c.CPUNanos
			bytes += c.MemoryWorkingSet
		}
		if len(p.containers) > 0 {
			podCPU.add(seconds(nanos), p.Namespace, p.Name)
			podMem.add(float64(bytes), p.Namespace, p.Name)
		}
	}
	node := func(name, help string, kind prometheus.ValueType, v float64) family {
		return family{name: name, help: help, kind: kind, series: []series{{value: v}}}
	}
	for _, f := range []family{
		start, cpu, mem, podCPU, podMem,
		node("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", counter, seconds(l.node.cpuNanos)),
		node("node_memory_working_set_bytes", "Current working set of the node in bytes", gauge, float64(l.node.workingSet)),
		node("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems", gauge, float64(l.node.swapTotal-l.node.swapFree)),
		node("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", gauge, 0),
		node("scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", gauge, 0),
	} {
		emit(f)
	}
}

// summed is how many of the rows make sense of a pod and of the node, too.
const summed = 5

// containerRows are cAdvisor's families of a container, as far as dashboards read them.
var containerRows = []struct {
	name, help string
	kind       prometheus.ValueType
	of         func(c containerCounters) float64
}{
	{"container_memory_working_set_bytes", "Current working set in bytes.", gauge, func(c containerCounters) float64 { return float64(c.MemoryWorkingSet) }},
	{"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", gauge, func(c containerCounters) float64 { return float64(c.MemoryBytes) }},
	{"container_memory_rss", "Size of RSS in bytes.", gauge, func(c containerCounters) float64 { return float64(c.MemoryRSS) }},
	{"container_memory_cache", "Number of bytes of page cache memory.", gauge, func(c containerCounters) float64 { return float64(c.MemoryCache) }},
	{"container_processes", "Number of processes running inside the container.", gauge, func(c containerCounters) float64 { return float64(c.Pids) }},
	{"container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", gauge, func(c containerCounters) float64 { return float64(c.RootfsBytes) }},
	{"container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", counter, func(c containerCounters) float64 { return float64(c.CPUPeriods) }},
	{"container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", counter, func(c containerCounters) float64 { return float64(c.CPUThrottled) }},
	{"container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", counter, func(c containerCounters) float64 { return seconds(c.CPUThrottledNanos) }},
	{"container_start_time_seconds", "Start time of the container since unix epoch in seconds.", gauge, func(c containerCounters) float64 { return float64(c.Start.Unix()) }},
	{"container_last_seen", "Last time a container was seen by the exporter", gauge, func(c containerCounters) float64 { return float64(c.Time.Unix()) }},
}

// interfaceRows are cAdvisor's of a pod's network.
var interfaceRows = []struct {
	name, help string
	of         func(i interfaceCounters) uint64
}{
	{"container_network_receive_bytes_total", "Cumulative count of bytes received", func(i interfaceCounters) uint64 { return i.rxBytes }},
	{"container_network_receive_packets_total", "Cumulative count of packets received", func(i interfaceCounters) uint64 { return i.rxPackets }},
	{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", func(i interfaceCounters) uint64 { return i.rxErrors }},
	{"container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", func(i interfaceCounters) uint64 { return i.rxDropped }},
	{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", func(i interfaceCounters) uint64 { return i.txBytes }},
	{"container_network_transmit_packets_total", "Cumulative count of packets transmitted", func(i interfaceCounters) uint64 { return i.txPackets }},
	{"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", func(i interfaceCounters) uint64 { return i.txErrs }},
	{"container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", func(i interfaceCounters) uint64 { return i.txDrops }},
}

// cadvisor is the page that most dashboards are made of. A pod's sums have no container
// and image, as cAdvisor's of the pod's cgroup.
func (s *Stats) cadvisor(l look, emit func(family)) {
	of := []string{"container", "id", "image", "name", "namespace", "pod"}
	cpu := family{name: "container_cpu_usage_seconds_total", help: "Cumulative cpu time consumed in seconds.", kind: counter, labels: append([]string{"cpu"}, of...)}
	rows := make([]family, len(containerRows))
	for i, r := range containerRows {
		rows[i] = family{name: r.name, help: r.help, kind: r.kind, labels: of}
	}
	for _, p := range l.pods {
		sum := containerCounters{Container: Container{Start: p.Start}}
		for _, c := range p.containers {
			labels := []string{c.Name, p.Cgroup + "/" + c.ID, c.Image, c.ID, p.Namespace, p.Name}
			cpu.add(seconds(c.CPUNanos), append([]string{"total"}, labels...)...)
			for i, r := range containerRows {
				rows[i].add(r.of(c), labels...)
			}
			sum.CPUNanos, sum.MemoryBytes, sum.MemoryWorkingSet = sum.CPUNanos+c.CPUNanos, sum.MemoryBytes+c.MemoryBytes, sum.MemoryWorkingSet+c.MemoryWorkingSet
			sum.MemoryRSS, sum.MemoryCache, sum.Pids, sum.Time = sum.MemoryRSS+c.MemoryRSS, sum.MemoryCache+c.MemoryCache, sum.Pids+c.Pids, c.Time
		}
		if len(p.containers) == 0 {
			continue
		}
		labels := []string{"", p.Cgroup, "", "", p.Namespace, p.Name}
		cpu.add(seconds(sum.CPUNanos), append([]string{"total"}, labels...)...)
		for i, r := range containerRows[:summed] {
			rows[i].add(r.of(sum), labels...)
		}
	}
	s.cadvisorNode(l, &cpu, rows)
	emit(cpu)
	for _, f := range rows {
		emit(f)
	}
	network(l, emit)
	emit(family{name: "machine_cpu_cores", help: "Number of logical CPU cores.", kind: gauge, series: []series{{value: float64(cores())}}})
	emit(family{name: "machine_memory_bytes", help: "Amount of memory installed on the machine.", kind: gauge, series: []series{{value: float64(l.node.total)}}})
}

// cadvisorNode adds the root cgroup.
func (s *Stats) cadvisorNode(l look, cpu *family, rows []family) {
	root := []string{"", "/", "", "", "", ""}
	cpu.add(seconds(l.node.cpuNanos), append([]string{"total"}, root...)...)
	all := containerCounters{Container: Container{Start: s.began}}
	all.MemoryWorkingSet, all.MemoryBytes, all.MemoryRSS, all.MemoryCache = l.node.workingSet, l.node.used, l.node.rss, l.node.cache
	all.Pids, all.Time = uint64(max(l.node.tasks, 0)), l.at
	for i, r := range containerRows[:summed] {
		rows[i].add(r.of(all), root...)
	}
}

func network(l look, emit func(family)) {
	for _, r := range interfaceRows {
		f := family{name: r.name, help: r.help, kind: counter, labels: []string{"container", "id", "image", "interface", "name", "namespace", "pod"}}
		for _, p := range l.pods {
			for _, i := range p.network {
				f.add(float64(r.of(i)), "", p.Cgroup, "", i.name, "", p.Namespace, p.Name)
			}
		}
		for _, i := range l.node.network {
			f.add(float64(r.of(i)), "", "/", "", i.name, "", "", "")
		}
		emit(f)
	}
}

// kubelet is the agent's own page.
func (s *Stats) kubelet(l look, emit func(family)) {
	pods, running := 0, 0
	for _, p := range l.pods {
		if len(p.containers) > 0 {
			pods++
		}
		running += len(p.containers)
	}
	emit(family{name: "kubelet_running_pods", help: "Number of pods that have a running pod sandbox", kind: gauge, series: []series{{value: float64(pods)}}})
	emit(family{name: "kubelet_running_containers", help: "Number of containers currently running", kind: gauge, labels: []string{"container_state"},
		series: []series{{float64(running), []string{"running"}}}})
	emit(family{name: "kubelet_node_name", help: "The node's name. The count is always 1.", kind: gauge, labels: []string{"node"}, series: []series{{1, []string{s.Node}}}})
	emit(family{name: "kubelet_active_pods", help: "The number of pods the kubelet considers active and which are being considered when admitting new pods.", kind: gauge,
		labels: []string{"static"}, series: []series{{float64(len(l.pods)), []string{strconv.FormatBool(false)}}}})
}
