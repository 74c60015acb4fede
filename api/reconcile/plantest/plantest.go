// Package plantest tests pure plans from files: x.input.yaml goes in,
// x.output.yaml has to come out. With UPDATE_FIXTURES=1 in the environment the
// outputs are written anew, for review in the diff. Start reading at Run.
package plantest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// Run decodes every testdata/*.input.yaml strictly into an I and compares what plan
// makes of it, as YAML, with the output file.
func Run[I any](t *testing.T, plan func(I) any) {
	t.Helper()
	inputs, err := filepath.Glob("testdata/*.input.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("finding fixtures: %d found, %v", len(inputs), err)
	}
	for _, path := range inputs {
		base := strings.TrimSuffix(path, ".input.yaml")
		t.Run(filepath.Base(base), func(t *testing.T) {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var in I
			if err := yaml.UnmarshalStrict(raw, &in); err != nil {
				t.Fatalf("reading %s: %v", path, err)
			}
			got, err := yaml.Marshal(plan(in))
			if err != nil {
				t.Fatal(err)
			}
			compare(t, base+".output.yaml", string(got))
		})
	}
}

func compare(t *testing.T, path, got string) {
	t.Helper()
	if os.Getenv("UPDATE_FIXTURES") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
