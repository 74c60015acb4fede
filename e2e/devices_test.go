package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orch/e2e/lab"
)

// TestDevicePlugin: a vendor's plugin, a process of its own, gives a pod a device node, a
// mount, a variable and a CDI device through the real runtime; orch restarts under it, and it dies.
func TestDevicePlugin(t *testing.T) {
	program := filepath.Join(t.TempDir(), "deviceplugin")
	build := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", program, "./deviceplugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	vendor := t.TempDir()
	writeFile(t, filepath.Join(vendor, "driver"), "the widget's driver\n")
	kind := fmt.Sprintf("orch-e2e-%d.example.com/widget", os.Getpid()) // /var/run/cdi is the machine's
	spec := filepath.Join("/var/run/cdi", strings.ReplaceAll(kind, "/", "-")+".json")
	if err := os.MkdirAll(filepath.Dir(spec), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, spec, fmt.Sprintf(`{"cdiVersion":"0.5.0","kind":%q,"devices":[
{"name":"w0","containerEdits":{"env":["CDI=w0"],"deviceNodes":[{"path":"/dev/cdi0","hostPath":"/dev/zero"}]}},
{"name":"w1","containerEdits":{"env":["CDI=w1"],"deviceNodes":[{"path":"/dev/cdi1","hostPath":"/dev/zero"}]}}]}`, kind))
	t.Cleanup(func() { os.Remove(spec) })

	h := lab.New(t).Host("widgets")
	h.Images()
	server := h.StartServer()
	c := newCluster(t, h)
	sockets := filepath.Join(h.Dir, "agent", "kubelet", "device-plugins")
	plugin := h.Start(program, sockets, vendor, kind)
	widgets := func(c cluster, capacity, allocatable string) {
		t.Helper()
		c.GetsWithin(patience, "node/widgets", `{.status.capacity.example\.com/widget}/{.status.allocatable.example\.com/widget}`, capacity+"/"+allocatable)
	}
	widgets(c, "2", "2")
	gpuPod(c, "one", "example.com/widget", 1)
	c.Ready("one")
	given := strings.TrimSpace(c.Exec("one", "sh", "-c", "echo $WIDGETS").Stdout)
	contains(t, given, "w")
	equal(t, "variable of the CDI device", strings.TrimSpace(c.Exec("one", "sh", "-c", "echo $CDI").Stdout), given)
	contains(t, c.Exec("one", "cat", "/opt/widget/driver").Stdout, "the widget's driver")
	contains(t, c.Exec("one", "sh", "-c", "echo x > /opt/widget/driver").Stderr, "Read-only")
	contains(t, c.Exec("one", "sh", "-c", "echo x > /dev/widget").Both(), "No space left on device") // it is /dev/full
	equal(t, "bytes of the CDI device", strings.TrimSpace(c.Exec("one", "sh", "-c", "head -c 3 /dev/cdi* | wc -c").Stdout), "3")
	c.Gets("pod/one", `{.status.containerStatuses[0].allocatedResourcesStatus}`,
		fmt.Sprintf(`[{"name":"example.com/widget","resources":[{"health":"Healthy","resourceID":%q}]}]`, given))

	server.Kill()
	server.Restart()
	c = cluster{h.For(t), c.ns}
	widgets(c, "2", "2")
	gpuPod(c, "two", "example.com/widget", 1)
	c.Ready("one", "two")
	if other := strings.TrimSpace(c.Exec("two", "sh", "-c", "echo $WIDGETS").Stdout); other == given {
		t.Errorf("%s is in two live containers", given)
	}
	plugin.Stop()
	widgets(c, "2", "0")
	c.GetsWithin(patience, "pod/one", `{.status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health}`, "Unknown")
}
