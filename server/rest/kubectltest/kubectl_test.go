package kubectltest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/server/access"
	"orch/server/crd"
	"orch/server/registry"
	"orch/server/rest"
	"orch/server/rest/openapi"
)

// asKubectl makes the test binary be kubectl.
const asKubectl = "ORCH_TEST_AS_KUBECTL"

func TestMain(m *testing.M) {
	if os.Getenv(asKubectl) != "" {
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			os.Stderr.WriteString("error: " + err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type everybody struct{}

func (everybody) Authenticate(*http.Request) (registry.User, bool, error) {
	return registry.User{Name: "admin"}, true, nil
}

func (everybody) Authorize(context.Context, access.Attributes) (bool, string, error) {
	return true, "", nil
}

// serve starts an API server and returns its URL.
func serve(t *testing.T) string {
	t.Helper()
	store := memory.New()
	r, err := registry.New(registry.Config{Store: store, Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Run(ctx) })
	s, err := rest.New(rest.Config{Registry: r, Authenticator: everybody{}, Authorizer: everybody{}, Version: "v1.37.0+orch"})
	if err != nil {
		t.Fatal(err)
	}
	custom, err := crd.New(crd.Config{Registry: r, Client: r.Client(registry.User{Name: "system:apiserver"}),
		Publish: func(name string, d crd.Document) { s.Documents().Set(name, openapi.Document(d)) }})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
		cancel()
		wg.Wait()
	})
	<-r.Ready()
	wg.Go(func() { _ = custom.Run(ctx) })
	call := registry.Request{User: registry.User{Name: "admin"}, Target: client.Target{Kind: api.Namespaces.Facts}}
	if _, err := r.Create(ctx, call, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return h.URL
}

// TestKubectl runs testdata/*.txtar: scripts of kubectl commands and what they print.
func TestKubectl(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "kubectl")); err != nil {
		t.Fatal(err)
	}
	diff, err := exec.LookPath("diff")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			url := serve(t) // one for each script: a kind that comes and goes is seen by all clients
			config := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: '" + url + "'}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\ncurrent-context: c\n"
			path := filepath.Join(e.WorkDir, "kubeconfig")
			e.Setenv("PATH", strings.Join([]string{bin, filepath.Dir(diff), "/bin"}, ":"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("KUBECONFIG", path)
			e.Setenv(asKubectl, "1")
			return os.WriteFile(path, []byte(config), 0o600)
		},
	})
}
