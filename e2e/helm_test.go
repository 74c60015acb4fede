package e2e

import (
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"

	"orch/e2e/lab"
)

// TestHelm installs, upgrades, rolls back and uninstalls a small chart.
func TestHelm(t *testing.T) {
	h := lab.New(t).Host("one")
	h.Images()
	h.StartServer()
	kubeconfig := h.Kubeconfig()
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig = &kubeconfig
	flags.WrapConfigFn = func(c *rest.Config) *rest.Config { c.Dial = h.Dial; return c }
	cfg := action.NewConfiguration()
	if err := cfg.Init(flags, "default", "secret"); err != nil {
		t.Fatal(err)
	}
	chart, err := loader.Load("testdata/chart")
	if err != nil {
		t.Fatal(err)
	}
	greeting := func(want string) {
		t.Helper()
		if got := h.Kubectl("get", "configmap", "small-config", "-o", "jsonpath={.data.greeting}"); got != want {
			t.Errorf("greeting %q, want %q", got, want)
		}
	}
	install := action.NewInstall(cfg)
	install.ReleaseName, install.Namespace, install.WaitStrategy, install.Timeout = "small", "default", kube.StatusWatcherStrategy, time.Minute
	if _, err := install.RunWithContext(t.Context(), chart, nil); err != nil {
		t.Fatalf("install: %v", err)
	}
	greeting("hello")
	upgrade := action.NewUpgrade(cfg)
	upgrade.Namespace, upgrade.WaitStrategy, upgrade.Timeout = "default", kube.StatusWatcherStrategy, time.Minute
	if _, err := upgrade.RunWithContext(t.Context(), "small", chart, map[string]any{"greeting": "good day", "replicas": 2}); err != nil {
		t.Fatalf("upgrade: %v", err)
	}
	greeting("good day")
	if got := h.Kubectl("get", "deployment", "small", "-o", "jsonpath={.status.readyReplicas}"); got != "2" {
		t.Errorf("%s replicas are ready", got)
	}
	rollback := action.NewRollback(cfg)
	rollback.Version, rollback.WaitStrategy, rollback.Timeout = 1, kube.StatusWatcherStrategy, time.Minute
	if err := rollback.Run("small"); err != nil {
		t.Fatalf("rollback: %v", err)
	}
	greeting("hello")
	uninstall := action.NewUninstall(cfg)
	uninstall.WaitStrategy, uninstall.Timeout = kube.StatusWatcherStrategy, time.Minute
	if _, err := uninstall.Run("small"); err != nil {
		t.Fatalf("uninstall: %v", err)
	}
	if out := h.Kubectl("get", "all,configmaps", "-o", "name"); strings.Contains(out, "small") {
		t.Errorf("left behind: %s", out)
	}
}
