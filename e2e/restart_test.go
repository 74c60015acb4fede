package e2e

import (
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orch/e2e/lab"
)

const thirtyPods = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: 30
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: "myapp:1.4.2", readinessProbe: {httpGet: {path: /ready, port: 8000}, periodSeconds: 2}}]
---
apiVersion: v1
kind: Service
metadata: {name: many}
spec: {type: NodePort, selector: {app: many}, ports: [{port: 80, targetPort: 8000, nodePort: 30777}]}
`

// TestKilledSixTimesUnderThirtyPods: kill -9 of orch does not touch what runs.
// Clients on the host and on another host see no failed request meanwhile.
func TestKilledSixTimesUnderThirtyPods(t *testing.T) {
	l := lab.New(t)
	h, other := l.Host("one"), l.Host("client")
	h.Images()
	p := h.StartServer()
	if o := h.KubectlIn(thirtyPods, "apply", "-f", "-"); o.Code != 0 {
		t.Fatal(o.Both())
	}
	h.Kubectl("rollout", "status", "deployment/many", "--timeout=240s")
	service := "http://" + clusterIP(h, "default", "many") + "/"
	node := fmt.Sprintf("http://%s:30777/", h.IP)
	eventuallySays(h, service, "many-")
	eventuallySays(other, node, "many-")

	processes, addresses := h.Containers(), podIPs(h)
	if len(processes) != 30 || len(addresses) != 30 {
		t.Fatalf("%d containers, %d pods", len(processes), len(addresses))
	}
	inside, outside := startClient(t, h, service), startClient(t, other, node)
	for i := range 6 {
		p.Kill()
		if i%2 == 0 { // every other time it is killed while it takes the pods over
			inside.more(h, 20)
			p.Restart()
		} else {
			p.Restart()
			outside.more(h, 100)
		}
	}
	h.Kubectl("rollout", "status", "deployment/many", "--timeout=150s")
	for name, c := range map[string]*steady{"on the host": inside, "on another host": outside} {
		n, failed := c.stop()
		t.Logf("client %s: %d requests", name, n)
		if n < 100 || failed != "" {
			t.Errorf("client %s: %d requests, failure: %s", name, n, failed)
		}
	}
	same(t, processes, h.Containers())
	if after := podIPs(h); !maps.Equal(addresses, after) {
		t.Errorf("addresses\nwere %v\nare %v", addresses, after)
	}
	if out := h.Kubectl("get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); strings.Trim(out, "0 ") != "" {
		t.Errorf("restarts: %s", out)
	}
	// Taken over for good: they can be looked into, and end.
	pod := strings.Fields(h.Kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.name}"))[0]
	contains(t, h.Kubectl("exec", pod, "--", "/myapp", "cgroup"), "memory")
	contains(t, h.Kubectl("logs", pod), "myapp is up")
	h.Kubectl("scale", "deployment/many", "--replicas=0")
	h.Eventually(patience, "all containers end", func() error {
		if n := len(h.Containers()); n != 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
}

func podIPs(h *lab.Host) map[string]string {
	h.Helper()
	out := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(h.Kubectl("get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}`)), "\n") {
		name, ip, _ := strings.Cut(line, " ")
		out[name] = ip
	}
	return out
}

// steady is a client that asks without a pause, over a new connection each time.
type steady struct {
	end    chan struct{}
	done   chan struct{}
	n      atomic.Int64
	failed string // set before done closes
}

func startClient(t *testing.T, h *lab.Host, url string) *steady {
	c := &steady{end: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for c.failed == "" {
			select {
			case <-c.end:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if _, err := get(h, url); err != nil {
				c.failed = fmt.Sprintf("request %d at %s: %v", c.n.Load(), time.Now().Format(time.TimeOnly), err)
			}
			c.n.Add(1)
		}
	}()
	t.Cleanup(func() {
		select {
		case <-c.done:
		default:
			c.stop()
		}
	})
	return c
}

// more waits until it has made n more requests, or one has failed.
func (c *steady) more(h *lab.Host, n int64) {
	h.Helper()
	n += c.n.Load()
	h.Eventually(patience, fmt.Sprintf("%d requests", n), func() error {
		select {
		case <-c.done:
			return nil
		default:
		}
		if got := c.n.Load(); got < n {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}

// stop ends it and tells how many requests it made and which failed.
func (c *steady) stop() (n int64, failed string) {
	close(c.end)
	<-c.done
	return c.n.Load(), c.failed
}
