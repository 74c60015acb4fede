package gpusuite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orch/gpu/fakenvml"
)

// answer is what nvidia-smi says of the recorded machine h200.
func answer(t *testing.T) (string, func() []string) {
	t.Helper()
	rec, err := fakenvml.Load("h200")
	if err != nil {
		t.Fatal(err)
	}
	var cells []string
	for _, r := range rows {
		v, ok := r.say(rec.Machine.Driver, rec.Machine.GPUs[0])
		if !ok {
			v = "[N/A]"
		}
		cells = append(cells, v)
	}
	text := strings.Join(cells, ", ") + "\n"
	return text, func() []string { return Compare(text, rec.Machine) }
}

func TestCompareSeesEveryField(t *testing.T) {
	text, compare := answer(t)
	if got := compare(); len(got) > 0 {
		t.Fatalf("equal answers differ: %q", got)
	}
	rec, _ := fakenvml.Load("h200")
	cells := strings.Split(strings.TrimSpace(text), ", ")
	for i, r := range rows {
		other := append([]string(nil), cells...)
		other[i] = "7777"
		if got := Compare(strings.Join(other, ", "), rec.Machine); len(got) != 1 || !strings.Contains(got[0], r.field) {
			t.Errorf("%s: %q", r.field, got)
		}
	}
	if got := Compare(text+text, rec.Machine); len(got) != 1 || !strings.Contains(got[0], "2 cards") {
		t.Errorf("a card too many: %q", got)
	}
	if got := Compare("No devices were found\n", rec.Machine); len(got) != 1 {
		t.Errorf("no table: %q", got)
	}
}

func TestReportIsWholeAfterEveryCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	var r Report
	for _, s := range []Status{Pass, Fail, Absent, Pass} {
		r.Add(Result{ID: "H1", Status: s})
		if err := r.Write(path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), `"failed": 1`) || r.Passed != 2 || r.Absent != 1 {
		t.Errorf("%v %s", err, b)
	}
	if q := Quantile([]time.Duration{time.Millisecond, 2 * time.Millisecond, 9 * time.Millisecond}, 0.99); q != 9 {
		t.Errorf("p99 is %v", q)
	}
}
