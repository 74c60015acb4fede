package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/cmd/ctr/app"
)

// Socket is where the containerd inside orch listens for ctr and nerdctl.
const Socket = "/run/orch/containerd/containerd.sock"

// namespace is containerd's namespace of all that orch runs.
const namespace = "k8s.io"

// ctr runs the embedded containerd client with orch's socket and namespace as defaults.
func ctr(ctx context.Context, p Program, args []string) int {
	program := app.New()
	for _, d := range []struct{ long, short, value string }{{"--address", "-a", Socket}, {"--namespace", "-n", namespace}} {
		if !slices.ContainsFunc(args, func(a string) bool { return a == d.long || a == d.short }) {
			args = append([]string{d.long, d.value}, args...)
		}
	}
	if err := program.Run(ctx, append([]string{"ctr"}, args...)); err != nil {
		fmt.Fprintf(p.Stderr, "ctr: %v\n", err)
		return 1
	}
	return 0
}
