package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"orch/agent"
	"orch/agent/host"
	"orch/agent/pods"
	"orch/api"
	"orch/api/client"
	"orch/network/netns"
	"orch/runtime/containerd"
	"orch/runtime/engine"
	"orch/runtime/image"
)

// pinned makes real namespaces without interfaces but lo; addresses are counted.
type pinned struct {
	nothing
	mu  sync.Mutex
	ips map[types.UID]netip.Addr
}

func (p *pinned) Setup(_ context.Context, s host.Sandbox) ([]netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.ips[s.UID]; !ok {
		p.ips[s.UID] = netip.AddrFrom4([4]byte{10, 42, 0, byte(len(p.ips) + 2)})
	}
	return []netip.Addr{p.ips[s.UID]}, nil
}

func (p *pinned) Create(_ context.Context, s host.Sandbox) error {
	for _, f := range []string{s.NetNS, s.IPC, s.UTS} {
		if f == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			return err
		}
	}
	err := netns.Create(netns.Spec{Net: s.NetNS, IPC: s.IPC, UTS: s.UTS, Hostname: s.Hostname})
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func (p *pinned) Remove(_ context.Context, s host.Sandbox) error {
	return netns.Remove(slices.DeleteFunc([]string{s.NetNS, s.IPC, s.UTS}, func(p string) bool { return p == "" })...)
}
func (p *pinned) Pinned(path string) bool { return netns.Is(path) }

// realNode is an agent over containerd that can be ended and begun again.
type realNode struct {
	t      *testing.T
	client *client.Client
	root   string
	state  string
	host   *pinned
	stop   func()
	sweep  func()
	pods   *pods.Pods
}

func newRealNode(t *testing.T) *realNode {
	_, c := newAPI(t)
	n := &realNode{t: t, client: c, host: &pinned{ips: map[types.UID]netip.Addr{}}}
	for _, d := range []struct {
		at *string
		in string
	}{{&n.root, "/var/tmp"}, {&n.state, "/run"}} {
		var err error
		if *d.at, err = os.MkdirTemp(d.in, "orch-agent-"); err != nil {
			t.Fatal(err)
		}
		dir := *d.at
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		if err := unix.Unmount(filepath.Join(n.root, "agent/run/ns"), unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			t.Error(err)
		}
		clean(t, n.root)
	})
	if err := netns.Prepare(filepath.Join(n.root, "agent/run/ns")); err != nil {
		t.Fatal(err)
	}
	n.start()
	t.Cleanup(func() {
		if t.Failed() {
			n.sweep()
		}
		n.stop()
	})
	return n
}

func (n *realNode) start() {
	e, err := containerd.New(containerd.Config{Root: n.root + "/c", State: n.state, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		n.t.Fatal(err)
	}
	if list, err := e.Images().List(n.t.Context()); err != nil || len(list) == 0 {
		links := map[string]string{}
		for _, w := range strings.Fields("sh sleep cat echo id env ls true false kill hostname dd tail") {
			links["/bin/"+w] = "/busybox"
		}
		var b bytes.Buffer
		if err := image.Pack(image.PackOptions{Source: "/bin/busybox", Names: []string{"busybox:1.36"}, Links: links, Cmd: []string{"sh"}}, &b); err != nil {
			n.t.Fatal(err)
		}
		if _, err := e.Images().Import(n.t.Context(), &b, true); err != nil {
			n.t.Fatal(err)
		}
	}
	a, err := agent.New(agent.Config{NodeName: "n1", NodeIP: "192.0.2.1", DataDir: n.root, CgroupRoot: cgroupRoot(), ClusterDNS: []string{"10.43.0.10"}},
		agent.Deps{Client: n.client, Engine: e, Network: n.host, Namespaces: n.host, Volumes: nothing{}})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	n.pods = a.Pods()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-done, e.Close()); err != nil {
				n.t.Error(err)
			}
		})
	}
	n.sweep = func() { // a failed test leaves nothing that runs
		list, err := e.List(context.Background())
		if err != nil {
			n.t.Error(err)
		}
		for _, c := range list {
			_ = e.Signal(context.Background(), c.ID, int(unix.SIGKILL), true)
		}
		for end := time.Now().Add(patience); len(list) > 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			list = slices.DeleteFunc(list, func(c engine.Container) bool { return e.Remove(context.Background(), c.ID) == nil })
		}
	}
	select {
	case <-a.Ready():
	case <-time.After(patience):
		n.t.Fatal("agent is not ready")
	}
}

func (n *realNode) create(text string) *core.Pod {
	n.t.Helper()
	pod := &core.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), pod); err != nil {
		n.t.Fatal(err)
	}
	pod.Namespace, pod.Spec.NodeName = "default", "n1"
	out, err := client.Create(context.Background(), n.client, api.Pods, pod)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// await returns once cond holds for the pod (nil: it is gone), and what it was.
func (n *realNode) await(name string, cond func(*core.Pod) bool) *core.Pod {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found := make(chan *core.Pod, 1)
	var mu sync.Mutex
	var last *core.Pod
	look := func(p *core.Pod) {
		mu.Lock()
		defer mu.Unlock()
		if last = p; cond(p) {
			select {
			case found <- p:
			default:
			}
		}
	}
	if err := n.client.Subscribe(ctx, api.Pods.Facts, func(c client.Change) {
		if p, ok := c.New.(*core.Pod); ok && p.Name == name {
			look(p)
		} else if o, ok := c.Old.(*core.Pod); ok && o.Name == name && c.New == nil {
			look(nil)
		}
	}); err != nil {
		n.t.Fatal(err)
	}
	select {
	case p := <-found:
		return p
	case <-ctx.Done():
		mu.Lock()
		defer mu.Unlock()
		var b []byte
		if last != nil {
			b, _ = yaml.Marshal(last.Status)
		}
		n.t.Fatalf("waiting for pod %s: last status\n%s", name, b)
		return nil
	}
}

func (n *realNode) remove(name string) {
	n.t.Helper()
	gone := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := n.client.Subscribe(ctx, api.Pods.Facts, func(c client.Change) {
		if o, ok := c.Old.(*core.Pod); ok && o.Name == name && c.New == nil {
			close(gone)
		}
	}); err != nil {
		n.t.Error(err)
		return
	}
	if err := client.Delete(ctx, n.client, api.Pods, "default", name, metav1.DeleteOptions{}); err != nil {
		n.t.Error(err)
		return
	}
	select {
	case <-gone:
	case <-time.After(patience):
		n.t.Errorf("pod %s does not go", name)
	}
}

func isReady(p *core.Pod) bool {
	return p != nil && slices.ContainsFunc(p.Status.Conditions, func(c core.PodCondition) bool { return c.Type == core.PodReady && c.Status == core.ConditionTrue })
}

func ended(p *core.Pod) bool {
	return p != nil && (p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed)
}

const trapping = `sh, -c, 'trap "exit 0" TERM; while true; do sleep 1000 & wait; done'`

func (n *realNode) log(name, container string) string {
	n.t.Helper()
	s, ok := n.pods.Lookup("default", name)
	if !ok {
		n.t.Fatalf("no pod %s", name)
	}
	c, ok := s.Find(container)
	if !ok {
		n.t.Fatalf("no container %s", container)
	}
	b, err := os.ReadFile(c.LogPath)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

// TestRealPods runs pods in containers.
func TestRealPods(t *testing.T) {
	n := newRealNode(t)
	t.Run("environment", func(t *testing.T) {
		p := n.create(`
metadata: {name: env, labels: {app: x}}
spec:
  restartPolicy: Never
  hostAliases: [{ip: 10.1.2.3, hostnames: [friend]}]
  containers:
  - name: a
    image: busybox:1.36
    command: [sh, -c, 'echo $(WHO) $IP $HOST; hostname; cat /etc/hosts /etc/resolv.conf; id; echo done > /dev/termination-log; ls -ld /dev/shm; exit 7']
    env:
    - {name: WHO, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    securityContext: {runAsUser: 1000, runAsGroup: 2000}
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 100m, memory: 32Mi}}`)
		p = n.await("env", ended)
		end := p.Status.ContainerStatuses[0].State.Terminated
		if p.Status.Phase != core.PodFailed || end.ExitCode != 7 || end.Message != "done\n" || end.Reason != "Error" || p.Status.QOSClass != core.PodQOSGuaranteed {
			t.Errorf("status: %+v", p.Status)
		}
		log := n.log("env", "a")
		for _, want := range []string{"x " + p.Status.PodIP + " 192.0.2.1", "stdout F env", p.Status.PodIP + "\tenv", "10.1.2.3\tfriend", "search default.svc.cluster.local svc.cluster.local cluster.local", "nameserver 10.43.0.10", "options ndots:5", "uid=1000 gid=2000"} {
			if !strings.Contains(log, want) {
				t.Errorf("no %q in\n%s", want, log)
			}
		}
		n.remove("env")
	})
	t.Run("shared processes", func(t *testing.T) {
		n.create(`
metadata: {name: shared}
spec:
  shareProcessNamespace: true
  restartPolicy: Never
  containers:
  - name: a
    image: "busybox:1.36"
    command: [sh, -c, 'until case "$(cat /proc/[0-9]*/cmdline)" in *sleep12[3]4*) ;; *) false;; esac; do sleep 0.05; done; cat /proc/1/comm; ls -d /proc/[0-9]*; ls /proc/1/root/']
  - {name: b, image: "busybox:1.36", command: [sleep, "1234"]}`)
		n.await("shared", func(p *core.Pod) bool { // once a has seen b
			return p != nil && slices.ContainsFunc(p.Status.ContainerStatuses, func(s core.ContainerStatus) bool { return s.Name == "a" && s.State.Terminated != nil })
		})
		if log := n.log("shared", "a"); !strings.Contains(log, "stdout F pause") || strings.Count(log, "/proc/") < 4 {
			t.Error(log)
		}
		n.remove("shared")
	})
	t.Run("out of memory", func(t *testing.T) {
		n.create(`
metadata: {name: hog}
spec:
  restartPolicy: Never
  containers: [{name: a, image: "busybox:1.36", command: [sh, -c, 'tail /dev/zero'], resources: {limits: {memory: 16Mi}}}]`)
		p := n.await("hog", ended)
		if end := p.Status.ContainerStatuses[0].State.Terminated; end.Reason != "OOMKilled" || end.ExitCode != 137 {
			t.Errorf("end: %+v", end)
		}
		n.remove("hog")
	})
	t.Run("start error", func(t *testing.T) {
		n.create(`
metadata: {name: bad}
spec: {containers: [{name: a, image: "busybox:1.36", command: [/nothing]}]}`)
		n.await("bad", func(p *core.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) > 0 && s[0].State.Waiting != nil && (s[0].State.Waiting.Reason == "RunContainerError" || s[0].State.Waiting.Reason == "CrashLoopBackOff" || s[0].State.Waiting.Reason == "CreateContainerError")
		})
		n.remove("bad")
	})
	t.Run("readiness by exec", func(t *testing.T) {
		n.create(`
metadata: {name: slow}
spec: {terminationGracePeriodSeconds: 5, containers: [{name: a, image: "busybox:1.36", command: [` + trapping[:len(trapping)-1] + `'], readinessProbe: {exec: {command: [sh, -c, 'true']}}}]}`)
		n.await("slow", isReady)
		n.remove("slow")
	})
	t.Run("restart of the agent", func(t *testing.T) {
		n.create(`
metadata: {name: stays}
spec: {terminationGracePeriodSeconds: 5, containers: [{name: a, image: "busybox:1.36", command: [` + trapping + `]}]}`)
		before := n.await("stays", isReady)
		s, _ := n.pods.Lookup("default", "stays")
		pid := s.Containers[0].PID
		n.stop()
		n.start()
		after := n.await("stays", func(p *core.Pod) bool { // Ready it was before: wait for the agent to know it
			s, _ = n.pods.Lookup("default", "stays")
			return isReady(p) && s != nil && len(s.Containers) > 0
		})
		if s.Containers[0].PID != pid || after.Status.PodIP != before.Status.PodIP || after.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("pid %d -> %d, ip %s -> %s", pid, s.Containers[0].PID, before.Status.PodIP, after.Status.PodIP)
		}
		n.remove("stays")
	})
	t.Run("speed", func(t *testing.T) { speed(t, n) })
}

func speed(t *testing.T, n *realNode) {
	var up, down []time.Duration
	for i := range 12 {
		name := fmt.Sprintf("fast-%d", i)
		began := time.Now()
		n.create(`
metadata: {name: ` + name + `}
spec: {terminationGracePeriodSeconds: 5, containers: [{name: a, image: "busybox:1.36", command: [` + trapping + `]}]}`)
		n.await(name, isReady)
		up = append(up, time.Since(began))
		time.Sleep(50 * time.Millisecond) // the shell sets its trap, in most runs
		began = time.Now()
		n.remove(name)
		down = append(down, time.Since(began))
	}
	slices.Sort(up)
	slices.Sort(down)
	t.Logf("create to ready: p50 %v, max %v; delete to gone: p50 %v, max %v", up[6], up[11], down[6], down[11])
	began := time.Now()
	for i := range 30 {
		n.create(fmt.Sprintf(`
metadata: {name: many-%d}
spec: {terminationGracePeriodSeconds: 5, containers: [{name: a, image: "busybox:1.36", command: [%s]}]}`, i, trapping))
	}
	for i := range 30 {
		n.await(fmt.Sprintf("many-%d", i), isReady)
	}
	t.Logf("30 at once: %v", time.Since(began))
	time.Sleep(100 * time.Millisecond) // the shells set their traps, in most runs
	began = time.Now()
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() { n.remove(fmt.Sprintf("many-%d", i)) })
	}
	wg.Wait()
	t.Logf("30 deleted: %v", time.Since(began))
}
