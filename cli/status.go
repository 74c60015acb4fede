package cli

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/version"
)

// statusTimeout bounds how long `orch status` waits for the server.
const statusTimeout = 5 * time.Second

func statusCommand() *cobra.Command {
	var kubeconfig string
	c := &cobra.Command{Use: "status", Short: "Say how the cluster of this host is", Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(c.Context(), statusTimeout)
		defer cancel()
		return status(ctx, kubeconfig, c.OutOrStdout())
	}}
	c.Flags().StringVar(&kubeconfig, "kubeconfig", administrator(), "the administrator's kubeconfig (default: KUBECONFIG, then "+Kubeconfig+")")
	return c
}

// status prints the server, the nodes, and the pods that are not as they should be.
func status(ctx context.Context, kubeconfig string, out io.Writer) error {
	server, err := administratorAccess(kubeconfig)
	if err != nil {
		return err
	}
	var v version.Info
	var nodes core.NodeList
	var pods core.PodList
	if err := server.get(ctx, "/version", &v); err != nil {
		return fmt.Errorf("the server at %s does not answer: %w", server.url, err)
	}
	if err := server.get(ctx, "/api/v1/nodes", &nodes); err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	if err := server.get(ctx, "/api/v1/pods", &pods); err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "server\t%s\t%s\n", server.url, v.GitVersion)
	for i := range nodes.Items {
		n := &nodes.Items[i]
		fmt.Fprintf(w, "node\t%s\t%s\t%s\t%s\n", n.Name, readiness(n), podCount(podsOn(pods.Items, n.Name)), duration.HumanDuration(time.Since(n.CreationTimestamp.Time)))
	}
	troubled := 0
	for i := range pods.Items {
		if why := trouble(&pods.Items[i]); why != "" {
			troubled++
			fmt.Fprintf(w, "pod\t%s/%s\t%s\n", pods.Items[i].Namespace, pods.Items[i].Name, why)
		}
	}
	fmt.Fprintf(w, "pods\t%d in all, %d in trouble\n", len(pods.Items), troubled)
	return w.Flush()
}

func podCount(n int) string {
	if n == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", n)
}

func readiness(n *core.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == core.NodeReady {
			if c.Status == core.ConditionTrue {
				return "Ready"
			}
			return "NotReady: " + c.Message
		}
	}
	return "NotReady: no condition yet"
}

func podsOn(pods []core.Pod, node string) int {
	n := 0
	for i := range pods {
		if pods[i].Spec.NodeName == node {
			n++
		}
	}
	return n
}

// trouble says what keeps a pod from working; empty if nothing does.
func trouble(p *core.Pod) string {
	if p.Status.Phase == core.PodSucceeded {
		return ""
	}
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if w := s.State.Waiting; w != nil && w.Message != "" {
			return w.Reason + ": " + w.Message
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == core.PodScheduled && c.Status == core.ConditionFalse {
			return c.Reason + ": " + c.Message
		}
	}
	if p.Status.Phase == core.PodFailed {
		return "Failed: " + p.Status.Reason + " " + p.Status.Message
	}
	return ""
}
