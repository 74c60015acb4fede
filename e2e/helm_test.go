package e2e

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	release "helm.sh/helm/v4/pkg/release/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"

	"orch/e2e/lab"
)

// helmBurst is how many requests Helm makes without a pause, its own default. Without it
// client-go allows five a second, and who waits for a release waits for that.
const helmBurst = 100

// helmOn is Helm against the server on the host, new each time as for each command.
func helmOn(t *testing.T, h *lab.Host) *action.Configuration {
	t.Helper()
	kubeconfig := h.Kubeconfig()
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig = &kubeconfig
	flags.WrapConfigFn = func(c *rest.Config) *rest.Config { c.Dial, c.Burst = h.Dial, helmBurst; return c }
	cfg := action.NewConfiguration()
	if err := cfg.Init(flags, "default", "secret"); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestHelm installs, upgrades, rolls back and uninstalls a small chart.
func TestHelm(t *testing.T) {
	h := lab.New(t).Host("one")
	h.Images()
	h.StartServer()
	cfg := helmOn(t, h)
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

// gadgets is one release of testdata/gadgets, and what people do with it.
type gadgets struct {
	*testing.T
	h     *lab.Host
	chart *chartv2.Chart
}

// TestHelmOperator takes a chart with definitions of kinds in crds/ and as templates, objects of
// those kinds, a webhook, hooks, look-ups and a test through its whole life.
func TestHelmOperator(t *testing.T) {
	h := lab.New(t).Host("one")
	h.Images()
	h.StartServer()
	chart, err := loader.Load("testdata/gadgets")
	if err != nil {
		t.Fatal(err)
	}
	g := gadgets{t, h, chart}
	g.install()
	g.test()
	g.upgrade()
	g.failedUpgrade()
	g.rollback()
	g.uninstall()
}

func (g gadgets) is(want string, args ...string) {
	g.Helper()
	if got := g.h.Kubectl(append([]string{"get"}, args...)...); got != want {
		g.Errorf("%v: %q, want %q", args, got, want)
	}
}

func (g gadgets) ran(hook, said string) {
	g.Helper()
	g.is("1", "job", hook, "-o", "jsonpath={.status.succeeded}")
	if got := strings.TrimSpace(g.h.Kubectl("logs", "job/"+hook)); got != said {
		g.Errorf("hook %s said %q, want %q", hook, got, said)
	}
}

func (g gadgets) install() {
	install := action.NewInstall(helmOn(g.T, g.h))
	install.ReleaseName, install.Namespace, install.WaitStrategy, install.Timeout = "ops", "default", kube.StatusWatcherStrategy, 2*time.Minute
	if _, err := install.RunWithContext(g.Context(), g.chart, nil); err != nil {
		g.Fatalf("install: %v", err)
	}
	g.ran("pre-install", "pre-install of ops 1")
	g.ran("post-install", "post-install of ops 1")
	g.is("1 1", "gadget", "ops", "-o", "jsonpath={.spec.size} {.spec.parts[0].size}")
	g.is("true "+g.h.Kubectl("get", "ns", "default", "-o", "jsonpath={.metadata.uid}")+" 0 0", "configmap", "seen", "-o", "jsonpath={.data.gadgets} {.data.namespace} {.data.before} {.data.nothing}")
	if o := g.h.KubectlIn("apiVersion: gadgets.example.com/v1\nkind: Gizmo\nmetadata: {name: mine}\nspec: {size: 3}\n", "apply", "-f", "-"); o.Code != 0 {
		g.Error(o.Both())
	}
}

func (g gadgets) test() {
	cfg := helmOn(g.T, g.h)
	var said bytes.Buffer
	cfg.SetHookOutputFunc(func(_, _, _ string) io.Writer { return &said })
	asks := action.NewReleaseTesting(cfg)
	asks.Namespace, asks.Timeout = "default", time.Minute
	rel, shutdown, err := asks.Run("ops")
	if err != nil {
		g.Fatalf("test: %v", err)
	}
	if err := asks.GetPodLogs(&said, rel.(*release.Release)); err != nil || !strings.Contains(said.String(), "1 server") {
		g.Errorf("the test said %q: %v", said.String(), err)
	}
	if err := shutdown(); err != nil {
		g.Error(err)
	}
}

// change is an upgrade.
func (g gadgets) change(values map[string]any) error {
	upgrade := action.NewUpgrade(helmOn(g.T, g.h))
	upgrade.Namespace, upgrade.WaitStrategy, upgrade.Timeout = "default", kube.StatusWatcherStrategy, 2*time.Minute
	_, err := upgrade.RunWithContext(g.Context(), "ops", g.chart, values)
	return err
}

func (g gadgets) upgrade() {
	password := g.h.Kubectl("get", "secret", "generated", "-o", "jsonpath={.data.password}")
	if err := g.change(map[string]any{"next": true, "size": 2}); err != nil {
		g.Fatalf("upgrade: %v", err)
	}
	g.ran("pre-upgrade", "pre-upgrade of ops 2")
	g.is("2 2", "gadget", "ops", "-o", "jsonpath={.spec.size} {.spec.parts[0].size}")
	g.is(password, "secret", "generated", "-o", "jsonpath={.data.password}")
	g.is("1", "configmap", "seen", "-o", "jsonpath={.data.before}")
	g.is("v1 v2", "crd", "gizmos.gadgets.example.com", "-o", "jsonpath={.spec.versions[*].name}")
	g.is(`["v1","v2"]`, "crd", "gizmos.gadgets.example.com", "-o", "jsonpath={.status.storedVersions}")
	g.is("3 red", "gizmos.v2.gadgets.example.com", "mine", "-o", "jsonpath={.spec.size} {.spec.colour}")
}

// failedUpgrade meets the webhook that nobody answers, now that it must be asked.
func (g gadgets) failedUpgrade() {
	err := g.change(map[string]any{"next": true, "size": 3, "failurePolicy": "Fail"})
	if err == nil || !strings.Contains(err.Error(), `failed calling webhook "check.gadgets.example.com"`) || !strings.Contains(err.Error(), `service "nobody" not found`) {
		g.Errorf("the webhook: %v", err)
	}
	g.is("2", "gadget", "ops", "-o", "jsonpath={.spec.size}")
}

func (g gadgets) rollback() {
	rollback := action.NewRollback(helmOn(g.T, g.h))
	rollback.Version, rollback.WaitStrategy, rollback.Timeout = 2, kube.StatusWatcherStrategy, 2*time.Minute
	if err := rollback.Run("ops"); err != nil {
		g.Fatalf("rollback: %v", err)
	}
	g.ran("post-rollback", "post-rollback of ops 2") // hooks are those of the release that is gone back to
	g.is("2 Ignore", "gadget/ops", "validatingwebhookconfiguration/ops", "-o", "jsonpath={.items[0].spec.size} {.items[1].webhooks[0].failurePolicy}")
}

// uninstall leaves what crds/ brought, with its objects of others, and nothing else.
func (g gadgets) uninstall() {
	if o := g.h.KubectlIn("apiVersion: gadgets.example.com/v1\nkind: Gadget\nmetadata: {name: other}\nspec: {size: 9}\n", "apply", "-f", "-"); o.Code != 0 {
		g.Error(o.Both())
	}
	uninstall := action.NewUninstall(helmOn(g.T, g.h))
	uninstall.WaitStrategy, uninstall.Timeout = kube.StatusWatcherStrategy, 2*time.Minute
	if _, err := uninstall.Run("ops"); err != nil {
		g.Fatalf("uninstall: %v", err)
	}
	g.is("gadget.gadgets.example.com/other\n", "gadgets", "-o", "name")
	g.is("", "crd", "gizmos.gadgets.example.com", "--ignore-not-found")
	g.is("", "secret,configmap,pod,service,validatingwebhookconfiguration", "-l", "app.kubernetes.io/managed-by=Helm", "-o", "name")
	if _, err := g.h.TryKubectl("get", "gizmos"); err == nil {
		g.Error("gizmos are still served")
	}
}
