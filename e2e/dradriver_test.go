package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orch/e2e/lab"
)

const widgetClaims = `
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: widgets}
spec: {selectors: [{cel: {expression: "device.driver == 'widgets.example.com'"}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: widget}
spec: {spec: {devices: {requests: [{name: w, exactly: {deviceClassName: widgets}}]}}}
`

// TestDRADriver: a vendor's driver, a process of its own made with the library for such, prepares
// pods' claims: they get its devices by CDI, over a restart of orch, and give them back when they end; a pod
// waits for a driver that is away.
func TestDRADriver(t *testing.T) {
	program := filepath.Join(t.TempDir(), "dradriver")
	build := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", program, "./dradriver")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kind := fmt.Sprintf("orch-e2e-%d.example.com/dra", os.Getpid()) // /var/run/cdi is the machine's
	described := func() []string {
		files, err := filepath.Glob(filepath.Join("/var/run/cdi", strings.ReplaceAll(kind, "/", "-")+"-*.json"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	t.Cleanup(func() {
		for _, f := range described() {
			os.Remove(f)
		}
	})

	h := lab.New(t).Host("drabox")
	h.Images()
	server := h.StartServer()
	c := newCluster(t, h)
	c.Apply(widgetClaims)
	template := map[string]string{"r": "resourceClaimTemplateName: widget"}
	claimed(c, "one", template, map[string]string{"main": "r", "other": ""})
	c.Eventually(patience, "it is told why it waits", func() error {
		return missing(c.K("describe", "pod", "one"), "cannot allocate all claims")
	})
	start := func() func() {
		p := h.Start("env", "KUBECONFIG="+h.Kubeconfig(), program, "drabox", filepath.Join(h.Dir, "agent", "kubelet"), kind)
		return p.Stop
	}
	stop := start()
	c.Ready("one")
	widgets := func(pod string) string {
		return strings.TrimSpace(c.K("exec", pod, "-c", "main", "--", "sh", "-c", "echo $WIDGETS"))
	}
	first := widgets("one")
	contains(t, first, "w")
	equal(t, "container that lists no claim", strings.TrimSpace(c.K("exec", "one", "-c", "other", "--", "sh", "-c", "echo $WIDGETS")), "")
	c.GetsWithin(patience, "pod/one", `{.status.containerStatuses[?(@.name=="main")].allocatedResourcesStatus[0].name} {.status.containerStatuses[?(@.name=="main")].allocatedResourcesStatus[0].resources[0].health}`, "claim:r Healthy")

	server.Kill()
	server.Restart()
	c = cluster{h.For(t), c.ns}
	claimed(c, "two", template, map[string]string{"main": "r"})
	c.Ready("one", "two")
	if second := widgets("two"); second == first || !strings.Contains(second, "w") {
		t.Errorf("the pods have %s and %s", first, second)
	}
	equal(t, "claims described on the host", fmt.Sprint(len(described())), "2")
	c.K("delete", "pod", "two")
	c.Eventually(patience, "the driver took the claim back", func() error {
		if n := len(described()); n != 1 {
			return fmt.Errorf("%d claims are described on the host", n)
		}
		return nil
	})

	// Without the driver the pod cannot give its claim back; it is not reported as ended.
	stop()
	c.K("delete", "pod", "one", "--wait=false")
	claimed(c, "three", template, map[string]string{"main": "r"})
	c.Eventually(patience, "it is told why it waits", func() error {
		return missing(c.K("describe", "pod", "three"), "Failed to prepare dynamic resources: prepare dynamic resources: DRA driver widgets.example.com is not registered")
	})
	contains(t, c.K("get", "pod", "one"), "Terminating")
	defer start()()
	c.Ready("three")
	c.Eventually(patience, "the pod that ended is gone", func() error {
		if out := c.K("get", "pod", "one", "--ignore-not-found"); out != "" {
			return errors.New(out)
		}
		return nil
	})
}
