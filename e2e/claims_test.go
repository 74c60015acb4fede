package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"orch/e2e/lab"
)

// devicesInAPI are the devices of the node in the API.
func (c cluster) devicesInAPI(node string) []string {
	c.Helper()
	return strings.Fields(c.Kubectl("get", "resourceslices", "--field-selector", "spec.nodeName="+node, "-o", "jsonpath={.items[*].spec.devices[*].name}"))
}

// TestResourceSlices: a node's GPUs are in the API as soon as it is ready, on a node that
// joined too, and go with the GPUs.
func TestResourceSlices(t *testing.T) {
	g := newGPUMachine(t, "h200-mig", 0)
	l := lab.New(t)
	h := l.Host("slicebox")
	server := h.StartServer()
	c := newCluster(t, h)
	if got := c.devicesInAPI("slicebox"); len(got) > 0 {
		t.Errorf("a node without GPUs has %v", got)
	}
	joined := l.Host("slicenode")
	started := time.Now()
	agent := joined.StartAgent(server, g.flags()...)
	c.Eventually(patience, "the slices are there", func() error {
		if n := len(c.devicesInAPI("slicenode")); n != 4 {
			return fmt.Errorf("%d devices", n)
		}
		return nil
	})
	t.Logf("slices were seen %s after the agent's start began", time.Since(started).Round(time.Millisecond))
	contains(t, c.Kubectl("get", "resourceslices", "-o", "yaml"), "gpu-0-mig-1g18gb-19-2", "gpu-0-counter-set", "orch.io/resource", "kind: Node")
	versions := func() string {
		return c.Kubectl("get", "resourceslices", "-o", "jsonpath={.items[*].metadata.resourceVersion}")
	}
	c.Eventually(patience, "slices are written on change only", func() error {
		before := versions()
		time.Sleep(time.Second)
		return equalNow(before, versions())
	})
	name := c.Kubectl("get", "resourceslices", "--field-selector", "spec.nodeName=slicenode", "-o", "jsonpath={.items[0].metadata.name}")
	c.Kubectl("delete", "resourceslice", name)
	c.Eventually(patience, "what was deleted is made again", func() error {
		if n := len(strings.Fields(c.Kubectl("get", "resourceslices", "-o", "jsonpath={.items[*].metadata.name}"))); n != 2 {
			return fmt.Errorf("%d slices", n)
		}
		return nil
	})
	agent.Stop()
	joined.StartAgent(server)
	c.Eventually(patience, "the slices of cards that went are gone", func() error {
		if got := c.devicesInAPI("slicenode"); len(got) > 0 {
			return errors.New(strings.Join(got, " "))
		}
		return nil
	})
}

func equalNow(before, now string) error {
	if before != now {
		return fmt.Errorf("they were %s and are %s", before, now)
	}
	return nil
}

// claimed is a pod whose containers use claims: "a/b" in a container's list is request b of a.
func claimed(c cluster, name string, claims map[string]string, containers map[string]string, more ...string) {
	c.Helper()
	text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 1\n", name)
	for _, m := range more {
		text += "  " + m + "\n"
	}
	text += "  resourceClaims:\n"
	for _, k := range slices.Sorted(maps.Keys(claims)) {
		text += fmt.Sprintf("  - {name: %s, %s}\n", k, claims[k])
	}
	text += "  containers:\n"
	for _, k := range slices.Sorted(maps.Keys(containers)) {
		var list []string
		for _, l := range strings.Fields(containers[k]) {
			claim, request, ok := strings.Cut(l, "/")
			if ok {
				list = append(list, fmt.Sprintf("{name: %s, request: %s}", claim, request))
			} else {
				list = append(list, "{name: "+claim+"}")
			}
		}
		text += fmt.Sprintf("  - {name: %s, image: 'busybox:1.36', command: [sh, -c, 'trap exit TERM; sleep 3600 & wait'], resources: {claims: [%s]}}\n", k, strings.Join(list, ", "))
	}
	c.Apply(text)
}

// visible are the devices that a container was given.
func (c cluster) visible(pod, container string) string {
	c.Helper()
	return strings.TrimSpace(c.K("exec", pod, "-c", container, "--", "sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES"))
}

const oneCard = `
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one-card}
spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.nvidia.com}}]}}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: shared}
spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.nvidia.com}}]}}
`

// TestClaims: pods get whole cards by claims, beside those that ask plainly, and over the end of orch.
func TestClaims(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 4)
	h := lab.New(t).Host("claimbox")
	h.Images()
	server := h.StartServer(g.flags()...)
	c := newCluster(t, h)
	c.Apply(oneCard)
	claimed(c, "alone", map[string]string{"r": "resourceClaimTemplateName: one-card"}, map[string]string{"a": "r", "b": "r/gpu", "c": ""})
	claimed(c, "first", map[string]string{"r": "resourceClaimName: shared"}, map[string]string{"main": "r"})
	claimed(c, "second", map[string]string{"r": "resourceClaimName: shared"}, map[string]string{"main": "r"})
	gpuPod(c, "plain", "nvidia.com/gpu", 1)
	c.Ready("alone", "first", "second", "plain")
	alone, shared := c.visible("alone", "a"), c.visible("first", "main")
	equal(t, "second container of the claim", c.visible("alone", "b"), alone)
	equal(t, "container without a claim", c.K("exec", "alone", "-c", "c", "--", "sh", "-c", "ls /dev | grep nvidia | wc -l"), "0")
	equal(t, "second pod of the claim", c.visible("second", "main"), shared)
	c.GetsWithin(patience, "resourceclaim/shared", `{.status.devices[*].driver} {.status.devices[*].conditions[?(@.type=="Ready")].status} {.status.devices[*].conditions[?(@.type=="Ready")].reason}`, "gpu.nvidia.com True Prepared")
	equal(t, "the device that the claim's status speaks of", c.Get("resourceclaim/shared", "{.status.devices[*].device}"), c.Get("resourceclaim/shared", "{.status.allocation.devices.results[*].device}"))
	held := []string{alone, shared, c.visible("plain", "main")}
	if slices.Sort(held); len(slices.Compact(held)) != 3 || !strings.HasPrefix(held[0], "GPU-") {
		t.Errorf("cards are %v", held)
	}
	contains(t, c.K("exec", "alone", "-c", "a", "--", "nvidia-smi"), "this is nvidia-smi")
	t.Run("the fifth card is not there", func(t *testing.T) {
		c := cluster{h.For(t), c.ns}
		gpuPod(c, "rest", "nvidia.com/gpu", 2)
		c.Eventually(patience, "it is told why it waits", func() error {
			return missing(c.K("describe", "pod", "rest"), "Insufficient nvidia.com/gpu")
		})
		c.K("delete", "pod", "rest", "--grace-period=0", "--force")
	})
	t.Run("over the end of orch", func(t *testing.T) {
		server.Kill()
		server.Restart()
		c := cluster{h.For(t), c.ns}
		c.Ready("alone", "first", "second", "plain")
		equal(t, "the claim's card after a restart", c.visible("first", "main"), shared)
		c.K("delete", "pod", "first")
		equal(t, "the card of the other pod", c.visible("second", "main"), shared)
		c.K("delete", "pod", "second", "alone", "plain")
		c.K("delete", "resourceclaim", "shared")
		gpuPod(c, "all", "nvidia.com/gpu", 4)
		c.Ready("all")
		c.K("delete", "pod", "all")
		c.K("delete", "resourceclaimtemplate", "one-card") // the example's has the same name
		c.Apply(readFile(t, filepath.Join(lab.Root(), "examples", "gpu", "claims.yaml")))
		c.Ready("together")
	})
}

// TestClaimOfAPart: a MIG device is chosen by what it is.
func TestClaimOfAPart(t *testing.T) {
	g := newGPUMachine(t, "h200-mig", 0)
	h := lab.New(t).Host("partbox")
	h.Images()
	h.StartServer(g.flags()...)
	c := newCluster(t, h)
	c.Apply(`
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: small}
spec:
  spec:
    devices:
      requests:
      - name: part
        exactly:
          deviceClassName: mig.nvidia.com
          selectors: [{cel: {expression: "device.attributes['gpu.nvidia.com'].profile == '1g.18gb'"}}]
`)
	for _, name := range []string{"one", "two"} {
		claimed(c, name, map[string]string{"r": "resourceClaimTemplateName: small"}, map[string]string{"main": "r"})
	}
	c.Ready("one", "two")
	seen := map[string]bool{}
	for _, name := range []string{"one", "two"} {
		uuid := c.visible(name, "main")
		d, ok := g.MIGDevice(uuid)
		if !ok || d.Profile != "1g.18gb" || seen[uuid] {
			t.Errorf("%s got %s, which is %+v", name, uuid, d.Profile)
		}
		seen[uuid] = true
		equal(t, "capabilities", c.K("exec", name, "--", "sh", "-c", "ls /dev/nvidia-caps | wc -l"), "2")
	}
	gpuPod(c, "plain", "nvidia.com/mig-1g.18gb", 1)
	c.Eventually(patience, "a plain pod is told why it waits", func() error {
		return missing(c.K("describe", "pod", "plain"), "Insufficient nvidia.com/mig-1g.18gb")
	})
	c.K("delete", "pod", "one")
	c.Ready("plain")
	c.K("delete", "pod", "two", "plain")
	c.Apply(readFile(t, filepath.Join(lab.Root(), "examples", "gpu", "claims.yaml")))
	c.Ready("part")
}

// TestMIGDevicesAreMadeForClaims: what a card could have is offered, made when the pod comes, and gone with it.
func TestMIGDevicesAreMadeForClaims(t *testing.T) {
	g := newGPUMachine(t, "h200-mig", 0)
	h := lab.New(t).Host("carvebox")
	h.Images()
	server := h.StartServer(g.flags("--gpu-dynamic-mig")...)
	c := newCluster(t, h)
	if n := len(c.devicesInAPI("carvebox")); n < 2*25 {
		t.Errorf("only %d devices are offered", n)
	}
	c.Apply(`
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: large}
spec:
  spec:
    devices:
      requests:
      - name: part
        exactly:
          deviceClassName: mig.nvidia.com
          selectors: [{cel: {expression: "device.attributes['gpu.nvidia.com'].profile == '4g.71gb'"}}]
`)
	for _, name := range []string{"one", "two", "three"} { // two cards, one place each
		claimed(c, name, map[string]string{"r": "resourceClaimTemplateName: large"}, map[string]string{"main": "r"})
	}
	var run []string
	c.Eventually(patience, "two of three run", func() error {
		run = strings.Fields(c.K("get", "pods", "--field-selector", "status.phase=Running", "-o", "jsonpath={.items[*].metadata.name}"))
		if len(run) != 2 {
			return fmt.Errorf("running are %v", run)
		}
		return nil
	})
	first, second := c.visible(run[0], "main"), c.visible(run[1], "main")
	if !strings.HasPrefix(first, "MIG-") || first == second {
		t.Errorf("devices are %s and %s", first, second)
	}
	equal(t, "capabilities", c.K("exec", run[0], "--", "sh", "-c", "ls /dev/nvidia-caps | wc -l"), "2")
	server.Kill()
	server.Restart()
	c.Ready(run...)
	c.K("delete", "pod", run[0])
	c.Eventually(patience, "the third runs", func() error {
		if n := strings.Fields(c.K("get", "pods", "--field-selector", "status.phase=Running", "-o", "jsonpath={.items[*].metadata.name}")); len(n) != 2 {
			return fmt.Errorf("running are %v", n)
		}
		return nil
	})
	c.K("delete", "pod", "--all")
	c.Eventually(patience, "what was made is gone", func() error {
		if text := c.Kubectl("get", "resourceslices", "-o", "yaml"); strings.Contains(text, "nvidia.com/mig-4g.71gb") {
			return errors.New("there is a device that serves nvidia.com/mig-4g.71gb")
		}
		return nil
	})
}

// ledger is what the host's agent has written down of its devices.
func ledger(h *lab.Host) string {
	b, err := os.ReadFile(filepath.Join(h.Dir, "agent", "devices.json"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestOrchEndsBetweenClaimAndContainer: what was prepared and has no container yet is the same
// after a kill, and what nobody comes back for is given back.
func TestOrchEndsBetweenClaimAndContainer(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 2)
	h := lab.New(t).Host("killbox")
	server := h.StartServer(g.flags()...) // without images: pods are prepared and wait
	c := newCluster(t, h)
	c.Apply(oneCard)
	for _, name := range []string{"stays", "goes"} {
		claimed(c, name, map[string]string{"r": "resourceClaimTemplateName: one-card"}, map[string]string{"main": "r"})
	}
	c.Eventually(patience, "both claims are prepared", func() error {
		if text := ledger(h); strings.Count(text, `"prepared"`) != 2 {
			return errors.New(text)
		}
		return nil
	})
	before := ledger(h)
	server.Kill()
	server.Restart()
	c = cluster{h.For(t), c.ns}
	c.K("delete", "pod", "goes", "--grace-period=0", "--force")
	c.Eventually(patience, "the claim of a pod that went is given back", func() error {
		if text := ledger(h); strings.Count(text, `"prepared"`) != 1 {
			return errors.New(text)
		}
		return nil
	})
	h.Images()
	images := filepath.Join(h.Dir, "agent", "images")
	archive, err := os.ReadFile(filepath.Join(images, "busybox.tar"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(images, "again.tar"), string(archive)) // a link alone is not noticed
	c.Ready("stays")
	card := c.visible("stays", "main")
	if !strings.Contains(before, card) || !strings.Contains(ledger(h), card) {
		t.Errorf("the pod has %s; the ledger had %s, and has %s", card, before, ledger(h))
	}
	gpuPod(c, "plain", "nvidia.com/gpu", 1)
	c.Ready("plain")
	if other := c.visible("plain", "main"); other == card {
		t.Errorf("%s was given twice", card)
	}
	c.K("delete", "pod", "stays", "plain")
	if text := ledger(h); strings.Contains(text, "GPU-") {
		t.Errorf("all pods are gone, and the ledger has %s", text)
	}
}

// TestClaimsAreTold: what is wrong with a claim is an event of its pod; who holds what is in the
// status, the metrics, and in what people are shown.
func TestClaimsAreTold(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 2)
	h := lab.New(t).Host("tellbox")
	h.Images()
	h.StartServer(g.flags()...)
	c := newCluster(t, h)
	c.Apply(oneCard + `
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: odd}
spec:
  spec:
    devices:
      requests: [{name: gpu, exactly: {deviceClassName: gpu.nvidia.com}}]
      config:
      - opaque:
          driver: gpu.nvidia.com
          parameters: {apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig, sharing: {strategy: Hope}}
`)
	claimed(c, "good", map[string]string{"r": "resourceClaimName: shared"}, map[string]string{"main": "r/gpu"})
	claimed(c, "odd", map[string]string{"r": "resourceClaimTemplateName: odd"}, map[string]string{"main": "r"})
	c.Ready("good")
	c.Eventually(patience, "the parameters are refused", func() error {
		return missing(c.K("describe", "pod", "odd"), "FailedPrepareDynamicResources", `Failed to prepare dynamic resources`, `sharing.strategy: "Hope", it must be TimeSlicing or MPS`)
	})
	c.Eventually(patience, "the claim says so too", func() error {
		return missing(c.K("get", "resourceclaims", "-o", `jsonpath={range .items[*].status.devices[*].conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}`),
			"Ready=True Prepared: ", "Ready=False PrepareFailed: NodePrepareResources failed for ResourceClaim odd-r-", `sharing.strategy: "Hope"`)
	})
	uid := c.Get("resourceclaim/shared", "{.metadata.uid}")
	contains(t, c.Get("pod/good", "{.status.containerStatuses[0].allocatedResourcesStatus}"), `"name":"claim:r/gpu"`, `"health":"Healthy"`, "k8s.gpu.nvidia.com/claim="+uid+"-gpu-")
	orch := func(args ...string) string {
		return c.Orch(nil, append(args, "--kubeconfig", c.Kubeconfig())...).Both()
	}
	contains(t, orch("gpu", "status"), "claim:"+c.ns+"/shared=good/main")
	contains(t, orch("gpu", "doctor", "-n", c.ns, "good"), "it asks for the claim shared", "by the claim shared")
	gpuPod(c, "greedy", "nvidia.com/gpu", 2)
	c.Eventually(patience, "doctor names the claim as the holder", func() error {
		return missing(orch("gpu", "doctor", "-n", c.ns, "greedy"), c.ns+"/good (claim shared)")
	})
	gpuPod(c, "byhand", "nvidia.com/gpu", 2, "nodeName: tellbox")
	c.Eventually(patience, "a pod that nobody scheduled is refused", func() error {
		return missing(c.Get("pod/byhand", "{.status.reason}: {.status.message}"), "UnexpectedAdmissionError: Pod was rejected: Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 2, Available: 0")
	})
	c.K("delete", "pod", "byhand")
	h.Eventually(patience, "the claim is in the metrics", func() error {
		page := c.Kubectl("get", "--raw", "/api/v1/nodes/tellbox/proxy/metrics/gpu")
		return missing(page, `dra_claim_name="shared",dra_claim_namespace="`+c.ns+`",dra_driver_name="gpu.nvidia.com",dra_pool_name="tellbox"`)
	})
	c.K("delete", "pod", "odd", "good")
	c.Ready("greedy")
}
