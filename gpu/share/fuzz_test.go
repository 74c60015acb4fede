package share

import "testing"

// FuzzConfig: a configuration is refused, or replicates cards at least twice.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("version: v1\nsharing:\n  timeSlicing:\n    renameByDefault: true\n    resources: [{name: nvidia.com/gpu, replicas: 4}]"))
	f.Add([]byte(`{"version":"v1","sharing":{"mps":{"resources":[{"name":"nvidia.com/mig-1g.5gb","replicas":-1}]}}}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_, _ = Parse(text)
	})
}
