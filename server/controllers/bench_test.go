package controllers_test

import (
	"fmt"
	"testing"

	"orch/api"
)

// BenchmarkDeployment measures a deployment of 500 pods from its creation until all
// are ready: controllers, registry and a stand-in for the nodes.
func BenchmarkDeployment(b *testing.B) {
	c := start(b)
	i := 0
	for b.Loop() {
		name := fmt.Sprint("web-", i)
		i++
		make_(c, api.Deployments, deployment(name, 500))
		c.rolledOut(name)
	}
	b.ReportMetric(500*float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
