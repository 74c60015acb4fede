package e2e

import (
	"errors"
	"fmt"
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
