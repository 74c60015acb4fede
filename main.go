// Command orch is a whole Kubernetes-compatible cluster: `orch server` and `orch
// agent join`. Package main chooses the implementations: main.go the programs,
// serve.go the control plane's parts, node.go those of a node, host.go how the
// network's packages answer what the agent asks. README.md has the map of the tree.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // time zones of CronJobs, on hosts that have none installed

	"orch/cli"
)

// version is set by the linker (scripts/build).
var version = "unknown"

// kubernetesVersion is the API level, as clients see it at /version.
const kubernetesVersion = "v1.37.2"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	slog.SetDefault(log)
	code := cli.Main(ctx, cli.Program{
		Version: version + " (Kubernetes " + kubernetesVersion + ")",
		Server:  func() cli.Part { return &serverPart{log: log} },
		Agent:   func() cli.Part { return &agentPart{log: log} },
		Join:    func(p cli.Part, url string) error { return p.(*agentPart).join(url) },
		Stdin:   os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}, os.Args)
	stop()
	os.Exit(code)
}
