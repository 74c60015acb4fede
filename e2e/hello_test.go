// Package e2e tests whole clusters: the built orch on hosts made of network
// namespaces, with real containers. Package lab makes the hosts.
package e2e

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"orch/e2e/lab"
)

// get fetches a URL from a host.
func get(h *lab.Host, url string) (string, error) {
	r, err := h.HTTP().Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", r.Status, b)
	}
	return string(b), err
}

// eventuallySays waits until the URL answers with want in it.
func eventuallySays(h *lab.Host, url, want string) {
	h.Helper()
	h.Eventually(patience, url+" says "+want, func() error {
		got, err := get(h, url)
		if err == nil && !strings.Contains(got, want) {
			err = fmt.Errorf("it says %q", got)
		}
		return err
	})
}

// answeredBy waits until 60 requests are answered by so many pods: all of those
// behind a Service, once its rules are written.
func answeredBy(h *lab.Host, url string, pods int) {
	h.Helper()
	h.Eventually(patience, fmt.Sprintf("%s is answered by %d pods", url, pods), func() error {
		seen := map[string]bool{}
		for range 60 {
			s, err := get(h, url)
			if err != nil {
				return err
			}
			seen[s] = true
		}
		if len(seen) != pods {
			return fmt.Errorf("60 requests were answered by %v", seen)
		}
		return nil
	})
}

// clusterIP of a Service.
func clusterIP(h *lab.Host, namespace, name string) string {
	h.Helper()
	return strings.TrimSpace(h.Kubectl("-n", namespace, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}"))
}

func TestExampleDeploymentAnswersThroughItsService(t *testing.T) {
	h := lab.New(t).Host("one")
	h.Images()
	h.StartServer()
	h.Kubectl("apply", "-f", filepath.Join(lab.Root(), "examples", "hello.yaml"))
	h.Kubectl("rollout", "status", "deployment/hello", "--timeout=150s")
	ip := clusterIP(h, "default", "hello")
	eventuallySays(h, "http://"+ip+"/", "Hello from orch, from pod hello-")
	answeredBy(h, "http://"+ip+"/", 2)
	h.Kubectl("delete", "-f", filepath.Join(lab.Root(), "examples", "hello.yaml"))
	h.Eventually(patience, "the pods are gone", func() error {
		if out := h.Kubectl("get", "pods", "-o", "name"); out != "" && !strings.Contains(out, "No resources") {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
}
