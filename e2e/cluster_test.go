package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"orch/e2e/lab"
)

// patience is how long a test waits for what takes a cluster a moment, on a machine that
// is busy.
const patience = 2 * time.Minute

// cluster is a running server with its node, as one subtest sees it: in a
// namespace of its own.
type cluster struct {
	*lab.Host
	ns string
}

// TestOneNode runs everything that one server with its own node must do. The
// subtests share it, each in its own namespace, several at a time.
func TestOneNode(t *testing.T) {
	h := lab.New(t).Host("one")
	h.Images()
	h.StartServer()
	for _, group := range []struct {
		name  string
		tests map[string]func(*testing.T, cluster)
	}{
		{"manifests", manifestTests},
		{"kubectl", kubectlTests},
		{"containers", containerTests},
		{"pods", podTests},
		{"services", serviceTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for name, test := range group.tests {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					test(t, newCluster(t, h))
				})
			}
		})
	}
	t.Run("what needs the node for itself", func(t *testing.T) {
		for name, test := range nodeTests {
			t.Run(name, func(t *testing.T) { test(t, newCluster(t, h)) })
		}
	})
}

var unfit = regexp.MustCompile(`[^a-z0-9]+`)

// newCluster makes the subtest's namespace and takes it away at its end.
func newCluster(t *testing.T, h *lab.Host) cluster {
	t.Helper()
	name := t.Name()[strings.LastIndexByte(t.Name(), '/')+1:]
	c := cluster{h.For(t), "t-" + strings.Trim(unfit.ReplaceAllString(strings.ToLower(name), "-"), "-")}
	c.Kubectl("create", "namespace", c.ns)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pods and events:\n%s\n%s", c.TryBoth("get", "pods", "-o", "wide"), c.TryBoth("events"))
		}
		c.Host.Kubectl("delete", "namespace", c.ns, "--wait=false")
	})
	c.Eventually(patience, "the default service account", func() error {
		_, err := c.Try("get", "serviceaccount", "default")
		return err
	})
	return c
}

func (c cluster) in(args []string) []string { return append([]string{"-n", c.ns}, args...) }

// K runs kubectl in the namespace; Try, TryBoth, In and Go are its relatives.
func (c cluster) K(args ...string) string            { c.Helper(); return c.Kubectl(c.in(args)...) }
func (c cluster) Try(args ...string) (string, error) { c.Helper(); return c.TryKubectl(c.in(args)...) }
func (c cluster) In(stdin string, args ...string) lab.Output {
	c.Helper()
	return c.KubectlIn(stdin, c.in(args)...)
}
func (c cluster) Go(args ...string) *lab.Running { c.Helper(); return c.StartKubectl(c.in(args)...) }
func (c cluster) TryBoth(args ...string) string  { out, _ := c.Try(args...); return out }
func (c cluster) Get(what, jsonpath string) string {
	c.Helper()
	return c.In("", "get", what, "-o", "jsonpath="+jsonpath).Stdout
}
func (c cluster) Exec(pod string, command ...string) lab.Output {
	c.Helper()
	return c.In("", append([]string{"exec", pod, "--"}, command...)...)
}

// Apply applies YAML.
func (c cluster) Apply(yaml string) {
	c.Helper()
	if o := c.In(yaml, "apply", "-f", "-"); o.Code != 0 {
		c.Fatalf("kubectl apply: %s\n%s", o.Both(), yaml)
	}
}

// Gets waits until the object's field is as wanted.
func (c cluster) Gets(what, jsonpath, want string) {
	c.Helper()
	c.GetsWithin(patience, what, jsonpath, want)
}

func (c cluster) GetsWithin(timeout time.Duration, what, jsonpath, want string) {
	c.Helper()
	c.Eventually(timeout, what+" "+jsonpath, func() error {
		if got := c.Get(what, jsonpath); got != want {
			return fmt.Errorf("it is %q, want %q", got, want)
		}
		return nil
	})
}

// Ready waits until pods (by name or -l selector) are.
func (c cluster) Ready(pods ...string) {
	c.Helper()
	c.K(append([]string{"wait", "--for=condition=Ready", "--timeout=150s", "pod"}, pods...)...)
}

// Says waits until the command's output has the text.
func (c cluster) Says(want string, args ...string) string {
	c.Helper()
	var out string
	c.Eventually(patience, strings.Join(args, " ")+" says "+want, func() error {
		out = c.TryBoth(args...)
		return missing(out, want)
	})
	return out
}

// saysAll waits until the command's output has all the texts.
func (c cluster) saysAll(args []string, want ...string) {
	c.Helper()
	c.Eventually(patience, strings.Join(args, " "), func() error { return missing(c.TryBoth(args...), want...) })
}

// SaysRunning waits until what runs beside the test has printed the text.
func (c cluster) SaysRunning(r *lab.Running, want string) {
	c.Helper()
	c.Eventually(patience, "it prints "+want, func() error { return missing(r.Output(), want) })
}

// missing says which of the texts s lacks.
func missing(s string, want ...string) error {
	for _, w := range want {
		if !strings.Contains(s, w) {
			return fmt.Errorf("no %q in:\n%s", w, s)
		}
	}
	return nil
}

// contains fails the test for texts that s lacks.
func contains(t testing.TB, s string, want ...string) {
	t.Helper()
	for _, w := range want {
		if err := missing(s, w); err != nil {
			t.Error(err)
		}
	}
}

// equal compares after trimming.
func equal(t testing.TB, what, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != want {
		t.Errorf("%s: %q, want %q", what, strings.TrimSpace(got), want)
	}
}

// Pod makes a pod of one container from its spec's other fields as JSON-like
// YAML flow text, such as `command: [sleep, "60"]`.
func (c cluster) Pod(name, image, container string, spec ...string) {
	c.Helper()
	labels, _ := json.Marshal(map[string]string{"app": name})
	if !strings.Contains(strings.Join(spec, ""), "terminationGracePeriodSeconds") {
		spec = append(spec, "terminationGracePeriodSeconds: 2")
	}
	text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: %s}\nspec:\n", name, labels)
	for _, s := range spec {
		text += "  " + s + "\n"
	}
	text += "  containers:\n  - name: main\n    image: " + image + "\n"
	for _, line := range strings.Split(strings.TrimSpace(container), "\n") {
		text += "    " + strings.TrimSpace(line) + "\n"
	}
	c.Apply(text)
}

// Sleeper is a pod with a shell to look around in.
func (c cluster) Sleeper(name string, spec ...string) {
	c.Helper()
	c.Pod(name, "busybox:1.36", `command: [sh, -c, "trap exit TERM; sleep 3600 & wait"]`, spec...)
}
