package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"orch/e2e/lab"
)

// kubectlTests use the embedded kubectl on running pods.
var kubectlTests = map[string]func(*testing.T, cluster){
	"get and describe":          getAndDescribe,
	"logs":                      logs,
	"logs of the previous one":  logsPrevious,
	"exec":                      execs,
	"exec with a terminal":      terminal,
	"attach and run":            attach,
	"port-forward":              portForward,
	"rollout and scale":         rollout,
	"cp":                        copies,
	"debug":                     debug,
	"edit and apply to the pod": editPod,
	"an older kubectl":          olderKubectl,
}

const webDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: main
        image: myapp:1.4.2
        ports: [{name: http, containerPort: 8000}]
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
      - name: side
        image: busybox:1.36
        command: [sh, -c, "trap exit TERM; echo side is up; sleep 3600 & wait"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
`

func getAndDescribe(t *testing.T, c cluster) {
	c.Apply(webDeployment)
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	contains(t, c.K("get", "pods", "-o", "wide"), "READY", "2/2", "Running", "IP", "10.42.0.", "NODE", "one")
	contains(t, c.K("get", "all"), "pod/web-", "service/web", "deployment.apps/web", "2/2", "replicaset.apps/web-")
	c.saysAll([]string{"get", "endpointslices,endpoints"}, "web", ":8000", "10.42.0.")
	contains(t, c.K("describe", "deployment", "web"), "2 desired | 2 updated | 2 total | 2 available | 0 unavailable", "ScalingReplicaSet", "Available", "MinimumReplicasAvailable")
	pod := c.Get("pods", "{.items[0].metadata.name}")
	c.saysAll([]string{"describe", "pod", pod}, "Status:", "Running", "Container ID:", "containerd://", "Controlled By:", "ReplicaSet/web-", "Ready:          True",
		"http-get http://:http/ready", "kube-api-access-", "QoS Class:", "BestEffort", "Successfully assigned", "already present on machine", "Container created", "Container started")
	contains(t, c.K("describe", "service", "web"), "Type:", "ClusterIP", "TargetPort:", "http/TCP", "Endpoints:", ":8000")
	node := c.Kubectl("describe", "node", c.Name)
	contains(t, node, "control-plane", "InternalIP:", c.IP.String(), "Capacity:", "ephemeral-storage", "KubeletReady", "containerd://", "PodCIDR:", "10.42.0.0/24", pod, "Allocated resources:")
	contains(t, c.Kubectl("get", "nodes", "-o", "wide"), "Ready", "control-plane", "v1.37", c.IP.String(), "containerd://")
	c.saysAll([]string{"get", "events"}, "Scheduled", "Pulled", "Created", "Started")
	contains(t, c.TryBoth("top", "pods"), "Metrics API not available")
}

func logs(t *testing.T, c cluster) {
	c.Pod("counter", "busybox:1.36", `command: [sh, -c, "i=0; trap exit TERM; while true; do i=$((i+1)); echo line $i; sleep 0.1; done"]`)
	c.Ready("counter")
	c.Says("line 12\n", "logs", "counter")
	equal(t, "head", strings.SplitN(c.K("logs", "counter"), "\n", 2)[0], "line 1")
	if n := strings.Count(c.K("logs", "counter", "--tail=3"), "\n"); n != 3 {
		t.Errorf("--tail=3 gave %d lines", n)
	}
	if line := strings.SplitN(c.K("logs", "counter", "--timestamps", "--tail=1"), "\n", 2)[0]; !regexp.MustCompile(`^20\d\d-\d\d-\d\dT[0-9:.]+Z line \d+$`).MatchString(line) {
		t.Errorf("--timestamps: %q", line)
	}
	c.Eventually(patience, "what it said in the last second", func() error {
		if s := c.K("logs", "counter", "--since=1s"); strings.Contains(s, "line 1\n") || !strings.Contains(s, "line ") {
			return fmt.Errorf("--since=1s: %q", s)
		}
		return nil
	})
	equal(t, "--limit-bytes", c.K("logs", "counter", "--limit-bytes=6"), "line 1")
	follow := c.Go("logs", "-f", "--tail=1", "counter")
	c.SaysRunning(follow, "line ")
	first := strings.Count(follow.Output(), "\n")
	c.Eventually(patience, "more lines", func() error {
		if strings.Count(follow.Output(), "\n") < first+5 {
			return fmt.Errorf("%q", follow.Output())
		}
		return nil
	})
	c.K("delete", "pod", "counter", "--wait=false")
	select {
	case <-follow.Done():
	case <-time.After(patience):
		t.Error("logs -f goes on after the end of the pod")
	}
	c.Apply(webDeployment)
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	c.Eventually(patience, "logs of all containers", func() error {
		all := c.K("logs", "-l", "app=web", "--all-containers", "--prefix")
		if strings.Count(all, "myapp is up") != 2 || strings.Count(all, "side is up") != 2 {
			return errors.New(all)
		}
		return nil
	})
	contains(t, c.K("logs", "deployment/web", "-c", "side"), "side is up")
	contains(t, c.In("", "logs", "deployment/web", "-c", "nobody").Stderr, "container nobody is not valid for pod web-")
	contains(t, c.In("", "logs", "nothing").Stderr, `pods "nothing" not found`)
}

func logsPrevious(t *testing.T, c cluster) {
	c.Pod("twice", "busybox:1.36", "command: [sh, -c, 'if [ -e /state/was ]; then echo second; sleep 3600; else touch /state/was; echo first; exit 3; fi']\nvolumeMounts: [{name: state, mountPath: /state}]",
		"volumes: [{name: state, emptyDir: {}}]")
	c.Says("second", "logs", "twice")
	equal(t, "previous", c.K("logs", "twice", "--previous"), "first")
	equal(t, "exit code", c.Get("pod/twice", "{.status.containerStatuses[0].lastState.terminated.exitCode}"), "3")
	contains(t, c.K("get", "pod", "twice"), "1 (")
}

func execs(t *testing.T, c cluster) {
	c.Sleeper("box")
	c.Ready("box")
	equal(t, "output", c.Exec("box", "echo", "hello").Stdout, "hello")
	if o := c.Exec("box", "sh", "-c", "echo out; echo err >&2; exit 7"); o.Code != 7 || o.Stdout != "out\n" || !strings.HasPrefix(o.Stderr, "err\n") {
		t.Errorf("exit code, streams: %+v", o)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16)
	if o := c.In(big, "exec", "-i", "box", "--", "cat"); o.Stdout != big {
		t.Errorf("1 MiB through cat came back as %d bytes (%d) %s", len(o.Stdout), o.Code, o.Stderr)
	}
	equal(t, "stdin ends", c.In("one\ntwo\n", "exec", "-i", "box", "--", "wc", "-l").Stdout, "2")
	o := c.Exec("box", "nothing-of-that-name")
	contains(t, o.Stderr, "nothing-of-that-name", "not found")
	if o.Code == 0 {
		t.Error("a missing program ends with 0")
	}
	contains(t, c.In("", "exec", "box", "-c", "other", "--", "true").Stderr, "container other is not valid for pod box")
	equal(t, "hostname", c.Exec("box", "hostname").Stdout, "box")
	equal(t, "by deployment", strings.Fields(c.Exec("pod/box", "cat", "/etc/hostname").Stdout)[0], "box")
}

// screen collects what a terminal shows.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}
func (s *screen) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.buf.String() }

// openTerminal runs kubectl at a terminal of 100 columns and 30 rows.
func openTerminal(t *testing.T, c cluster, args ...string) (*os.File, *screen, *exec.Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := c.Command(ctx, lab.Binary(), append([]string{"kubectl"}, c.in(args)...)...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	s := &screen{}
	go io.Copy(s, tty)
	return tty, s, cmd
}

func (c cluster) shows(s *screen, want string) {
	c.Helper()
	c.Eventually(patience, "the terminal shows "+want, func() error { return missing(s.String(), want) })
}

func terminal(t *testing.T, c cluster) {
	c.Sleeper("box")
	c.Ready("box")
	tty, s, cmd := openTerminal(t, c, "exec", "-it", "box", "--", "sh")
	c.shows(s, "# ")
	c.Eventually(patience, "the terminal has its size", func() error {
		fmt.Fprint(tty, "stty size\n")
		return missing(s.String(), "30 100")
	})
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(patience, "the new size", func() error {
		fmt.Fprint(tty, "stty size\n")
		return missing(s.String(), "40 120")
	})
	fmt.Fprint(tty, "sleep 1000\n")
	c.shows(s, "sleep 1000")
	fmt.Fprint(tty, "\x03echo inter''rupted\n")
	c.shows(s, "interrupted")
	fmt.Fprint(tty, "exit 5\n")
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("the shell's exit 5 became %d: %v", code, err)
	}
}

func attach(t *testing.T, c cluster) {
	tty, s, cmd := openTerminal(t, c, "run", "shell", "--image=busybox:1.36", "--image-pull-policy=IfNotPresent", "-it", "--rm", "--restart=Never", "--", "sh")
	c.Eventually(patience, "a prompt", func() error {
		fmt.Fprint(tty, "\n")
		return missing(s.String(), "# ")
	})
	fmt.Fprint(tty, "echo at''tached\n")
	c.shows(s, "attached")
	fmt.Fprint(tty, "exit\n")
	cmd.Wait()
	c.shows(s, `pod "shell" deleted`) // what it printed last may still be on its way
	c.Pod("echoes", "busybox:1.36", "stdin: true\nstdinOnce: true\ncommand: [sh, -c, 'while read l; do echo got $l; done; echo bye']", "restartPolicy: Never")
	c.Ready("echoes")
	o := c.In("one\ntwo\n", "attach", "-i", "echoes")
	contains(t, o.Stdout, "got one", "got two")
	c.Gets("pod/echoes", "{.status.phase}", "Succeeded")
	contains(t, c.K("logs", "echoes"), "bye")
	// With an input that stays open kubectl leaves at the end of its own, and the container runs on.
	o = c.In("three\n", "run", "open", "--image=busybox:1.36", "--image-pull-policy=IfNotPresent", "--restart=OnFailure", "--attach", "--stdin", "--leave-stdin-open", "--",
		"sh", "-c", "cat && echo closed")
	equal(t, "exit code", fmt.Sprint(o.Code), "0")
	c.Eventually(patience, "what was said is in the log", func() error { return missing(c.TryBoth("logs", "open"), "three") })
	c.Gets("pod/open", "{.status.phase}", "Running")
}

var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)`)

// forwarded is the local port that port-forward has opened.
func (c cluster) forwarded(r *lab.Running) string {
	c.Helper()
	c.SaysRunning(r, "Forwarding from")
	return forwarding.FindStringSubmatch(r.Output())[1]
}

func portForward(t *testing.T, c cluster) {
	c.Apply(webDeployment)
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	pod := c.Get("pods", "{.items[0].metadata.name}")
	for _, what := range []struct{ target, ports string }{{"svc/web", ":80"}, {"pod/" + pod, ":8080"}, {"deployment/web", ":http"}} {
		r := c.Go("port-forward", what.target, what.ports)
		url := "http://127.0.0.1:" + c.forwarded(r) + "/"
		for range 5 {
			if s, err := get(c.Host, url); err != nil || !strings.HasPrefix(s, "web-") {
				t.Errorf("%s: %q %v", what.target, s, err)
			}
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := get(c.Host, url); err != nil {
					t.Errorf("%s, several at once: %v", what.target, err)
				}
			})
		}
		wg.Wait()
		r.Stop()
	}
	r := c.Go("port-forward", "pod/"+pod, ":1")
	get(c.Host, "http://127.0.0.1:"+c.forwarded(r)+"/")
	c.SaysRunning(r, "refused")
}

func rollout(t *testing.T, c cluster) {
	c.Apply(webDeployment)
	contains(t, c.K("rollout", "status", "deployment/web", "--timeout=150s"), "successfully rolled out")
	c.K("scale", "deployment/web", "--replicas=4")
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	equal(t, "ready", c.Get("deployment/web", "{.status.readyReplicas}"), "4")
	c.K("rollout", "pause", "deployment/web")
	c.K("set", "env", "deployment/web", "-c", "main", "GENERATION=2")
	status := c.Go("rollout", "status", "deployment/web", "--timeout=150s")
	c.SaysRunning(status, "Waiting for deployment")
	c.K("rollout", "resume", "deployment/web")
	c.SaysRunning(status, "successfully rolled out")
	c.K("set", "image", "deployment/web", "main=myapp:never")
	c.Says("ImagePull", "get", "pods") // it changes between the error and the back-off
	if n := c.Get("deployment/web", "{.status.availableReplicas}"); n != "3" && n != "4" {
		t.Errorf("%s are available while a bad image rolls out", n)
	}
	c.K("rollout", "undo", "deployment/web")
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	c.K("rollout", "undo", "deployment/web", "--to-revision=1")
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	equal(t, "env", c.Get("deployment/web", "{.spec.template.spec.containers[0].env}"), "")
	c.K("rollout", "restart", "deployment/web")
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	c.K("scale", "deployment/web", "--replicas=0")
	c.K("wait", "--for=delete", "pod", "-l", "app=web", "--timeout=150s")
}

func copies(t *testing.T, c cluster) {
	c.Sleeper("box")
	c.Ready("box")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "in", "a", "deep.txt"), strings.Repeat("content ", 20000))
	c.K("cp", filepath.Join(dir, "in"), "box:/tmp/there")
	equal(t, "size in the pod", c.Exec("box", "sh", "-c", "wc -c < /tmp/there/a/deep.txt").Stdout, "160000")
	c.K("cp", "box:/tmp/there", filepath.Join(dir, "out"))
	if digest(t, filepath.Join(dir, "out", "a", "deep.txt")) != digest(t, filepath.Join(dir, "in", "a", "deep.txt")) {
		t.Error("what came back is not what went there")
	}
}

func debug(t *testing.T, c cluster) {
	c.Pod("bare", "myapp:1.4.2", "")
	c.Ready("bare")
	if o := c.Exec("bare", "sh"); o.Code == 0 {
		t.Fatal("the image has a shell: it is no case for debug")
	}
	c.K("debug", "bare", "--image=busybox:1.36", "--target=main", "--container=looker", "--profile=general", "--", "sh", "-c", "sleep 1; ps; wget -q -O- 127.0.0.1:8000/; sleep 3600")
	c.Says("/myapp", "logs", "bare", "-c", "looker")
	c.Says("bare\n", "logs", "bare", "-c", "looker")
	contains(t, c.K("describe", "pod", "bare"), "Ephemeral Containers:", "looker:")
	equal(t, "restarts", c.Get("pod/bare", "{.status.containerStatuses[0].restartCount}"), "0")
}

func editPod(t *testing.T, c cluster) {
	c.Pod("bare", "myapp:1.4.2", "")
	c.Ready("bare")
	o := c.Run("", "env", "KUBE_EDITOR=sed -i s/app:.bare/app:\\ edited/", lab.Binary(), "kubectl", "-n", c.ns, "edit", "pod", "bare")
	contains(t, o.Both(), "pod/bare edited")
	contains(t, c.K("get", "pods", "-l", "app=edited"), "bare")
	o = c.In("", "patch", "pod", "bare", "-p", `{"spec":{"hostNetwork":true}}`)
	contains(t, o.Stderr, "pod updates may not change fields other than")
	o = c.In("", "get", "pods", "--field-selector=status.phase=Running,spec.nodeName=one", "-o", "name")
	equal(t, "by field", o.Stdout, "pod/bare")
}

// olderKubectl repeats the commands that depend on the wire with whatever kubectl
// the machine has.
func olderKubectl(t *testing.T, c cluster) {
	path, err := exec.LookPath("kubectl")
	if err != nil {
		t.Log("this machine has no kubectl of its own")
		return
	}
	c.Apply(webDeployment)
	c.K("rollout", "status", "deployment/web", "--timeout=150s")
	run := func(args ...string) string {
		o := c.Run("", path, c.in(args)...)
		if o.Code != 0 {
			t.Errorf("kubectl %v: %s", args, o.Both())
		}
		return o.Stdout
	}
	contains(t, run("get", "pods", "-o", "wide"), "2/2", "Running")
	contains(t, run("get", "all"), "deployment.apps/web")
	equal(t, "exec", run("exec", "deployment/web", "-c", "side", "--", "echo", "hello"), "hello")
	c.Eventually(patience, "logs of all containers", func() error {
		return missing(run("logs", "-l", "app=web", "--all-containers"), "myapp is up", "side is up")
	})
	contains(t, run("describe", "deployment", "web"), "2 available")
	contains(t, run("rollout", "history", "deployment/web"), "REVISION")
	r := c.Start(path, c.in([]string{"port-forward", "svc/web", ":80"})...)
	if s, err := get(c.Host, "http://127.0.0.1:"+c.forwarded(r)+"/"); err != nil || !strings.HasPrefix(s, "web-") {
		t.Errorf("port-forward: %q %v", s, err)
	}
}
