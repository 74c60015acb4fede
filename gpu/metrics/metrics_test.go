package metrics

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
)

func sample(t testing.TB, machine string) Sample {
	t.Helper()
	rec, err := fakenvml.Load(machine)
	if err != nil {
		t.Fatal(err)
	}
	return Sample{Machine: rec.Machine, Figures: rec.Figures, Hostname: "box"}
}

// TestPage reads the page back with Prometheus' own parser.
func TestPage(t *testing.T) {
	s := sample(t, "h200-8")
	uuid := s.Machine.GPUs[0].UUID
	s.Owners = map[string][]Owner{uuid: {{Namespace: "ml", Pod: "train-0", UID: "u1", Container: "main"}, {Namespace: "ml", Pod: "odd\"\\\n", UID: "u2", Container: "c"}}}
	s.XIDs = map[string]XIDs{uuid: {Last: 31, Counts: map[uint64]int{31: 2, 13: 1}}}
	s.Usage = Usage{Namespaces: map[string]Used{"ml": {Held: 90 * time.Second, Joules: 1.5}}, Idle: map[Holding]time.Duration{{Owner{Namespace: "ml", Pod: "train-0", UID: "u1", Container: "main"}, uuid}: time.Second}}
	var b bytes.Buffer
	if err := Write(&b, s); err != nil {
		t.Fatal(err)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(&b)
	if err != nil {
		t.Fatal(err)
	}
	missing := 0
	for _, r := range rows[:25] {
		f := families[r.name]
		if f == nil {
			t.Errorf("%s is missing", r.name)
			missing++
			continue
		}
		labels := map[string]string{}
		for _, l := range f.Metric[0].Label {
			labels[l.GetName()] = l.GetValue()
		}
		for name, want := range map[string]string{"gpu": "0", "UUID": uuid, "device": "nvidia0", "modelName": "NVIDIA H200", "Hostname": "box",
			"hostname": "box", "DCGM_FI_DRIVER_VERSION": s.Machine.Driver.Version, "pod": "train-0", "namespace": "ml", "container": "main"} {
			if labels[name] != want {
				t.Errorf("%s: label %s is %q, want %q", r.name, name, labels[name], want)
			}
		}
		if len(f.Metric) != 2+7 {
			t.Errorf("%s: %d lines for eight cards, one with two owners", r.name, len(f.Metric))
		}
	}
	if missing == 0 && families["DCGM_EXP_XID_ERRORS_COUNT"] == nil || families["orch_gpu_namespace_seconds_total"] == nil || families["orch_gpu_allocated_idle_seconds_total"] == nil || families["orch_gpu_shares_unenforced"] == nil {
		t.Error("families of ours are missing")
	}
}

func TestWhatTheDriverDoesNotSayHasNoLine(t *testing.T) {
	s := sample(t, "t4")
	var b strings.Builder
	if err := Write(&b, s); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "DCGM_FI_PROF_") {
		t.Error("profiling figures of a card that has none")
	}
	if strings.Contains(b.String(), "NaN") {
		t.Error("a figure is no number")
	}
}

func TestMIGDevicesHaveTheirInstance(t *testing.T) {
	s := sample(t, "h200-mig")
	var b strings.Builder
	if err := Write(&b, s); err != nil {
		t.Fatal(err)
	}
	d := s.Machine.GPUs[0].MIGDevices()[0]
	if want := `GPU_I_PROFILE="` + d.Profile + `",GPU_I_ID="`; !strings.Contains(b.String(), want) || !strings.Contains(b.String(), `UUID="`+d.Parent+`"`) {
		t.Errorf("no %s in\n%s", want, b.String())
	}
}

func TestUsage(t *testing.T) {
	a, b := Owner{Namespace: "a", Pod: "p", UID: "1", Container: "c"}, Owner{Namespace: "b", Pod: "q", UID: "2", Container: "c"}
	at := func(s int64, mJ, busy float64) []device.Figures {
		return []device.Figures{{UUID: "G", UnixNano: s * 1e9, Values: map[device.Figure]float64{device.EnergyMillijoule: mJ, device.GPUUtilPercent: busy}}}
	}
	var u Usage
	u = u.Add(at(0, 0, 0), at(10, 5000, 50), map[string][]Owner{"G": {a, b}})
	u = u.Add(at(10, 5000, 50), at(20, 6000, 0), map[string][]Owner{"G": {a}})
	u = u.Add(at(20, 6000, 0), at(30, 100, 80), map[string][]Owner{"G": {a}}) // the driver was loaded again
	u = u.Add(at(30, 100, 0), at(30, 200, 0), map[string][]Owner{"G": {a}})   // no time has passed
	u = u.Add(nil, at(40, 200, 0), map[string][]Owner{"G": {a}})
	if got := u.Namespaces["a"]; got.Held != 25*time.Second || got.Joules != 3.5 {
		t.Errorf("a used %+v", got)
	}
	if got := u.Namespaces["b"]; got.Held != 5*time.Second || got.Joules != 2.5 {
		t.Errorf("b used %+v", got)
	}
	if got := u.Idle[Holding{a, "G"}]; got != 10*time.Second {
		t.Errorf("idle for %v", got)
	}
}

func BenchmarkWriteEightCards(b *testing.B) {
	s := sample(b, "h200-8")
	for b.Loop() {
		if err := Write(io.Discard, s); err != nil {
			b.Fatal(err)
		}
	}
}
