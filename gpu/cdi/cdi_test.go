package cdi

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/runtime-spec/specs-go"
	engines "tags.cncf.io/container-device-interface/pkg/cdi"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
)

func machine(t testing.TB, name string) device.Machine {
	t.Helper()
	rec, err := fakenvml.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Machine
}

// driverTree is a host with a driver's files; libraries are empty but for libcuda.
func driverTree(version string) fstest.MapFS {
	f := fstest.MapFS{
		"usr/bin/nvidia-smi": {Data: []byte("x")}, "usr/local/nvidia/bin/nvidia-cuda-mps-control": {Data: []byte("x")},
		"run/nvidia-persistenced/socket":                      {},
		"lib/firmware/nvidia/" + version + "/gsp_ga10x.bin":   {Data: []byte("x")},
		"usr/lib/x86_64-linux-gnu/libcuda.so." + version:      {Data: library("libcuda.so.1")},
		"usr/lib/x86_64-linux-gnu/libcuda.so.570.1":           {Data: []byte("left over")},
		"usr/lib/x86_64-linux-gnu/libnvidia-ml.so." + version: {},
		"usr/lib64/libnvidia-glcore.so." + version:            {},
	}
	return f
}

// library is the smallest ELF file that has a SONAME.
func library(soname string) []byte {
	var b bytes.Buffer
	names := append([]byte{0}, append([]byte(soname), 0)...)
	const head, section = 64, 64
	dynamic := []uint64{uint64(elf.DT_SONAME), 1, uint64(elf.DT_NULL), 0}
	at := uint64(head)
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: head, Shentsize: section, Shnum: 3, Shoff: at + 32 + uint64(len(names))}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	h.Shstrndx = 2
	for _, v := range []any{h, dynamic, names,
		elf.Section64{}, elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Off: at, Size: 32, Link: 2, Entsize: 16},
		elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: at + 32, Size: uint64(len(names))}} {
		_ = binary.Write(&b, binary.LittleEndian, v) // into memory
	}
	return b.Bytes()
}

func found(t testing.TB, m device.Machine) Files {
	t.Helper()
	f, err := Find(Where{FS: driverTree(m.Driver.Version), Arch: "amd64", Version: m.Driver.Version})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFind(t *testing.T) {
	m := machine(t, "h200")
	f := found(t, m)
	var got []string
	for _, l := range append(f.Libraries, f.Others...) {
		got = append(got, strings.ReplaceAll(l.Path, m.Driver.Version, "V")+" "+string(l.Of)+" "+strings.Join(l.Links, " "))
	}
	want := []string{
		"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.V utility libnvidia-ml.so.1",
		"/usr/lib/x86_64-linux-gnu/libcuda.so.V compute libcuda.so.1 libcuda.so",
		"/usr/lib64/libnvidia-glcore.so.V graphics libnvidia-glcore.so.1",
		"/usr/bin/nvidia-smi utility ", "/usr/local/nvidia/bin/nvidia-cuda-mps-control compute ",
		"/run/nvidia-persistenced/socket utility ", "/lib/firmware/nvidia/V/gsp_ga10x.bin utility ",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	_, err := Find(Where{FS: driverTree("1.2"), Arch: "amd64", Version: "580.0"})
	if err == nil || !strings.HasPrefix(err.Error(), "libcuda.so.580.0 is in none of /usr/lib/x86_64-linux-gnu, ") {
		t.Error(err)
	}
}

func TestCard(t *testing.T) {
	m := machine(t, "h200")
	f := found(t, m)
	e, err := For(m, f, Request{Devices: []string{m.GPUs[0].UUID}, Capabilities: []Capability{Utility, Compute}})
	if err != nil {
		t.Fatal(err)
	}
	uvm := m.Module.Majors["nvidia-uvm"]
	want := []Node{{"/dev/nvidiactl", 195, 255}, {"/dev/nvidia-uvm", uvm, 0}, {"/dev/nvidia-uvm-tools", uvm, 1}, {"/dev/nvidia0", 195, uint32(*m.GPUs[0].Minor)}}
	if !reflect.DeepEqual(e.Nodes, want) {
		t.Errorf("nodes are %v, want %v", e.Nodes, want)
	}
	if want := []string{"NVIDIA_VISIBLE_DEVICES=" + m.GPUs[0].UUID, "NVIDIA_CTK_LIBCUDA_DIR=/usr/lib/x86_64-linux-gnu"}; !reflect.DeepEqual(e.Env, want) {
		t.Errorf("environment is %v, want %v", e.Env, want)
	}
	has := func(target string) bool {
		return slices.ContainsFunc(e.Mounts, func(m Mount) bool { return m.Target == target })
	}
	for target, want := range map[string]bool{
		"/usr/lib/x86_64-linux-gnu/libcuda.so.1": true, "/usr/lib/x86_64-linux-gnu/libcuda.so": true, "/usr/bin/nvidia-smi": true,
		"/usr/bin/nvidia-cuda-mps-control": true, "/usr/lib64/libnvidia-glcore.so.1": false,
	} {
		if has(target) != want {
			t.Errorf("%s: mounted %v, want %v", target, !want, want)
		}
	}
	if len(e.Cache) != 3 {
		t.Errorf("the cache gets %v", e.Cache)
	}
}

func TestMIGDevice(t *testing.T) {
	m := machine(t, "h200-mig")
	d := m.GPUs[0].MIGDevices()
	e, err := For(m, found(t, m), Request{Devices: []string{d[0].UUID, d[1].UUID}, Capabilities: []Capability{Compute}, MIGConfig: true})
	if err != nil {
		t.Fatal(err)
	}
	cards, caps := 0, 0
	for _, n := range e.Nodes {
		if n.Major == 195 && n.Minor < 200 {
			cards++
		}
		if n.Major == m.Module.Majors["nvidia-caps"] {
			caps++
		}
	}
	if cards != 1 || caps != 5 {
		t.Errorf("%d card nodes and %d capabilities in %v, want 1 and 5", cards, caps, e.Nodes)
	}
}

func TestForRefuses(t *testing.T) {
	m := machine(t, "h200")
	f := found(t, m)
	for name, tc := range map[string]struct {
		change func(*device.Machine)
		r      Request
		want   string
	}{
		"gone":     {nil, Request{Devices: []string{"GPU-gone"}}, "GPU GPU-gone is not on this node any more"},
		"no minor": {func(m *device.Machine) { m.GPUs[0].Minor = nil }, Request{Devices: []string{m.GPUs[0].UUID}}, "has no device node"},
		"no uvm": {func(m *device.Machine) { delete(m.Module.Majors, "nvidia-uvm") }, Request{Devices: []string{m.GPUs[0].UUID}, Capabilities: []Capability{Compute}},
			"the kernel module nvidia-uvm is not loaded: run modprobe nvidia-uvm"},
		"no IMEX": {func(m *device.Machine) { delete(m.Module.Majors, "nvidia-caps-imex-channels") }, Request{IMEXChannels: []int{0}}, "no IMEX channels"},
	} {
		c := m.Clone()
		if tc.change != nil {
			tc.change(&c)
		}
		if _, err := For(c, f, tc.r); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error is %v, want %q", name, err, tc.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for in, want := range map[string][]Capability{"": {Utility, Compute}, "video, compute,video": {Video, Compute}, "all": everything} {
		if got, err := Capabilities(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %v, %v", in, got, err)
		}
	}
	if _, err := Capabilities("compute,../../etc"); err == nil {
		t.Error("an unknown word is taken")
	}
}

// TestSpec: the library that container engines read such files with takes ours, and what a
// container gets by each name is what For says.
func TestSpec(t *testing.T) {
	for _, tc := range []struct {
		machine string
		names   []string // with the UUIDs' names in front
	}{
		{"h100-8", []string{"0", "1", "2", "3", "4", "5", "6", "7", "all"}},
		{"h200-mig", []string{"0:0", "0:1", "0:2", "0:3", "all"}},
	} {
		m := machine(t, tc.machine)
		b, err := Spec(m, found(t, m), "/dev-root")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "orch.json"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		cache, err := engines.NewCache(engines.WithAutoRefresh(false), engines.WithSpecDirs(dir))
		if err != nil || len(cache.GetErrors()) > 0 {
			t.Fatalf("%v, %v\n%s", err, cache.GetErrors(), b)
		}
		want, first := tc.names, ""
		for _, g := range m.GPUs {
			parts := []string{g.UUID}
			if g.MIG.Enabled() {
				parts = nil
				for _, d := range g.MIGDevices() {
					parts = append(parts, d.UUID)
				}
			}
			want = append(want, parts...)
			first = cmp.Or(append([]string{first}, parts...)...)
		}
		for i := range want {
			want[i] = Kind + "=" + want[i]
		}
		slices.Sort(want)
		if got := cache.ListDevices(); !slices.Equal(got, want) {
			t.Errorf("%s: devices are %v, want %v", tc.machine, got, want)
		}
		spec := &specs.Spec{}
		if _, err := cache.InjectDevices(spec, Kind+"="+first); err != nil {
			t.Fatal(err)
		}
		e, err := For(m, found(t, m), Request{Devices: []string{first}, Capabilities: everything})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range e.Nodes {
			if !slices.ContainsFunc(spec.Linux.Devices, func(d specs.LinuxDevice) bool {
				return d.Path == n.Path && d.Major == int64(n.Major) && d.Minor == int64(n.Minor) && d.Type == "c"
			}) {
				t.Errorf("%s: %v is not among %v", first, n, spec.Linux.Devices)
			}
		}
		if len(spec.Mounts) != len(e.Mounts) || !slices.Contains(spec.Process.Env, "NVIDIA_VISIBLE_DEVICES=void") || !strings.Contains(string(b), `"hostPath": "/dev-root/dev/nvidiactl"`) {
			t.Errorf("%s: %d mounts, want %d; variables %v", first, len(spec.Mounts), len(e.Mounts), spec.Process.Env)
		}
	}
}

// TestAllCapabilitiesWithoutModeset: the node of a module that is not loaded kept containers with
// NVIDIA_DRIVER_CAPABILITIES=all from being made.
func TestAllCapabilitiesWithoutModeset(t *testing.T) {
	m := machine(t, "h200").Clone()
	has := func() bool {
		e, err := For(m, found(t, m), Request{Devices: []string{m.GPUs[0].UUID}, Capabilities: everything})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(e.Nodes, func(n Node) bool { return n.Path == "/dev/nvidia-modeset" })
	}
	if !has() {
		t.Error("with the module there is no node")
	}
	delete(m.Module.Majors, "nvidia-modeset")
	if has() {
		t.Error("without the module there is a node")
	}
}

func TestNoDevicesNoSpec(t *testing.T) {
	m := machine(t, "h200")
	f := found(t, m)
	m.GPUs = nil
	if b, err := Spec(m, f, ""); b != nil || err != nil {
		t.Errorf("%s, %v", b, err)
	}
}

func BenchmarkFor(b *testing.B) {
	m := machine(b, "h200-8")
	f := found(b, m)
	r := Request{Devices: []string{m.GPUs[0].UUID, m.GPUs[1].UUID}, Capabilities: []Capability{Compute, Utility}}
	for b.Loop() {
		if _, err := For(m, f, r); err != nil {
			b.Fatal(err)
		}
	}
}
