package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// manifestTests apply the acceptance manifests of testdata/manifests unchanged.
// Those that name no namespace go into the subtest's own one, except where they
// name Services of namespace default.
var manifestTests = map[string]func(*testing.T, cluster){
	"pod":                    manifestPod,
	"deployment and service": manifestDeployment,
	"config":                 manifestConfig,
	"init and sidecar":       manifestInitSidecar,
	"probes":                 manifestProbes,
	"affinity":               manifestAffinity,
}

func manifest(name string) string { return filepath.Join("testdata", "manifests", name+".yaml") }

func manifestPod(t *testing.T, c cluster) {
	c.K("apply", "-f", manifest("pod"))
	c.Ready("my-pod")
	equal(t, "QoS class", c.Get("pod/my-pod", "{.status.qosClass}"), "Burstable")
	eventuallySays(c.Host, "http://"+c.Get("pod/my-pod", "{.status.podIP}")+":8000/", "my-pod")
	limit := c.Exec("my-pod", "/myapp", "cgroup")
	contains(t, limit.Stdout, "memory 2147483648", "cpu 100000")
}

// manifestDeployment covers deployment.yaml and service.yaml, which belong together.
func manifestDeployment(t *testing.T, c cluster) {
	t.Cleanup(func() { c.Kubectl("delete", "namespace", "production", "--wait=false") })
	c.Kubectl("apply", "-f", manifest("deployment"), "-f", manifest("service"))
	c.Kubectl("-n", "production", "rollout", "status", "deployment/my-app", "--timeout=150s")
	answeredBy(c.Host, "http://"+clusterIP(c.Host, "production", "my-app-svc")+"/", 3)
	eventuallySays(c.Host, fmt.Sprintf("http://%s:30080/", c.IP), "my-app-")
	contains(t, c.Kubectl("-n", "production", "get", "svc"), "my-app-node", "80:30080/TCP")
}

func manifestConfig(t *testing.T, c cluster) {
	c.K("apply", "-f", manifest("config"))
	c.Gets("pod/configured", "{.status.phase}", "Succeeded")
	equal(t, "logs", c.K("logs", "configured"), "INFO 4 postgresql://user:pass@db:5432/mydb")
	equal(t, "the stored secret", c.Get("secret/db-credentials", "{.data.DATABASE_URL}"), "cG9zdGdyZXNxbDovL3VzZXI6cGFzc0BkYjo1NDMyL215ZGI=")
}

// manifestInitSidecar runs in namespace default: the file asks DNS for
// myservice.default.svc.cluster.local.
func manifestInitSidecar(t *testing.T, c cluster) {
	c.ns = "default"
	t.Cleanup(func() { c.K("delete", "--ignore-not-found", "pod/init-pod", "service/myservice", "--wait=false") })
	c.K("apply", "-f", manifest("init-sidecar"))
	c.Says("waiting for myservice", "logs", "init-pod", "-c", "init-myservice")
	contains(t, c.K("get", "pod", "init-pod"), "Init:0/2")
	c.K("create", "service", "clusterip", "myservice", "--tcp=80:80")
	c.Ready("init-pod")
	contains(t, c.K("get", "pod", "init-pod"), "2/2")
	equal(t, "the sidecar", c.Get("pod/init-pod", "{.status.initContainerStatuses[1].started}"), "true")
	c.Says("20", "logs", "init-pod", "-c", "log-shipper")
}

func manifestProbes(t *testing.T, c cluster) {
	c.K("apply", "-f", manifest("probes"))
	c.Ready("slow-starter")
	equal(t, "restarts", c.Get("pod/slow-starter", "{.status.containerStatuses[0].restartCount}"), "0")
	equal(t, "started", c.Get("pod/slow-starter", "{.status.containerStatuses[0].started}"), "true")
}

func manifestAffinity(t *testing.T, c cluster) {
	c.K("apply", "-f", manifest("affinity"))
	c.Gets("pod/llm-training", `{.status.conditions[?(@.type=="PodScheduled")].reason}`, "Unschedulable")
	equal(t, "phase", c.Get("pod/llm-training", "{.status.phase}"), "Pending")
	contains(t, c.K("describe", "pod", "llm-training"), "FailedScheduling", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
		"preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
}

// manifestsAccepted: every file passes server-side dry-run. A namespace that a file
// makes itself does not exist in a dry run, so it is made before. crd.yaml has the
// definition only: custom resources themselves are served by a later part.
func manifestsAccepted(t *testing.T, c cluster) {
	files, err := filepath.Glob(manifest("*"))
	if err != nil || len(files) != 23 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, ns := range namespacesOf(string(b)) {
			c.TryKubectl("create", "namespace", ns)
		}
		o := c.KubectlIn("", "apply", "--dry-run=server", "-f", file)
		if o.Code != 0 {
			t.Errorf("%s: %s", file, o.Both())
		}
		if docs := strings.Count("\n"+string(b), "\nkind:"); strings.Count(o.Stdout, "(server dry run)") != docs {
			t.Errorf("%s: %d objects, but the server says\n%s", file, docs, o.Both())
		}
	}
}

// namespacesOf lists the namespaces that a file puts objects into.
func namespacesOf(manifest string) (out []string) {
	for _, line := range strings.Split(manifest, "\n") {
		if _, rest, ok := strings.Cut(line, "namespace: "); ok {
			out = append(out, strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(" ,}", r) })[0])
		}
	}
	return out
}
