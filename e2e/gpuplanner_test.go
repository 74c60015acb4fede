package e2e

import (
	"testing"

	"orch/e2e/lab"
)

// TestGPUMIGPlanner: a pod waits for a slice that no card offers; an idle card is partitioned
// for it, the card that a pod holds is not touched, and a whole card comes back when one is asked for.
func TestGPUMIGPlanner(t *testing.T) {
	g := newGPUMachine(t, "h200-8", 2)
	h := lab.New(t).Host("planned")
	h.Images()
	server := h.StartServer(g.flags("--gpu-mig-planner")...)
	c := newCluster(t, h)
	offers := func(resource, want string) {
		t.Helper()
		c.Gets("node/planned", `{.status.allocatable.nvidia\.com/`+resource+`}`, want)
	}
	gpuPod(c, "whole", "nvidia.com/gpu", 1)
	c.Ready("whole")
	held := c.given("whole")[0]
	gpuPod(c, "slice", "nvidia.com/mig-3g.71gb", 1)
	c.Ready("slice")
	contains(t, c.given("slice")[0], "MIG-")
	offers("gpu", "1")
	offers(`mig-3g\.71gb`, "1")
	c.Says("MIGReshaped", "describe", "pod", "slice")
	contains(t, c.Kubectl("get", "events", "-A"), "node/planned", "is partitioned for pod "+c.ns+"/slice")
	equal(t, "the card of the first pod", c.given("whole")[0], held)

	// Both cards are held: a third pod waits, and nothing is done to them.
	gpuPod(c, "late", "nvidia.com/mig-7g.141gb", 1)
	c.Says("Insufficient nvidia.com/mig-7g.141gb", "describe", "pod", "late")
	c.gone("pod", "whole")
	c.Ready("late")
	offers("gpu", "")
	c.gone("pod", "late", "slice")
	server.Stop()
	server.RestartWithout("--gpu-mig-planner")
	c.Gets("node/planned", `{.metadata.annotations.orch\.io/mig-demand}`, "")
	c.Gets("node/planned", `{.metadata.annotations.orch\.io/mig-potential}`, "")
}
