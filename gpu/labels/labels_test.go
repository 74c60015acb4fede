package labels

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/validate/content"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/share"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

var slicing = share.Config{Method: share.TimeSlicing, Resources: []share.Replication{{Name: share.GPU, As: share.GPU, Replicas: 4}}}

// TestGolden compares the labels of catalogue machines with reviewed files.
func TestGolden(t *testing.T) {
	for _, tc := range []struct {
		name, machine string
		config        share.Config
	}{
		{"t4", "t4", share.Config{}}, {"h200", "h200", share.Config{}}, {"h100-8", "h100-8", share.Config{}}, {"rtx", "rtx", share.Config{}},
		{"mixed-models", "mixed", share.Config{}}, {"shared", "h100", slicing},
		{"mig-none", "h200-mig", share.Config{}}, {"mig-mixed", "h200-mig", share.Config{MIG: share.Mixed}}, {"mig-single", "h200-mig", share.Config{MIG: share.Single}},
	} {
		rec, err := fakenvml.Load(tc.machine)
		if err != nil {
			t.Fatal(err)
		}
		got := Of(rec.Machine, Options{Share: tc.config, Now: time.Unix(1795000000, 0)})
		var b strings.Builder
		for _, k := range slices.Sorted(maps.Keys(got)) {
			fmt.Fprintf(&b, "%s=%s\n", k, got[k])
			if !Owned(k) {
				t.Errorf("%s: %s is not owned", tc.name, k)
			}
			if msgs := append(content.IsLabelKey(k), content.IsLabelValue(got[k])...); len(msgs) > 0 {
				t.Errorf("%s: %s=%s: %v", tc.name, k, got[k], msgs)
			}
		}
		path := filepath.Join("testdata", tc.name+".txt")
		if *rewrite {
			if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil || string(want) != b.String() {
			t.Errorf("%s: %v; got:\n%s", tc.name, err, b.String())
		}
	}
}

func TestSingleOfOneProfile(t *testing.T) {
	rec, err := fakenvml.Load("h200-mig")
	if err != nil {
		t.Fatal(err)
	}
	m := rec.Machine.Clone()
	m.GPUs = m.GPUs[:1]
	m.GPUs[0].MIG.Instances = m.GPUs[0].MIG.Instances[:1]
	d := m.GPUs[0].MIGDevices()[0]
	got := Of(m, Options{Share: share.Config{MIG: share.Single}})
	want := value(m.GPUs[0].Name + "-MIG-" + strings.ReplaceAll(d.Profile, "+", "."))
	if got["nvidia.com/gpu.product"] != want || got["nvidia.com/gpu.count"] != "1" || got["nvidia.com/gpu.replicas"] != "1" || got["nvidia.com/gpu.slices.gi"] == "" {
		t.Errorf("%v", got)
	}
}

func TestBrokenDriverSaysOnlyWhatTheBusSays(t *testing.T) {
	m := device.Machine{Tier: device.TierSysfs, Problem: &device.Problem{Code: device.CodeVersionMismatch}, GPUs: []device.GPU{{PCI: device.PCI{Class: 0x0302}}}}
	got := Of(m, Options{Now: time.Unix(1, 0)})
	if got["feature.node.kubernetes.io/pci-0302_10de.present"] != "true" || got["nvidia.com/gpu.present"] != "true" || got["nvidia.com/gpu.count"] != "" {
		t.Errorf("%v", got)
	}
	if got := Of(device.Machine{}, Options{}); got != nil {
		t.Errorf("a machine without GPUs has %v", got)
	}
}

func TestOwnedLeavesWishesAlone(t *testing.T) {
	for _, k := range []string{"nvidia.com/mig.config", "nvidia.com/mig.config.state", "nvidia.com/device-plugin.config", "kubernetes.io/hostname", "nvidia.com/other", "nvidia.com/gpu-driver-upgrade-state"} {
		if Owned(k) {
			t.Errorf("%s is owned", k)
		}
	}
}
