package device

import (
	"bytes"
	"strings"
	"testing"
)

func TestAddress(t *testing.T) {
	for _, tc := range []struct{ in, want, nvml string }{
		{"00000000:1B:00.0", "0000:1b:00.0", "00000000:1B:00.0"},
		{"0000:1b:00", "0000:1b:00.0", "00000000:1B:00.0"},
		{"1b:00.0", "0000:1b:00.0", "00000000:1B:00.0"},
		{"00010000:00:00.0", "10000:00:00.0", "00010000:00:00.0"},
		{" 0001:00:00.0\n", "0001:00:00.0", "00000001:00:00.0"},
	} {
		got := Address(tc.in)
		if got != tc.want || (PCI{Address: got}).NVMLBusID() != tc.nvml {
			t.Errorf("Address(%q) = %q and %q, want %q and %q", tc.in, got, PCI{Address: got}.NVMLBusID(), tc.want, tc.nvml)
		}
	}
}

func migGPU() GPU {
	return GPU{UUID: "GPU-1", Compute: &Capability{9, 0}, MIG: &MIG{Mode: Pending{Current: true},
		Profiles: []Profile{{ID: 14, Name: "2g.35gb", Slices: 2, Placements: []Placement{{0, 2}}}},
		Instances: []GPUInstance{{ID: 3, ProfileID: 14, Placement: Placement{0, 2}, Compute: []ComputeInstance{
			{ID: 1, UUID: "MIG-b", Slices: 1, Index: 1}, {ID: 0, UUID: "MIG-a", Slices: 1, Index: 0}}}}}}
}

func TestMIGDevicesAreNamedByWhatTheyHave(t *testing.T) {
	m := Machine{GPUs: []GPU{migGPU()}}
	d, ok := m.MIGDevice("MIG-a")
	if !ok || d.Profile != "1c.2g.35gb" || d.Parent != "GPU-1" || d.GI != 3 || d.Kind.ID != 14 {
		t.Errorf("MIG-a is %+v, %v", d, ok)
	}
	all := m.GPUs[0].MIGDevices()
	if len(all) != 2 || all[0].UUID != "MIG-a" || all[1].UUID != "MIG-b" {
		t.Errorf("devices are %+v", all)
	}
	m.GPUs[0].MIG.Mode.Current = false
	if n := len(m.GPUs[0].MIGDevices()); n != 0 {
		t.Errorf("%d MIG devices with the mode off", n)
	}
}

func TestCloneKeepsTheOriginal(t *testing.T) {
	m := Machine{GPUs: []GPU{migGPU()}, Module: Module{Majors: map[string]uint32{"nvidia-uvm": 500}}}
	c := m.Clone()
	c.Module.Majors["nvidia-uvm"] = 501
	c.GPUs[0].MIG.Instances[0].Compute[0].UUID = "changed"
	c.GPUs[0].MIG.Profiles[0].Placements[0].Start = 9
	if m.Module.Majors["nvidia-uvm"] != 500 || m.GPUs[0].MIG.Instances[0].Compute[0].UUID != "MIG-b" ||
		m.GPUs[0].MIG.Profiles[0].Placements[0].Start != 0 {
		t.Errorf("the original changed: %+v", m)
	}
}

func TestRecordingRoundTrip(t *testing.T) {
	rec := Recording{Note: "a note", Machine: Machine{Tier: TierNVML, GPUs: []GPU{migGPU()}},
		Figures: []Figures{{UUID: "GPU-1", Values: map[Figure]float64{EnergyMillijoule: 9007199254740991}}}}
	var b bytes.Buffer
	if _, err := rec.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	got, err := ReadRecording(&b)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := got.Figures[0].Get(EnergyMillijoule); !ok || v != 9007199254740991 || got.Version != RecordingVersion || got.Machine.GPUs[0].MIG.Profiles[0].Name != "2g.35gb" {
		t.Errorf("read back %+v", got)
	}
	for name, bad := range map[string]string{
		"newer version": strings.Replace(text, `"version": 1`, `"version": 2`, 1), "no version": `{}`, "unknown field": `{"version":1,"x":1}`,
		"rest": text + "{}", "cut": text[:len(text)/2], "empty": "",
	} {
		if _, err := ReadRecording(strings.NewReader(bad)); err == nil || !strings.HasPrefix(err.Error(), "reading a recording: ") {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestCliqueOnlyOfACompletedFabric(t *testing.T) {
	var none *Fabric
	f := &Fabric{State: "completed", ClusterUUID: "d8a4b2", CliqueID: 7}
	empty := &Fabric{State: "completed", ClusterUUID: "00000000-0000-0000-0000-000000000000"}
	if none.Clique() != "" || f.Clique() != "d8a4b2.7" || empty.Clique() != "" || (&Fabric{State: "in-progress", ClusterUUID: "d8"}).Clique() != "" {
		t.Error("a clique where there is none, or the other way")
	}
}

func TestProfileNameOfOldDrivers(t *testing.T) {
	for _, tc := range []struct {
		index, slices int
		memoryMiB     uint64
		cardMiB       uint64
		want          string
	}{
		{0, 1, 4864, 40536, "1g.5gb"}, {7, 1, 4864, 40536, "1g.5gb+me"}, {4, 7, 40192, 40536, "7g.40gb"}, {2, 3, 40192, 81251, "3g.40gb"},
		{9, 1, 20096, 81559, "1g.20gb"}, {0, 1, 16384, 143771, "1g.18gb"}, {1, 2, 33280, 143771, "2g.35gb"}, {4, 7, 1, 0, ""},
	} {
		if got := ProfileName(tc.index, tc.slices, tc.memoryMiB<<20, tc.cardMiB<<20); got != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}
