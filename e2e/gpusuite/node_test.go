//go:build gpusuite

package gpusuite

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"orch/e2e/lab"
)

// image has cudacheck, the C library that it and the driver's programs need, and busybox.
const image = "cudacheck:1.0"

// node is an orch server with an agent, on a host without a network around it.
type node struct {
	*lab.Host
	server  *lab.Process
	set     *kubernetes.Clientset
	sharing string
}

// onNode gives a node whose card is given out whole.
func (r *run) onNode() *node { return r.onNodeSharing("") }

// onNodeSharing gives a node with this sharing configuration. There is one at a time: the
// card has one owner.
func (r *run) onNodeSharing(sharing string) *node {
	r.Helper()
	s := r.suite
	if s.node != nil && s.node.sharing == sharing {
		return s.node
	}
	if s.node != nil {
		s.node.server.Stop()
	}
	h := lab.New(s.t).Host("gpubox")
	images := filepath.Join(h.Dir, "agent", "images")
	r.must(os.MkdirAll(images, 0o755))
	b, err := os.ReadFile(beside("cudacheck.tar"))
	r.must(err)
	r.must(os.WriteFile(filepath.Join(images, "cudacheck.tar"), b, 0o644))
	var args []string
	if sharing != "" {
		file := filepath.Join(h.Dir, "sharing.yaml")
		r.must(os.WriteFile(file, []byte(sharing), 0o644))
		args = []string{"--gpu-config", file}
	}
	began := time.Now()
	n := &node{Host: h, server: h.StartServer(args...), sharing: sharing}
	n.set = h.Clientset()
	s.node = n
	r.wait(time.Minute, "the node offers its cards", func() error {
		o, err := n.set.CoreV1().Nodes().Get(r.ctx, h.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if q := o.Status.Allocatable["nvidia.com/gpu"]; q.Value() == 0 {
			return fmt.Errorf("it offers %v", o.Status.Allocatable)
		}
		return nil
	})
	r.figure("startToAllocatableMilliseconds", time.Since(began).Milliseconds())
	r.wait(time.Minute, "the default service account", func() error {
		_, err := n.set.CoreV1().ServiceAccounts("default").Get(r.ctx, "default", metav1.GetOptions{})
		return err
	})
	return n
}

// wait polls: what is waited for is on the other side of an API or of the driver.
func (r *run) wait(limit time.Duration, what string, check func() error) time.Duration {
	r.Helper()
	began := time.Now()
	for {
		err := check()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > limit || r.ctx.Err() != nil {
			r.note("waiting for %s: %v", what, err)
			r.Fatalf("waiting for %s: %v\n%s", what, err, r.events())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// events are those of the node that runs, for a failure.
func (r *run) events() string {
	if r.suite.node == nil {
		return ""
	}
	said, _ := r.suite.node.TryKubectl("get", "pods,events", "-A", "-o", "wide")
	return said
}

// pod is what checks vary. Limits are of its one container.
type pod struct {
	name    string
	command []string
	limits  core.ResourceList
	user    int64
}

// oneCard is the usual limit.
func oneCard() core.ResourceList {
	return core.ResourceList{"nvidia.com/gpu": quantity("1")}
}

// start creates a pod and has it deleted when the check ends.
func (r *run) start(n *node, p pod) {
	r.Helper()
	grace := int64(1) // with 0 the object would be gone before the container
	c := core.Container{Name: "main", Image: image, Command: p.command, Resources: core.ResourceRequirements{Limits: p.limits}}
	if p.user != 0 {
		c.SecurityContext = &core.SecurityContext{RunAsUser: &p.user, RunAsGroup: &p.user}
	}
	_, err := n.set.CoreV1().Pods("default").Create(r.ctx, &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.name},
		Spec: core.PodSpec{RestartPolicy: core.RestartPolicyNever, TerminationGracePeriodSeconds: &grace, Containers: []core.Container{c}}}, metav1.CreateOptions{})
	r.must(err)
	r.Cleanup(func() { r.remove(n, p.name) })
}

// remove deletes a pod and waits until it is gone. Gone is fine.
func (r *run) remove(n *node, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_ = n.set.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{})
	for ctx.Err() == nil {
		if _, err := n.set.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{}); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ends waits until the pod's container has ended and gives its state and output.
func (r *run) ends(n *node, name string, limit time.Duration) (core.ContainerStateTerminated, string) {
	r.Helper()
	var state core.ContainerStateTerminated
	r.wait(limit, "the end of pod "+name, func() error {
		p, err := n.set.CoreV1().Pods("default").Get(r.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Status.Phase == core.PodFailed && len(p.Status.ContainerStatuses) == 0 {
			state = core.ContainerStateTerminated{ExitCode: -1, Reason: p.Status.Reason, Message: p.Status.Message}
			return nil
		}
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Terminated != nil {
				state = *c.State.Terminated
				return nil
			}
		}
		return fmt.Errorf("it is %s %s: %+v", p.Status.Phase, p.Status.Message, p.Status.ContainerStatuses)
	})
	return state, r.log(n, name)
}

func (r *run) log(n *node, name string) string {
	b, err := n.set.CoreV1().Pods("default").GetLogs(name, &core.PodLogOptions{}).DoRaw(r.ctx)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// says waits until the pod has printed the text.
func (r *run) says(n *node, name, text string) string {
	r.Helper()
	var all string
	r.wait(time.Minute, name+" to print "+text, func() error {
		if all = r.log(n, name); !strings.Contains(all, text) {
			return fmt.Errorf("it printed %q", all)
		}
		return nil
	})
	return all
}

// succeeds starts a pod that must end with 0 and gives its output.
func (r *run) succeeds(n *node, p pod) string {
	r.Helper()
	r.start(n, p)
	state, text := r.ends(n, p.name, 2*time.Minute)
	if state.ExitCode != 0 {
		r.fail("%s: exit code %d %s %s\n%s", p.name, state.ExitCode, state.Reason, state.Message, text)
	}
	return text
}

// answer reads cudacheck's line.
func (r *run) answer(text string) map[string]any {
	r.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(strings.TrimSpace(text)), &out); err != nil {
		r.fail("cudacheck printed %q", text)
	}
	return out
}
