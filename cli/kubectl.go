package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
)

// Kubeconfig is where `orch server` writes the administrator's kubeconfig.
const Kubeconfig = "/etc/orch/orch.yaml"

// kubectl runs the embedded kubectl. Without --kubeconfig, KUBECONFIG and
// ~/.kube/config it talks to the cluster of this host.
func kubectl(p Program, args []string) int {
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	if path := ownKubeconfig(); path != "" {
		flags.KubeConfig = &path
	}
	command := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     append([]string{"kubectl"}, args...),
		ConfigFlags:   flags,
		IOStreams:     genericiooptions.IOStreams{In: p.Stdin, Out: p.Stdout, ErrOut: p.Stderr},
	})
	command.SetArgs(args)
	if err := cli.RunNoErrOutput(command); err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	return 0
}

func ownKubeconfig() string {
	if os.Getenv("KUBECONFIG") != "" {
		return ""
	}
	if home, err := os.UserHomeDir(); err == nil && readable(filepath.Join(home, ".kube", "config")) {
		return ""
	}
	if !readable(Kubeconfig) {
		return ""
	}
	return Kubeconfig
}

func readable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
