// Package gpusuite checks orch on a machine with a real NVIDIA card: discovery, figures,
// containers, health, sharing, and what things cost, each against what the driver's own
// tools say. It is one test program that `make gpu-suite` builds together with all that it
// needs into one folder, and writes one JSON report. The checks are behind the build tag
// gpusuite, so that no other test run depends on a card; what can be tested without one
// (the report, reading nvidia-smi) is not.
//
// Start reading at checks in suite_test.go.
package gpusuite

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Status of a check.
type Status string

// Outcomes.
const (
	Pass Status = "pass"
	Fail Status = "fail"
	// Absent: the machine or its driver lacks what the check needs; the notes say what.
	Absent Status = "absent"
)

// Result is what one check saw.
type Result struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Seconds that it took.
	Seconds float64 `json:"seconds"`
	// Figures by name, with the unit in the name.
	Figures map[string]any `json:"figures,omitempty"`
	Notes   []string       `json:"notes,omitempty"`
}

// Report is the file.
type Report struct {
	Version int       `json:"version"`
	Taken   time.Time `json:"taken"`
	Orch    string    `json:"orch"`
	// Machine is what the probe found before the first check.
	Machine map[string]string `json:"machine"`
	Results []Result          `json:"results"`
	Passed  int               `json:"passed"`
	Failed  int               `json:"failed"`
	Absent  int               `json:"absent"`
}

// Add counts a result.
func (r *Report) Add(x Result) {
	r.Results = append(r.Results, x)
	switch x.Status {
	case Pass:
		r.Passed++
	case Fail:
		r.Failed++
	case Absent:
		r.Absent++
	}
}

// Write replaces the file: it is whole after every check.
func (r *Report) Write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return os.Rename(path+".new", path)
}

// Quantile of durations that are sorted, in milliseconds.
func Quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Microseconds()) / 1000
}
