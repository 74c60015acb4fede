package audit

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPolicyWithoutASink: a policy that goes nowhere was accepted in silence, even one that
// is not there.
func TestPolicyWithoutASink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	if _, err := New(Config{PolicyFile: path}, nil, log); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("no such file: %v", err)
	}
	if err := os.WriteFile(path, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := New(Config{PolicyFile: path}, nil, log); a != nil || err != nil {
		t.Errorf("%v %v", a, err)
	}
	if !strings.Contains(out.String(), "nothing is recorded") {
		t.Errorf("logged %q", out.String())
	}
}
