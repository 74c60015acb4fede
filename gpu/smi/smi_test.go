package smi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSetTimeSlice(t *testing.T) {
	dir := t.TempDir()
	p := Program{Path: filepath.Join(dir, Name), Env: []string{"OUT=" + filepath.Join(dir, "out"), "PATH=/usr/bin:/bin"}}
	script := func(text string) {
		t.Helper()
		if err := os.WriteFile(p.Path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script(`echo "$@" >$OUT`)
	if err := p.SetTimeSlice(t.Context(), "GPU-1", "Long"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(got) != "compute-policy -i GPU-1 --set-timeslice 3\n" {
		t.Errorf("%q %v", got, err)
	}
	script("echo 'Failed to set' >&2; echo timeslice; exit 3")
	if err := p.SetTimeSlice(t.Context(), "GPU-1", "Default"); err == nil || err.Error() != "nvidia-smi compute-policy: Failed to set timeslice (exit status 3)" {
		t.Error(err)
	}
	if err := p.SetTimeSlice(t.Context(), "GPU-1", "Ages"); err == nil {
		t.Error("a length that is none was set")
	}
	p.Path += "-not"
	if err := p.SetTimeSlice(t.Context(), "GPU-1", "Short"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}
