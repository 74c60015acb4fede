//go:build gpusuite

package gpusuite

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"orch/gpu/cdi"
	"orch/gpu/device"
	"orch/gpu/labels"
	"orch/gpu/nvml"
	"orch/gpu/sysfs"
)

// discovery compares what NVML tells orch with what it tells nvidia-smi.
func discovery(r *run) {
	answer := r.host("nvidia-smi", "--query-gpu="+Query(), "--format=csv,noheader,nounits")
	r.note("nvidia-smi: %s", strings.TrimSpace(answer))
	for _, d := range Compare(answer, r.machine) {
		r.fail("%s", d)
	}
	r.figure("fieldsCompared", len(rows))
}

// secondTier compares the kernel's answers with the library's.
func secondTier(r *run) {
	low, err := sysfs.New(sysfs.Config{}).Machine(r.ctx)
	r.must(err)
	if len(low.GPUs) == 0 {
		r.absent("neither /proc/driver/nvidia nor /sys/bus/pci shows a card here")
	}
	for _, g := range r.machine.GPUs {
		i := slices.IndexFunc(low.GPUs, func(o device.GPU) bool { return o.PCI.Address == g.PCI.Address })
		if i < 0 {
			r.fail("the kernel has no card at %s", g.PCI.Address)
			continue
		}
		o := low.GPUs[i]
		if o.UUID != "" && o.UUID != g.UUID {
			r.fail("%s: the kernel says %s, NVML %s", g.PCI.Address, o.UUID, g.UUID)
		}
		if o.Minor == nil || g.Minor == nil || *o.Minor != *g.Minor {
			r.fail("%s: the kernel's minor differs from NVML's", g.PCI.Address)
		}
	}
	r.figure("cards", len(low.GPUs))
}

// helperStart times a helper of its own, while the suite's keeps the driver loaded.
func helperStart(r *run) {
	c := newClient(r)
	began := time.Now()
	_, err := c.Figures(r.ctx, r.machine.GPUs[0].UUID)
	first := time.Since(began)
	r.must(err)
	began = time.Now()
	m, err := c.Machine(r.ctx)
	r.must(err)
	r.figure("firstAnswerMilliseconds", first.Milliseconds())
	r.figure("machineMilliseconds", time.Since(began).Milliseconds())
	r.note("library: %s", m.Driver.Library)
	if first > 100*time.Millisecond {
		r.fail("the first answer took %v, 100 ms are allowed", first)
	}
}

// symbols: what the driver lacks is a Problem, not the end of the helper.
func symbols(r *run) {
	r.note("missing in driver %s: %s", r.machine.Driver.Version, strings.Join(r.machine.Missing, " "))
	r.figure("missing", len(r.machine.Missing))
	before := r.suite.client.Stats()
	for _, g := range r.machine.GPUs {
		lacks := slices.ContainsFunc(r.machine.Missing, func(s string) bool { return strings.Contains(s, "SetMemoryLimits") })
		if lacks && g.MemoryLimits {
			r.fail("%s offers memory limits that the driver lacks", g.UUID)
		}
		if lacks {
			if err := r.suite.client.SetMemoryLimits(r.ctx, g.UUID, "/none", 1<<30, 1<<30); err == nil {
				r.fail("memory limits were set with a driver that lacks them")
			}
		}
	}
	if after := r.suite.client.Stats(); after.Crashes != before.Crashes || after.Starts != before.Starts {
		r.fail("the helper ended: %+v, before %+v", after, before)
	}
}

// migProfiles are NVIDIA's for the cards that the suite has met.
var migProfiles = map[string][]string{
	"NVIDIA H200":           {"1g.18gb", "1g.18gb+me", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"},
	"NVIDIA H100 80GB HBM3": {"1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"},
}

// record writes the machine down; what is wanted of known cards is that MIG has NVIDIA's names.
func record(r *run) {
	rec := device.Recording{Taken: time.Now().UTC().Format(time.RFC3339), By: version(), Machine: r.whole()}
	for _, g := range rec.Machine.GPUs {
		f, err := r.suite.client.Figures(r.ctx, g.UUID)
		r.must(err)
		rec.Figures = append(rec.Figures, f...)
	}
	var b bytes.Buffer
	_, err := rec.WriteTo(&b)
	r.must(err)
	_, err = device.ReadRecording(bytes.NewReader(b.Bytes()))
	r.must(err)
	path := filepath.Join(filepath.Dir(*out), "machine.json")
	r.must(os.WriteFile(path, b.Bytes(), 0o644))
	r.figure("bytes", b.Len())
	for _, g := range rec.Machine.GPUs {
		if g.MIG == nil {
			r.note("%s cannot be partitioned", g.Name)
			continue
		}
		var names []string
		for _, p := range g.MIG.Profiles {
			names = append(names, p.Name)
		}
		slices.Sort(names)
		r.note("%s: %s", g.Name, strings.Join(names, " "))
		for _, want := range migProfiles[g.Name] {
			if !slices.Contains(names, want) {
				r.fail("%s has no profile %s", g.Name, want)
			}
		}
	}
}

// nodeLabels compares the labels with nvidia-smi.
func nodeLabels(r *run) {
	answer := strings.Split(strings.TrimSpace(r.host("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits", "--id="+r.machine.GPUs[0].UUID)), ", ")
	if len(answer) != 3 {
		r.absent("nvidia-smi does not say name, memory and compute capability: %q", answer)
	}
	major, minor, _ := strings.Cut(answer[2], ".")
	got := labels.Of(r.whole(), labels.Options{})
	for key, want := range map[string]string{
		"nvidia.com/gpu.product": strings.ReplaceAll(answer[0], " ", "-"), "nvidia.com/gpu.memory": answer[1],
		"nvidia.com/gpu.compute.major": major, "nvidia.com/gpu.compute.minor": minor,
		"nvidia.com/cuda.driver-version.full": r.machine.Driver.Version, "nvidia.com/gpu.present": "true",
	} {
		if got[key] != want {
			r.fail("%s is %q, want %q", key, got[key], want)
		}
	}
	r.figure("labels", got)
}

// cdiSpec compares our edits with the nodes and libraries that NVIDIA's generator finds.
func cdiSpec(r *run) {
	m := r.whole()
	where := cdi.Where{FS: os.DirFS("/"), Root: "/", Arch: runtime.GOARCH, Version: m.Driver.Version}
	if found := nvml.Find("/"); len(found) > 0 {
		where.First = filepath.Dir(found[0])
	}
	files, err := cdi.Find(where)
	r.must(err)
	var all cdi.Request
	for _, g := range m.GPUs {
		all.Devices = append(all.Devices, g.UUID)
	}
	all.Capabilities, err = cdi.Capabilities("all")
	r.must(err)
	edits, err := cdi.For(m, files, all)
	r.must(err)
	for _, n := range edits.Nodes {
		if _, err := os.Stat(n.Path); err != nil {
			r.fail("we name a node that is not there: %v", err)
		}
	}
	r.figure("nodes", len(edits.Nodes))
	r.figure("mounts", len(edits.Mounts))
	theirs, err := exec.CommandContext(r.ctx, beside("nvcdi")).Output()
	if err != nil {
		r.absent("NVIDIA's generator gives nothing here: %v", err)
	}
	r.compareCDI(edits, theirs)
}

// compareCDI fails for device nodes and libraries that only NVIDIA has; what only we have
// is noted.
func (r *run) compareCDI(ours cdi.Edits, theirs []byte) {
	type containerEdits struct {
		DeviceNodes []struct{ Path string }
		Mounts      []struct{ HostPath string }
	}
	var spec struct {
		Devices        []struct{ ContainerEdits containerEdits }
		ContainerEdits containerEdits
	}
	r.must(json.Unmarshal(theirs, &spec))
	nodes, mounts := map[string]bool{}, map[string]bool{}
	for _, n := range ours.Nodes {
		nodes[n.Path] = true
	}
	for _, x := range ours.Mounts {
		mounts[filepath.Base(x.Source)] = true
	}
	edits := []containerEdits{spec.ContainerEdits}
	for _, d := range spec.Devices {
		edits = append(edits, d.ContainerEdits)
	}
	for _, e := range edits {
		for _, n := range e.DeviceNodes {
			if strings.Contains(n.Path, "/nvidia") && !nodes[n.Path] && n.Path != "/dev/nvidia-modeset" {
				r.fail("NVIDIA gives the node %s, we do not", n.Path)
			}
		}
		for _, x := range e.Mounts {
			switch base := filepath.Base(x.HostPath); {
			case mounts[base]:
				delete(mounts, base)
			case strings.Contains(base, ".so."):
				r.fail("NVIDIA mounts %s, we do not", x.HostPath)
			default:
				r.note("NVIDIA mounts %s, we do not", x.HostPath)
			}
		}
	}
	for base := range mounts {
		r.note("we mount %s, NVIDIA does not", base)
	}
}

// recovery: the driver says what would mend a card, and what it has remapped.
func recovery(r *run) {
	f, err := r.suite.client.Figures(r.ctx, r.machine.GPUs[0].UUID)
	r.must(err)
	for _, name := range []device.Figure{device.RecoveryActionField, device.RemapPending, device.RemapFailure, device.RemappedCorrectable, device.RemappedUncorrected} {
		v, ok := f[0].Get(name)
		if !ok {
			r.note("the driver does not say %s", name)
			continue
		}
		r.figure(string(name), v)
		if (name == device.RecoveryActionField || name == device.RemapFailure) && v != 0 {
			r.fail("%s is %v: the card is not well", name, v)
		}
	}
}
