package fakenvml

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"orch/gpu/device"
)

var rewrite = flag.Bool("rewrite", false, "write the recordings and the transcripts anew")

// figures are those of an idle card.
func figures(g device.GPU, c card) []device.Figures {
	const mib = 1 << 20
	total := float64(c.memoryMiB * mib)
	reserved := float64(c.memoryMiB/128) * mib
	v := map[device.Figure]float64{
		device.SMClockMHz: 345, device.MemClockMHz: 1593, device.TemperatureC: 31, device.PowerMilliwatt: float64(c.milliwatt / 8), device.PState: 0,
		device.GPUUtilPercent: 0, device.MemUtilPercent: 0, device.EncoderUtilPercent: 0, device.DecoderUtilPercent: 0,
		device.FBTotalBytes: total, device.FBReservedBytes: reserved, device.FBUsedBytes: 0, device.FBFreeBytes: total - reserved,
		device.ClockEventReasons: 1,
	}
	if !c.consumer {
		for _, f := range []device.Figure{device.PCIeReplays, device.PowerViolationNS, device.ThermalViolationNS, device.ECCSBEVolatile, device.ECCDBEVolatile,
			device.ECCSBEAggregate, device.ECCDBEAggregate, device.RecoveryActionField} {
			v[f] = 0
		}
		v[device.EnergyMillijoule] = 8.25e9
		if c.major >= 8 {
			for _, f := range []device.Figure{device.RemappedCorrectable, device.RemappedUncorrected, device.RemapPending, device.RemapFailure} {
				v[f] = 0
			}
		} else {
			v[device.RetiredSBE], v[device.RetiredDBE], v[device.RetiredPending] = 0, 0, 0
		}
	}
	if c.memTemperature {
		v[device.MemoryTemperatureC] = 36
	}
	if len(g.Peers) > 0 && g.Peers[0].NVLinks > 0 {
		v[device.NVLinkRxKiB], v[device.NVLinkTxKiB] = 0, 0
	}
	if c.gpm {
		for _, f := range []device.Figure{device.GPMGraphics, device.GPMSM, device.GPMOccupancy, device.GPMTensor, device.GPMDRAM, device.GPMFP64, device.GPMFP32,
			device.GPMFP16, device.GPMPCIeTxBytesSec, device.GPMPCIeRxBytesSec} {
			v[f] = 0
		}
	}
	if g.MIG.Enabled() { // the card's own utilisation is not said while it is partitioned
		for _, f := range []device.Figure{device.GPUUtilPercent, device.MemUtilPercent, device.EncoderUtilPercent, device.DecoderUtilPercent} {
			delete(v, f)
		}
	}
	out := []device.Figures{{UUID: g.UUID, Values: v}}
	for _, d := range g.MIGDevices() {
		all := float64(*d.MemoryBytes)
		out = append(out, device.Figures{UUID: d.UUID, Values: map[device.Figure]float64{device.FBTotalBytes: all, device.FBReservedBytes: 0,
			device.FBUsedBytes: 0, device.FBFreeBytes: all, device.GPMGraphics: 0, device.GPMTensor: 0, device.GPMDRAM: 0}})
	}
	return out
}

func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range boxes {
		var want bytes.Buffer
		if _, err := b.recording().WriteTo(&want); err != nil {
			t.Fatal(err)
		}
		path := "machines/" + b.name + ".json"
		if *rewrite {
			if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s is not what facts_test.go says: run go test ./gpu/fakenvml -rewrite", path)
		}
		seen[b.name] = true
	}
	for _, name := range Names() {
		rec, err := Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		ids := map[string]bool{}
		for _, g := range rec.Machine.GPUs {
			for _, id := range []string{g.UUID, g.PCI.Address} {
				if id == "" || ids[id] {
					t.Errorf("%s: %q stands twice", name, id)
				}
				ids[id] = true
			}
			for _, d := range g.MIGDevices() {
				if ids[d.UUID] || d.Profile == "" {
					t.Errorf("%s: MIG device %+v", name, d)
				}
				ids[d.UUID] = true
			}
		}
	}
	if len(seen) > len(Names()) {
		t.Errorf("%d machines are made, %d embedded", len(seen), len(Names()))
	}
}

func TestTakeForgetsTheRest(t *testing.T) {
	rec, err := Load("h100-8")
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 8; n++ {
		got := Take(rec, n)
		if len(got.Machine.GPUs) != n || len(got.Figures) != n || len(got.Machine.GPUs[0].Peers) != n-1 {
			t.Errorf("Take(%d) has %d cards, %d figures, %d peers", n, len(got.Machine.GPUs), len(got.Figures), len(got.Machine.GPUs[0].Peers))
		}
	}
	if len(rec.Machine.GPUs) != 8 || len(rec.Machine.GPUs[0].Peers) != 7 {
		t.Error("Take changed what it took from")
	}
}
