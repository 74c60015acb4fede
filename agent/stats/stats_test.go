package stats

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"orch/runtime/engine"
)

// rig is a node with two pods: one that computes, one whose container has just ended.
func rig(t *testing.T) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	began, asked := time.Now(), new(atomic.Int32)
	pod := func(name string) Pod {
		return Pod{UID: "uid-" + "1", Namespace: "ns", Name: name, Cgroup: "/kubepods/pod-" + name, Start: began, Containers: []Container{{Name: "main", ID: "id-" + name, Image: "app:1", PID: os.Getpid(), Start: began, LogPath: os.Args[0]}},
			Object: &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}}
	}
	s, err := New(Source{Node: "n1", RootDir: t.TempDir(), ImageDir: t.TempDir(), Pods: func() []Pod { return []Pod{pod("busy"), pod("ended")} },
		Counters: func(_ context.Context, id string) (engine.Stats, error) {
			if id == "id-ended" {
				return engine.Stats{}, errors.New("it does not run")
			}
			asked.Add(1)
			now := time.Now()
			return engine.Stats{Time: now, CPUNanos: uint64(now.Sub(began)) / 2, MemoryBytes: 30 << 20, MemoryWorkingSet: 20 << 20, MemoryRSS: 10 << 20, MemoryCache: 5 << 20, Pids: 3, RootfsBytes: 4096, RootfsInodes: 2}, nil
		},
		More: func(context.Context) ([]byte, error) {
			return []byte("# TYPE DCGM_FI_DEV_GPU_TEMP gauge\nDCGM_FI_DEV_GPU_TEMP{gpu=\"0\"} 41\n"), nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for path, h := range s.Paths() {
		mux.Handle("GET "+path, h)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server, asked
}

func get(t *testing.T, s *httptest.Server, path string) string {
	t.Helper()
	r, err := http.Get(s.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v %s", path, r.Status, err, b)
	}
	return string(b)
}

func TestPages(t *testing.T) {
	s, asked := rig(t)
	began := time.Now()
	for path, want := range map[string][]string{
		"/metrics/resource": {`container_cpu_usage_seconds_total{container="main",namespace="ns",pod="busy"}`, `container_memory_working_set_bytes{container="main",namespace="ns",pod="busy"} 2.097152e+07`,
			`pod_memory_working_set_bytes{namespace="ns",pod="busy"} 2.097152e+07`, "node_cpu_usage_seconds_total ", "node_memory_working_set_bytes ", "resource_scrape_error 0", "container_start_time_seconds{"},
		"/metrics/cadvisor": {`container_cpu_usage_seconds_total{container="main",cpu="total",id="/kubepods/pod-busy/id-busy",image="app:1",name="id-busy",namespace="ns",pod="busy"}`,
			`container_memory_rss{container="",id="/kubepods/pod-busy",image="",name="",namespace="ns",pod="busy"} 1.048576e+07`, `container_memory_cache{container="main"`,
			`container_memory_working_set_bytes{container="",id="/",image="",name="",namespace="",pod=""}`, `container_cpu_cfs_throttled_periods_total{container="main"`, "machine_cpu_cores ", "machine_memory_bytes "},
		"/metrics": {"kubelet_running_pods 1", `kubelet_running_containers{container_state="running"} 1`, `kubelet_node_name{node="n1"} 1`, "process_resident_memory_bytes", "go_goroutines", `DCGM_FI_DEV_GPU_TEMP{gpu="0"} 41`},
		"/pods":    {`"kind":"PodList"`, `"name":"busy"`},
	} {
		text := get(t, s, path)
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s has no %s:\n%s", path, w, text)
			}
		}
		if path != "/pods" && strings.Contains(text, `pod="ended"`) {
			t.Errorf("%s shows a container that has ended", path)
		}
	}
	if n, took := asked.Load(), time.Since(began); n > 2+int32(took/freshFor) {
		t.Errorf("three pages within %v read the counters %d times", took, n)
	}
}

// TestSummaryHasRates: the first answer has them, too.
func TestSummaryHasRates(t *testing.T) {
	s, _ := rig(t)
	var got stats.Summary
	if err := json.Unmarshal([]byte(get(t, s, "/stats/summary")), &got); err != nil {
		t.Fatal(err)
	}
	if got.Node.NodeName != "n1" || got.Node.CPU.UsageNanoCores == nil || *got.Node.Memory.AvailableBytes == 0 || *got.Node.Fs.CapacityBytes == 0 || got.Node.Runtime.ImageFs == nil || *got.Node.Rlimit.MaxPID == 0 {
		t.Errorf("the node: %+v", got.Node)
	}
	if len(got.Pods) != 2 || len(got.Pods[0].Containers) != 1 || len(got.Pods[1].Containers) != 0 {
		t.Fatalf("the pods: %+v", got.Pods)
	}
	p := got.Pods[0]
	if p.CPU.UsageNanoCores == nil || *p.CPU.UsageNanoCores < 4e8 || *p.CPU.UsageNanoCores > 6e8 {
		t.Errorf("half a core is used, it says %v", p.CPU.UsageNanoCores)
	}
	if *p.Memory.WorkingSetBytes != 20<<20 || *p.EphemeralStorage.UsedBytes <= 4096 || *p.ProcessStats.ProcessCount != 3 {
		t.Errorf("%+v", p)
	}
	var short stats.Summary
	if err := json.Unmarshal([]byte(get(t, s, "/stats/summary?only_cpu_and_memory=true")), &short); err != nil || short.Node.Fs != nil || short.Pods[0].CPU == nil {
		t.Errorf("%v %+v", err, short)
	}
}

func TestCPUOfTheNodeIsWithoutIdleTimeAndGuests(t *testing.T) {
	if n := cpuNanos([]byte("cpu  1 2 3 1000 1000 4 5 6 7 8\ncpu0 1\n")); n != (1+2+3+4+5+6)*1e7 {
		t.Error(n)
	}
}
