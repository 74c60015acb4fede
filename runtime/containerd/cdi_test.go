package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestInjectCDI: nodes with their rules, mounts, variables and hooks of a specification; a
// name that nothing describes is an error.
func TestInjectCDI(t *testing.T) {
	dir := t.TempDir()
	const text = `{"cdiVersion":"0.5.0","kind":"amd.com/gpu","devices":[{"name":"0","containerEdits":{
"deviceNodes":[{"path":"/dev/null0","hostPath":"/dev/null"}],"env":["A=1"],"mounts":[{"hostPath":"/opt","containerPath":"/opt","options":["ro","bind"]}],
"hooks":[{"hookName":"createContainer","path":"/bin/true"}]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "amd.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}}}
	if err := injectCDI(spec, []string{"amd.com/gpu=0"}, dir); err != nil {
		t.Fatal(err)
	}
	rules := spec.Linux.Resources.Devices
	if len(spec.Linux.Devices) != 1 || spec.Linux.Devices[0].Path != "/dev/null0" || len(rules) != 2 || !rules[1].Allow || *rules[1].Major != 1 || *rules[1].Minor != 3 {
		t.Errorf("devices are %v, rules %v", spec.Linux.Devices, rules)
	}
	if len(spec.Process.Env) != 1 || len(spec.Mounts) != 1 || spec.Hooks == nil || len(spec.Hooks.CreateContainer) != 1 {
		t.Errorf("%v %v %v", spec.Process.Env, spec.Mounts, spec.Hooks)
	}
	if err := injectCDI(spec, []string{"amd.com/gpu=1"}, dir); err == nil || !strings.Contains(err.Error(), "unresolvable CDI devices amd.com/gpu=1") {
		t.Error(err)
	}
	if err := injectCDI(spec, nil, "/nowhere"); err != nil {
		t.Error(err)
	}
}
