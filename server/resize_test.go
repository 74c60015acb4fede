package server

import (
	"fmt"
	"strings"
	"testing"
)

// TestResizeRefusals: a pod is not resized where its node could not do it, nor what it cannot
// change in place; upstream's words say why.
func TestResizeRefusals(t *testing.T) {
	_, admin := admitted(t)
	node := func(name, os string) [2]string {
		return [2]string{"/api/v1/nodes", fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"kubernetes.io/os":%q}},"status":{"allocatable":{"cpu":"4","memory":"8Gi"}}}`, name, os)}
	}
	const one = `"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"1","memory":"1Gi","example.com/d":"1"},"limits":{"memory":"2Gi","example.com/d":"1"}}}]`
	made := func(name, node, more string) [2]string {
		return [2]string{"/api/v1/namespaces/a/pods", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"nodeName":%q,%s%s}}`, name, node, more, one)}
	}
	setUp(t, admin, node("n", "linux"), node("w", "windows"),
		made("p", "n", ""), made("on-windows", "w", ""), made("lost", "gone", ""), made("old-node", "n", ""), made("for-windows", "n", `"os":{"name":"windows"},`),
		made("whole", "n", `"resources":{"requests":{"cpu":"2","memory":"2Gi"}},`),
		made("init", "n", `"initContainers":[{"name":"i","image":"x","resources":{"requests":{"cpu":"1"}}}],`),
		[2]string{"/api/v1/namespaces/a/pods", `{"metadata":{"name":"static","annotations":{"kubernetes.io/config.mirror":"x"}},"spec":{"nodeName":"n","containers":[{"name":"c","image":"x"}]}}`})
	if code, m := admin.message("PATCH", "/api/v1/namespaces/a/pods/old-node/status", `{"status":{"containerStatuses":[{"name":"c","image":"x","imageID":"","ready":true,"restartCount":0,"state":{"running":{}}}]}}`); code != 200 {
		t.Fatal(code, m)
	}
	container := func(requests, limits string) string {
		return fmt.Sprintf(`{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{%s},"limits":{%s}}}]}}`, requests, limits)
	}
	const ask, most = `"cpu":"2","memory":"1Gi","example.com/d":"1"`, `"memory":"2Gi","example.com/d":"1"`
	for _, tc := range []struct {
		name, pod, body string
		code            int
		says            string
	}{
		{"more CPU", "p", container(ask, most), 200, ""},
		{"memory limit lower", "p", container(ask, `"memory":"1Gi","example.com/d":"1"`), 200, ""},
		{"more than the node has", "p", container(`"cpu":"5","memory":"9Gi","example.com/d":"1"`, `"memory":"9Gi","example.com/d":"1"`), 403,
			"node didn't have enough allocatable resources: cpu, requested: 5000, allocatable: 4000; memory, requested: 9663676416, allocatable: 8589934592"},
		{"a node that is gone", "lost", container(ask, most), 403, `node "gone" not found`},
		{"another system", "on-windows", container(ask, most), 403, `pod resize is only supported on linux nodes, node "w" is "windows"`},
		{"a pod for another system", "for-windows", container(ask, most), 422, "windows pods cannot be resized"},
		{"a static pod", "static", container(`"cpu":"1"`, ""), 422, "static pods cannot be resized"},
		{"a node that does not know how", "old-node", container(ask, most), 422, "spec: Forbidden: Pod running on node without support for resize"},
		{"another class", "p", container(`"cpu":"1","memory":"1Gi","example.com/d":"1"`, `"cpu":"1","memory":"1Gi","example.com/d":"1"`), 422, "Pod QOS Class may not change as a result of resizing"},
		{"a request less", "p", container(`"memory":"1Gi","example.com/d":"1"`, most), 422, "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"},
		{"a limit less", "p", `{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{` + ask + `},"limits":{"example.com/d":"1"}}}]}}`, 422,
			"spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"},
		{"another resource", "p", container(`"cpu":"2","memory":"1Gi","example.com/d":"2"`, `"memory":"2Gi","example.com/d":"2"`), 422, "only cpu and memory resources are mutable"},
		{"one resource more", "p", container(ask+`,"ephemeral-storage":"1Gi"`, most), 422, "only cpu and memory resources are mutable"},
		{"a container more", "p", strings.Replace(container(ask, most), `[{`, `[{"name":"d","image":"x"},{`, 1), 422, "spec.containers: Forbidden: containers may not be added or removed on resize"},
		{"another name", "p", strings.Replace(container(ask, most), `"c"`, `"d"`, 1), 422, "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"},
		{"other than resources", "p", strings.Replace(container(ask, most), `"image":"x"`, `"image":"y"`, 1), 200, ""},
		{"a limit more", "p", container(ask, `"cpu":"3","memory":"1Gi","example.com/d":"1"`), 200, ""},
		{"init container", "init", `{"spec":{"initContainers":[{"name":"i","image":"x","resources":{"requests":{"cpu":"2"}}}]}}`, 200, ""},
		{"init container, another resource", "init", `{"spec":{"initContainers":[{"name":"i","image":"x","resources":{"requests":{"cpu":"2","ephemeral-storage":"1"}}}]}}`, 422,
			"spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable"},
		{"init containers gone", "init", `{"spec":{"initContainers":[]}}`, 422, "initContainers may not be added or removed on resize"},
		{"the pod as a whole", "whole", `{"spec":{"resources":{"requests":{"cpu":"3","memory":"2Gi"}}}}`, 200, ""},
		{"the pod as a whole, less", "whole", `{"spec":{"resources":{"requests":{"cpu":"3","memory":null}}}}`, 200, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, m := admin.message("PATCH", "/api/v1/namespaces/a/pods/"+tc.pod+"/resize", tc.body)
			if code != tc.code || !strings.Contains(m, tc.says) {
				t.Errorf("%d %s, want %d %s", code, m, tc.code, tc.says)
			}
			if tc.code == 200 && strings.Contains(m, `"image":"y"`) {
				t.Errorf("a resize changed the image: %s", m)
			}
		})
	}
}
