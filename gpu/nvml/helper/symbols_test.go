package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSymbols reads the sources, so that it runs without a C compiler too: each function
// that is asked for stands in the table, each row of the table is asked for, and NVML
// has it.
func TestSymbols(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	literal := regexp.MustCompile(`"(nvml[A-Z]\w+)"`)
	used, rows := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range literal.FindAllStringSubmatch(string(b), -1) {
			switch f {
			case "symbols.go":
				rows[m[1]] = true
			case "symbols_test.go":
			default:
				used[m[1]] = true
			}
		}
	}
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml").Output()
	if err != nil {
		t.Fatalf("finding go-nvml: %v", err)
	}
	header, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkg/nvml/nvml.h"))
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`\b(nvml[A-Z]\w+)\s*\(`)
	var known []string
	for _, m := range declared.FindAllStringSubmatch(string(header), -1) {
		known = append(known, m[1])
	}
	for name := range used {
		if !rows[name] && name != "nvmlInit" { // what open blames, not what it looks up
			t.Errorf("%s is asked for and not in the table", name)
		}
	}
	for name := range rows {
		if !used[name] {
			t.Errorf("%s is in the table and never asked for", name)
		}
		if !slices.Contains(known, name) {
			t.Errorf("%s is no function of NVML", name)
		}
	}
}
