package e2e

import (
	"errors"
	"strings"
	"testing"

	"orch/e2e/lab"
)

const toleratingCard = `
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: tolerating}
spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.nvidia.com, tolerations: [{key: e2e.io/away, operator: Exists}]}}]}}}
`

func taintAllCards(effect string) string {
	return `
apiVersion: resource.k8s.io/v1
kind: DeviceTaintRule
metadata: {name: away}
spec: {deviceSelector: {driver: gpu.nvidia.com}, taint: {key: e2e.io/away, effect: ` + effect + `}}
`
}

// TestDeviceTaintRuleEvicts: an administrator's rule says first whom it would evict, and then evicts
// those with claims and those that asked plainly, but those whose claim tolerates it: a toleration of
// the pod is one of nodes.
func TestDeviceTaintRuleEvicts(t *testing.T) {
	g := newGPUMachine(t, "h100-8", 4)
	h := lab.New(t).Host("taintbox")
	h.Images()
	h.StartServer(g.flags()...)
	c := newCluster(t, h)
	c.Apply(oneCard)
	c.Apply(toleratingCard)
	claimed(c, "claiming", map[string]string{"r": "resourceClaimTemplateName: one-card"}, map[string]string{"main": "r"})
	claimed(c, "tolerating", map[string]string{"r": "resourceClaimTemplateName: tolerating"}, map[string]string{"main": "r"})
	gpuPod(c, "plain", "nvidia.com/gpu", 1)
	gpuPod(c, "hoping", "nvidia.com/gpu", 1, "tolerations: [{key: e2e.io/away, operator: Exists, effect: NoExecute}]")
	c.Ready("claiming", "tolerating", "plain", "hoping")
	const condition = `{.status.conditions[?(@.type=="EvictionInProgress")]`
	c.Kubectl("delete", "devicetaintrule", "away", "--ignore-not-found")
	c.Apply(taintAllCards("None"))
	c.GetsWithin(patience, "devicetaintrule/away", condition+`.reason}`, "NoEffect")
	contains(t, c.Kubectl("get", "devicetaintrule", "away", "-o", "jsonpath="+condition+`.message}`), "4 published devices selected. 2 allocated devices selected. 3 pods would be evicted in 1 namespace if")
	c.Kubectl("delete", "devicetaintrule", "away")
	c.Apply(taintAllCards("NoExecute"))
	c.Eventually(patience, "those that do not tolerate it are gone", func() error {
		left := strings.Fields(c.K("get", "pods", "-o", "jsonpath={.items[*].metadata.name}"))
		if strings.Join(left, " ") != "tolerating" {
			return errors.New(strings.Join(left, " "))
		}
		return nil
	})
	contains(t, c.K("get", "events"), "DeviceTaintManagerEviction", "Marking for deletion")
	c.Eventually(patience, "the claim went with its pod", func() error {
		if left := c.K("get", "resourceclaims", "-o", "name"); strings.Contains(left, "claiming-r-") {
			return errors.New(left)
		}
		return nil
	})
	gpuPod(c, "after", "nvidia.com/gpu", 2, "tolerations: [{operator: Exists}]")
	c.GetsWithin(patience, "pod/after", `{.status.conditions[?(@.type=="PodScheduled")].reason}`, "Unschedulable")
	c.Kubectl("delete", "devicetaintrule", "away")
	c.Ready("after", "tolerating")
}
