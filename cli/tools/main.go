// Command tools is kubectl and ctr, whichever it is called as. It is a program of
// its own, carried packed inside orch (runtime/bundle), because what the two bring
// along would otherwise sit in the memory of every server and agent: package cli
// executes it. It owns no behaviour; where kubectl and ctr connect to by default
// comes in arguments and environment. Only scripts/bundle builds it.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/cmd/ctr/app"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "kubectl":
		if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
			util.CheckErr(err) // prints and exits as kubectl does
		}
	case "ctr":
		if err := app.New().Run(context.Background(), os.Args); err != nil {
			fmt.Fprintf(os.Stderr, "ctr: %v\n", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintf(os.Stderr, "tools: called as %q, not as kubectl or ctr\n", name)
		os.Exit(2)
	}
}
