package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func container(cpu, memory string) core.Container {
	list := core.ResourceList{core.ResourceCPU: resource.MustParse(cpu), core.ResourceMemory: resource.MustParse(memory)}
	return core.Container{Resources: core.ResourceRequirements{Requests: list, Limits: list}}
}

func TestPodLimits(t *testing.T) {
	for _, tt := range []struct {
		name string
		pod  core.PodSpec
		want Limits
	}{
		{"sum", core.PodSpec{Containers: []core.Container{container("500m", "64Mi"), container("250m", "64Mi")}}, Limits{CPUShares: 768, CPUQuotaUs: 75000, MemoryBytes: 128 << 20}},
		{"one without limits", core.PodSpec{Containers: []core.Container{container("1", "64Mi"), {}}}, Limits{CPUShares: 1024}},
		{"besteffort", core.PodSpec{Containers: []core.Container{{}}}, Limits{CPUShares: 2}},
		{"init is larger", core.PodSpec{InitContainers: []core.Container{container("2", "1Gi")}, Containers: []core.Container{container("1", "64Mi")}}, Limits{CPUShares: 2048, CPUQuotaUs: 200000, MemoryBytes: 1 << 30}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, PodLimits(&core.Pod{Spec: tt.pod})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{2: 1, 1024: 100, 262144: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d shares: got %d, want %d", shares, got, want)
		}
	}
}

// fakeV2 is a directory that looks like a cgroup2 mount; groups that are made in
// it lack their files, so the test makes those it looks at.
func fakeV2(t *testing.T, groups ...string) string {
	dir := t.TempDir()
	for _, g := range append(groups, "") {
		d := filepath.Join(dir, g)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"cgroup.controllers": "cpu memory pids rdma", "cgroup.subtree_control": "", "cpu.weight": "", "cpu.max": "", "memory.max": "max"} {
			if err := os.WriteFile(filepath.Join(d, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestV2(t *testing.T) {
	mount := fakeV2(t, "kubepods", "kubepods/burstable", "kubepods/besteffort", "kubepods/burstable/podu1")
	tree, err := New(Config{Mount: mount})
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Prepare(Limits{MemoryBytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"}, Spec: core.PodSpec{Containers: []core.Container{container("500m", "64Mi")}}}
	if err := tree.EnsurePod(pod, core.PodQOSBurstable); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range []string{"kubepods/memory.max", "kubepods/cgroup.subtree_control", "kubepods/burstable/podu1/cpu.max", "kubepods/burstable/podu1/memory.max", "kubepods/burstable/cpu.weight"} {
		b, err := os.ReadFile(filepath.Join(mount, f))
		if err != nil {
			t.Fatal(err)
		}
		got[f] = string(b)
	}
	want := map[string]string{
		"kubepods/memory.max": "1073741824", "kubepods/cgroup.subtree_control": "+pids", // the last one written to a plain file
		"kubepods/burstable/podu1/cpu.max": "50000 100000", "kubepods/burstable/podu1/memory.max": "67108864", "kubepods/burstable/cpu.weight": "59",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestReal uses the control groups of this machine, whichever version they are.
func TestReal(t *testing.T) {
	tree, err := New(Config{Root: fmt.Sprintf("orch-test-real-%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Prepare(Limits{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range tree.dirs(tree.root) {
			if err := removeTree(d); err != nil {
				t.Error(err)
			}
		}
	})
	pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID("real")}, Spec: core.PodSpec{Containers: []core.Container{container("500m", "64Mi")}}}
	for range 2 { // the second time is an update
		if err := tree.EnsurePod(pod, core.PodQOSGuaranteed); err != nil {
			t.Fatal(err)
		}
	}
	group := tree.PodPath(core.PodQOSGuaranteed, "real")
	file, want := filepath.Join(tree.mount, "memory", group, "memory.limit_in_bytes"), "67108864"
	if tree.v2 {
		file = filepath.Join(tree.mount, group, "memory.max")
	}
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != want {
		t.Errorf("%s: got %s, %v; want %s", file, b, err, want)
	}
	if err := tree.RemovePod("real"); err != nil {
		t.Error(err)
	}
	if left := tree.dirs(group); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestContainerOf(t *testing.T) {
	id := strings.Repeat("0a", 32)
	for groups, want := range map[string]string{
		"0::/kubepods/burstable/podx/" + id + "\n":       id,
		"0::/kubepods/podx/" + id + "/nested\n":          id,
		"12:cpu:/\n3:memory:/kubepods/podx/" + id + "\n": id,
		"0::/system.slice/docker.service\n":              "",
		"":                                               "",
		"0::/kubepods/" + strings.Repeat("z", 64) + "\n": "",
	} {
		if got := ContainerOf(groups); got != want {
			t.Errorf("%q: %q", groups, got)
		}
	}
}
