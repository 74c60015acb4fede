package e2e

import (
	"regexp"
	"testing"
)

// statsPages: what dashboards and autoscalers read of a node, through the API server.
func statsPages(t *testing.T, c cluster) {
	const node = "one"
	c.Sleeper("measured")
	c.Ready("measured")
	page := func(path string) string {
		return c.Kubectl("get", "--raw", "/api/v1/nodes/"+node+"/proxy"+path)
	}
	of := `namespace="` + c.ns + `",pod="measured"`
	contains(t, page("/metrics/resource"), `container_memory_working_set_bytes{container="main",`+of+`} `, "node_cpu_usage_seconds_total ")
	cadvisor := page("/metrics/cadvisor")
	contains(t, cadvisor, `container_cpu_usage_seconds_total{container="main",cpu="total",`, `container_network_receive_bytes_total{container="",`, `interface="eth0"`)
	if !regexp.MustCompile(`container_memory_working_set_bytes\{container="main",[^}]*` + of + `\} [1-9]`).MatchString(cadvisor) {
		t.Errorf("the container uses no memory:\n%s", cadvisor)
	}
	contains(t, page("/metrics"), `kubelet_node_name{node="`+node+`"} 1`)
	contains(t, page("/stats/summary"), `"usageNanoCores"`, `"name":"measured"`, `"imageFs"`)
	contains(t, page("/pods"), `"kind":"PodList"`, `"name":"measured"`)
}
