package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orch/e2e/lab"
)

// nodeTests change the node or its rules: they run one after the other.
var nodeTests = map[string]func(*testing.T, cluster){
	"NoExecute evicts":          noExecute,
	"cordon, drain, uncordon":   drain,
	"flushed rules":             flushedRules,
	"an image that comes later": laterImage,
	"status and tools":          hostTools,
}

func noExecute(t *testing.T, c cluster) {
	c.Sleeper("goes")
	c.Sleeper("stays", "tolerations: [{key: test, operator: Exists}]")
	c.Sleeper("later", "tolerations: [{key: test, operator: Exists, effect: NoExecute, tolerationSeconds: 2}]")
	c.Ready("goes", "stays", "later")
	t.Cleanup(func() { c.TryKubectl("taint", "node", c.Name, "test:NoExecute-") })
	start := time.Now()
	c.Kubectl("taint", "node", c.Name, "test=x:NoExecute")
	c.K("wait", "--for=delete", "pod/goes", "--timeout=150s")
	c.K("wait", "--for=delete", "pod/later", "--timeout=150s")
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("tolerationSeconds: 2 lasted %v", took)
	}
	equal(t, "the tolerant one", c.Get("pod/stays", "{.status.phase}"), "Running")
	c.Kubectl("taint", "node", c.Name, "test:NoExecute-")
}

func drain(t *testing.T, c cluster) {
	c.Apply(webDeployment)
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	c.Sleeper("bare")
	c.Ready("bare")
	t.Cleanup(func() { c.TryKubectl("uncordon", c.Name) })
	o := c.KubectlIn("", "drain", c.Name, "--pod-selector=app in (web,bare)", "--timeout=150s")
	contains(t, o.Both(), "cannot delete Pods that declare no controller")
	contains(t, c.Kubectl("get", "node", c.Name), "Ready,SchedulingDisabled")
	o = c.KubectlIn("", "drain", c.Name, "--pod-selector=app in (web,bare)", "--force", "--timeout=150s")
	contains(t, o.Both(), "evicting pod "+c.ns+"/bare", "drained")
	c.Says("Pending", "get", "pods")
	c.Says("0/1 nodes are available: 1 node(s) were unschedulable.", "events")
	c.Kubectl("uncordon", c.Name)
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
}

// flushedRules: somebody else's flush of all rules heals within a second or so.
func flushedRules(t *testing.T, c cluster) {
	c.three("ports: [{port: 80, targetPort: 8000}]")
	c.look("get", "http://web/", "3")
	for _, table := range []string{"nat", "filter"} {
		if o := c.Run("", "iptables", "-t", table, "-F"); o.Code != 0 {
			t.Fatal(o.Both())
		}
	}
	start := time.Now()
	contains(t, c.look("get", "http://web/", "3"), "web-")
	if took := time.Since(start); took > 25*time.Second { // a repair that nobody asked for comes after 30
		t.Errorf("healed after %v", took)
	}
}

// laterImage: a pod waits in ImagePullBackOff until its image is laid into the
// watched folder.
func laterImage(t *testing.T, c cluster) {
	c.Pod("late", "late.example/app:7", "imagePullPolicy: IfNotPresent")
	c.Eventually(patience, "it cannot be had", func() error { return missing(c.TryBoth("get", "pod", "late"), "Pull") })
	archive := filepath.Join(t.TempDir(), "late.tar")
	if o := c.Run("", lab.Binary(), "images", "pack", "--name", "late.example/app:7", "-o", archive, lab.Program("myapp")); o.Code != 0 {
		t.Fatal(o.Both())
	}
	if out, err := exec.Command("cp", archive, filepath.Join(c.Dir, "agent", "images")).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	c.Ready("late")
	c.Says("late.example/app:7", "get", "node", c.Name, "-o", "jsonpath={.status.images[*].names}")
}

// hostTools are those that a person has on the host of a node.
func hostTools(t *testing.T, c cluster) {
	c.Pod("bad", "absent:1", "imagePullPolicy: Never")
	c.Gets("pod/bad", status0+".state.waiting.reason}", "ErrImageNeverPull")
	o := c.Orch(nil, "status", "--kubeconfig", c.Kubeconfig())
	contains(t, o.Stdout, "server", "v1.37", c.Name, "Ready", "ErrImageNeverPull")
	socket := filepath.Join(c.Dir, "agent", "run", "containerd", "containerd.sock")
	found := ""
	filepath.Walk(c.Dir, func(p string, i os.FileInfo, err error) error {
		if err == nil && i.Mode()&os.ModeSocket != 0 && filepath.Base(p) == "containerd.sock" {
			found = p
		}
		return nil
	})
	if found == "" {
		t.Fatalf("no containerd socket such as %s", socket)
	}
	contains(t, c.Orch(nil, "images", "list", "--address", found).Stdout, "docker.io/library/myapp:1.4.2", "PINNED", "true")
	archive := filepath.Join(t.TempDir(), "tool.tar")
	contains(t, c.Orch(nil, "images", "pack", "--name", "tool.example/app:1", "-o", archive, lab.Program("myapp")).Stdout, "packed ", "tool.example/app:1")
	contains(t, c.Orch(nil, "images", "import", "--address", found, archive).Stdout, "imported ", "tool.example/app:1")
	refused(t, c.Orch(nil, "images", "import", "--address", found, c.Kubeconfig()), 1, "importing "+c.Kubeconfig())
	ctr := func(args ...string) lab.Output {
		return c.Orch(nil, append([]string{"ctr", "--address", found}, args...)...)
	}
	contains(t, ctr("images", "ls").Both(), "tool.example/app:1", "docker.io/library/busybox:1.36")
	contains(t, ctr("containers", "ls").Both(), "CONTAINER", "IMAGE")
	if o := ctr("run", "--rm", "docker.io/library/busybox:1.36", "by-hand", "/bin/sh", "-c", "echo from ctr; exit 3"); o.Code != 3 || o.Stdout != "from ctr\n" {
		t.Errorf("ctr run ends with %d and says\n%s", o.Code, o.Both())
	}
	if o := ctr("containers", "ls", "-q"); strings.Contains(o.Stdout, "by-hand") {
		t.Errorf("ctr run --rm leaves its container:\n%s", o.Both())
	}
	c.Gets("node/"+c.Name, "{.status.conditions[?(@.type==\"Ready\")].status}", "True")
	contains(t, fmt.Sprint(c.Orch(nil, "completion", "bash").Stdout), "orch")
	contains(t, c.Orch(nil, "version").Stdout, "orch version", "v1.37")
}
