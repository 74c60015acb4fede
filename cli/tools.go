package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"orch/runtime/bundle"
)

// Kubeconfig is where `orch server` writes the administrator's kubeconfig.
const Kubeconfig = "/etc/orch/orch.yaml"

// administrator is the kubeconfig of commands that act for one: the first of
// KUBECONFIG, as kubectl reads it, else the server's own.
func administrator() string {
	if list := filepath.SplitList(os.Getenv("KUBECONFIG")); len(list) > 0 && list[0] != "" {
		return list[0]
	}
	return Kubeconfig
}

// Socket is where the containerd inside orch listens for ctr and nerdctl.
const Socket = "/run/orch/containerd/containerd.sock"

// namespace is containerd's namespace of all that orch runs.
const namespace = "k8s.io"

// rootTools is where the tools are kept for root; other users have them in their caches.
const rootTools = "/var/cache/orch"

// kubectl becomes the embedded kubectl. Without --kubeconfig, KUBECONFIG and
// ~/.kube/config it talks to the cluster of this host.
func kubectl(p Program, args []string) int {
	env := os.Environ()
	if path := ownKubeconfig(); path != "" {
		env = append(env, "KUBECONFIG="+path)
	}
	return become(p, append([]string{"kubectl"}, args...), env)
}

// ctr becomes the embedded containerd client, with orch's socket and namespace as
// defaults.
func ctr(p Program, args []string) int {
	for _, d := range []struct{ long, short, value string }{{"--address", "-a", Socket}, {"--namespace", "-n", namespace}} {
		if !slices.ContainsFunc(args, func(a string) bool { return a == d.long || a == d.short }) {
			args = append([]string{d.long, d.value}, args...)
		}
	}
	return become(p, append([]string{"ctr"}, args...), os.Environ())
}

// become does not return where it succeeds.
func become(p Program, argv, env []string) int {
	err := bundle.Exec(bundle.Tools, toolsDir(), argv, env)
	fmt.Fprintf(p.Stderr, "%s: %v\n", argv[0], err)
	return 1
}

// toolsDir is empty where there is no place for them.
func toolsDir() string {
	if os.Geteuid() == 0 {
		return rootTools
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "orch")
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
