package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orch/e2e/lab"
)

// TestJoin has a server with its node and a second node in a network namespace of
// its own, joined by nothing but the switch.
func TestJoin(t *testing.T) {
	l := lab.New(t)
	one, two := l.Host("one"), l.Host("two")
	one.Images()
	two.Images()
	server := one.StartServer()
	agent := two.StartAgent(server)
	agent.WaitReady(patience)
	nodeIs(one, "two", "True")
	j := joined{t: t, one: one, two: two, server: server, agent: agent}
	for _, step := range []struct {
		name string
		test func(*testing.T, joined, cluster)
	}{
		{"a Deployment over two nodes", overTwoNodes},
		{"logs, exec and port-forward of the other node", reachTheOther},
		{"DNS and Services from the other node", fromTheOther},
		{"wrong tokens", wrongTokens},
		{"the agent killed and restarted", agentKilled},
		{"the server killed and restarted", serverKilled},
		{"a node cut from the network", nodeCut},
		{"a node drained and deleted comes back", nodeDeleted},
	} {
		t.Run(step.name, func(t *testing.T) {
			j := j
			j.t, j.one, j.two = t, one.For(t), two.For(t)
			step.test(t, j, newCluster(t, one))
		})
	}
}

// joined is the two-node cluster as one subtest sees it.
type joined struct {
	t             *testing.T
	one, two      *lab.Host
	server, agent *lab.Process
}

// nodeIs waits until the node's Ready condition has the status.
func nodeIs(h *lab.Host, node, ready string) {
	h.Helper()
	h.Eventually(2*patience, "Ready of node "+node+" is "+ready, func() error {
		out, err := h.TryKubectl("get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err != nil || out != ready {
			return fmt.Errorf("%s %v", out, err)
		}
		return nil
	})
}

const spreadDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]
      containers: [{name: main, image: "myapp:1.4.2", readinessProbe: {httpGet: {path: /ready, port: 8000}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
`

// spread runs four pods over the two nodes and a client on each, and returns the
// name and address of one pod of each node.
func (c cluster) spread() (names, ips map[string]string) {
	c.Helper()
	c.Apply(spreadDeployment)
	for _, node := range []string{"one", "two"} {
		c.Pod("client-"+node, "myapp:1.4.2", "", "nodeName: "+node)
	}
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	c.Ready("client-one", "client-two")
	names, ips = map[string]string{}, map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(c.Get("pods", `{range .items[?(@.metadata.labels.app=="web")]}{.metadata.name} {.spec.nodeName} {.status.podIP}{"\n"}{end}`)), "\n") {
		f := strings.Fields(line)
		names[f[1]], ips[f[1]] = f[0], f[2]
	}
	if len(names) != 2 {
		c.Fatalf("the pods are on %v", names)
	}
	return names, ips
}

// from runs a subcommand of myapp in the client pod of a node until it succeeds.
func (c cluster) from(node string, args ...string) string {
	c.Helper()
	var out string
	c.Eventually(patience, "from "+node+": "+strings.Join(args, " "), func() error {
		o := c.Exec("client-"+node, append([]string{"/myapp"}, args...)...)
		out = o.Stdout
		if o.Code != 0 {
			return fmt.Errorf("%s", o.Both())
		}
		return nil
	})
	return out
}

func overTwoNodes(t *testing.T, j joined, c cluster) {
	names, ips := c.spread()
	if !strings.HasPrefix(ips["one"], "10.42.0.") || !strings.HasPrefix(ips["two"], "10.42.1.") {
		t.Errorf("addresses %v", ips)
	}
	for _, from := range []string{"one", "two"} {
		for _, to := range []string{"one", "two"} {
			contains(t, c.from(from, "get", "http://"+ips[to]+":8000/", "1"), names[to])
			// No masquerade between pods.
			contains(t, c.from(from, "get", "http://"+ips[to]+":8000/from", "1"), c.Get("pod/client-"+from, "{.status.podIP}"))
		}
		c.seesPods("client-"+from, "http://web/", 4)
	}
	port := c.Get("svc/web", "{.spec.ports[0].nodePort}")
	for _, h := range []*lab.Host{j.one, j.two} {
		for _, target := range []*lab.Host{j.one, j.two} {
			eventuallySays(h, fmt.Sprintf("http://%s:%s/", target.IP, port), "web-")
		}
	}
	contains(t, c.Kubectl("get", "nodes", "-o", "wide"), j.one.IP.String(), j.two.IP.String())
	big := c.from("one", "get", "http://"+ips["two"]+":8000/big", "1")
	if len(big) < 1<<20 {
		t.Errorf("a large answer came as %d bytes: is the MTU right?", len(big))
	}
}

func reachTheOther(t *testing.T, j joined, c cluster) {
	c.Pod("far", "busybox:1.36", `command: [sh, -c, "trap exit TERM; echo far is up; sleep 3600 & wait"]`, "nodeName: two")
	c.Pod("web", "myapp:1.4.2", "", "nodeName: two")
	c.Ready("far", "web")
	c.Says("far is up", "logs", "far")
	equal(t, "exec", c.Exec("far", "hostname").Stdout, "far")
	equal(t, "exit code", fmt.Sprint(c.Exec("far", "sh", "-c", "exit 9").Code), "9")
	big := strings.Repeat("0123456789abcdef", 1<<15)
	if o := c.In(big, "exec", "-i", "far", "--", "cat"); o.Stdout != big {
		t.Errorf("512 KiB came back as %d: %s", len(o.Stdout), o.Stderr)
	}
	follow := c.Go("logs", "-f", "far")
	c.SaysRunning(follow, "far is up")
	r := c.Go("port-forward", "pod/web", ":8000")
	if s, err := get(j.one, "http://127.0.0.1:"+c.forwarded(r)+"/"); err != nil || strings.TrimSpace(s) != "web" {
		t.Errorf("port-forward: %q %v", s, err)
	}
	writeFile(t, filepath.Join(t.TempDir(), "f"), "x")
	tty, s, _ := openTerminal(t, c, "exec", "-it", "far", "--", "sh")
	c.shows(s, "# ")
	c.Eventually(patience, "the terminal has its size", func() error {
		fmt.Fprint(tty, "stty size\n")
		return missing(s.String(), "30 100")
	})
	fmt.Fprint(tty, "exit\n")
	// The agent has no port open for any of this.
	if out := j.two.Run("", "sh", "-c", "cat /proc/net/tcp /proc/net/tcp6 | awk '$4==\"0A\"{print $2}'").Stdout; strings.Contains(out, ":280A") {
		t.Errorf("the agent listens on 10250:\n%s", out)
	}
}

func fromTheOther(t *testing.T, _ joined, c cluster) {
	c.spread()
	equal(t, "A record", c.from("two", "lookup", "web."+c.ns), clusterIP(c.Host, c.ns, "web"))
	equal(t, "kubernetes", c.from("two", "lookup", "kubernetes.default"), "10.43.0.1")
	c.K("create", "rolebinding", "view", "--clusterrole=view", "--serviceaccount="+c.ns+":default")
	c.Eventually(patience, "the right counts", func() error {
		return missing(c.from("two", "api", "/api/v1/namespaces/"+c.ns+"/pods"), "200 OK")
	})
}

// wrongTokens: each is one clear line and exit code 1.
func wrongTokens(t *testing.T, j joined, _ cluster) {
	b, err := os.ReadFile(filepath.Join(j.one.Dir, "server", "token"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(b))
	ca, secret, _ := strings.Cut(token, "::")
	url := fmt.Sprintf("https://%s:6443", j.one.IP)
	three := func(args ...string) lab.Output {
		return j.two.Orch(nil, append([]string{"agent", "join", "--data-dir", t.TempDir(), "--node-name", "three", "--node-ip", j.two.IP.String()}, args...)...)
	}
	flipped := map[byte]string{'0': "1"}[ca[len(ca)-1]]
	if flipped == "" {
		flipped = "0"
	}
	refused(t, three(url, "--token", ca[:len(ca)-1]+flipped+"::"+secret), 1, "the server's CA is not the one that the token names")
	refused(t, three(url, "--token", ca+"::server:wrong"), 1, "token")
	refused(t, three(url, "--token", "K10nonsense"), 1, "the join token is malformed")
	refused(t, three(url), 1, "a join token is needed: pass --token")
	if out := j.one.Kubectl("get", "nodes"); strings.Contains(out, "three") {
		t.Errorf("a wrong token made a node:\n%s", out)
	}
	// A second machine cannot take the name of a node that there is.
	o := j.two.Orch(nil, "agent", "join", url, "--token", token, "--data-dir", t.TempDir(), "--node-name", "one", "--node-ip", j.two.IP.String())
	refused(t, o, 1, "one")
}

// agentKilled: the pods of a killed agent live on and are taken over.
func agentKilled(t *testing.T, j joined, c cluster) {
	names, ips := c.spread()
	before := j.two.Containers()
	j.agent.Kill()
	contains(t, c.from("one", "get", "http://"+ips["two"]+":8000/", "3"), names["two"])
	j.agent.Restart()
	same(t, before, j.two.Containers())
	c.Says("memory", "exec", names["two"], "--", "/myapp", "cgroup")
	equal(t, "restarts", c.Get("pod/"+names["two"], status0+".restartCount}"), "0")
	equal(t, "address", c.Get("pod/"+names["two"], "{.status.podIP}"), ips["two"])
	c.K("delete", "pod", names["two"], "--timeout=150s")
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
}

// same compares what Containers has said.
func same(t *testing.T, before, after map[int]string) {
	t.Helper()
	if len(before) == 0 {
		t.Error("there were no containers")
	}
	for pid, what := range before {
		if after[pid] != what {
			t.Errorf("process %d was %q, is %q", pid, what, after[pid])
		}
	}
}

// serverKilled: while the server is away the agent's pods serve, and the agent
// comes back by itself.
func serverKilled(t *testing.T, j joined, c cluster) {
	names, ips := c.spread()
	port := c.Get("svc/web", "{.spec.ports[0].nodePort}")
	before := j.two.Containers()
	j.server.Kill()
	for range 10 {
		if _, err := get(j.two, fmt.Sprintf("http://%s:%s/", j.two.IP, port)); err != nil {
			t.Errorf("with the server away: %v", err)
		}
	}
	if s, err := get(j.two, "http://"+ips["two"]+":8000/"); err != nil || strings.TrimSpace(s) != names["two"] {
		t.Errorf("with the server away: %q %v", s, err)
	}
	j.server.Restart()
	same(t, before, j.two.Containers())
	nodeIs(j.one, "two", "True")
	c.Eventually(patience, "exec on the other node works again", func() error {
		return missing(c.Exec("client-two", "/myapp", "lookup", "kubernetes.default").Both(), "10.43.0.1")
	})
	c.K("scale", "deployment/web", "--replicas=6")
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
}

func nodeCut(t *testing.T, j joined, c cluster) {
	names, _ := c.spread()
	before := j.two.Containers()
	j.two.Cut()
	nodeIs(j.one, "two", "Unknown")
	contains(t, j.one.Kubectl("get", "nodes"), "NotReady")
	c.Says("node.kubernetes.io/unreachable", "get", "node", "two", "-o", "jsonpath={.spec.taints[*].key}")
	c.Eventually(patience, "the cut pods leave the endpoints", func() error {
		if out := c.from("one", "get", "http://web/", "20"); strings.Contains(out, names["two"]) || answers(out) != 2 {
			return fmt.Errorf("answered by\n%s", out)
		}
		return nil
	})
	j.two.Mend()
	nodeIs(j.one, "two", "True")
	same(t, before, j.two.Containers())
	c.seesPods("client-one", "http://web/", 4)
}

// nodeDeleted: a Node object that is deleted is made again by its running agent's
// next start, under the same name.
func nodeDeleted(t *testing.T, j joined, c cluster) {
	c.spread()
	c.KubectlIn("", "drain", "two", "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s")
	j.agent.Stop()
	j.one.Kubectl("delete", "node", "two")
	j.agent.Restart()
	nodeIs(j.one, "two", "True")
	if out := j.one.Kubectl("get", "node", "two"); strings.Contains(out, "SchedulingDisabled") {
		t.Errorf("the new Node is cordoned:\n%s", out)
	}
	c.K("rollout", "restart", "deployment/web")
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
}
