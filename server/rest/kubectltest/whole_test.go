package kubectltest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"sigs.k8s.io/yaml"

	"orch/agent/stream"
	"orch/api"
	"orch/datastore/memory"
	"orch/runtime/fakeengine"
	"orch/server"
	"orch/server/aggregator/extensiontest"
)

// whole starts a whole control plane, with nobody who schedules or runs anything, and an
// extension server that answers on the joined node "far".
func whole(t testing.TB) *server.Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "orch-kubectl")
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Config{
		DataDir: dir, BindAddress: "127.0.0.1", AdvertiseAddress: "192.0.2.1", NodeName: "one", WriteKubeconfig: filepath.Join(dir, "kubeconfig"), DisableAgent: true,
		ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDomain: "cluster.local", ServiceNodePortRange: "30000-32767", Version: "v1.37.0+orch",
	}, memory.New(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server ended with %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	select {
	case <-s.Ready():
	case <-time.After(time.Minute):
		t.Fatal("server is not ready")
	}
	return s
}

// extend puts an extension server behind the Services of the script.
func extend(t testing.TB, s *server.Server) *extensiontest.Server {
	e := extensiontest.New(t, "api", "wardle", s.PKI().FrontProxyCA())
	agent, err := stream.New(stream.Config{Pods: nowhere{}, Engine: fakeengine.New(fakeengine.Options{}), Dialer: nowhere{}, Reach: func(netip.Addr) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Tunnel().Local("far", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = api.PathDial + e.Address
		agent.ServeHTTP(w, r)
	})))
	return e
}

type nowhere struct{}

func (nowhere) Lookup(string, string) (stream.Pod, bool) { return stream.Pod{}, false }
func (nowhere) DialPod(context.Context, string, uint16) (net.Conn, error) {
	return nil, fmt.Errorf("no pods")
}

// TestWhole runs testdata/whole/*.txtar, which need a server with everything: users,
// certificates, other servers.
func TestWhole(t *testing.T) {
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
		Dir:  "testdata/whole",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"expand": expand, "fill": fill},
		Setup: func(e *testscript.Env) error {
			s := whole(t)
			config, err := s.Kubeconfig()
			if err != nil {
				return err
			}
			e.Values["ca"] = extend(t, s).CA
			path := filepath.Join(e.WorkDir, "kubeconfig")
			e.Setenv("PATH", strings.Join([]string{bin, filepath.Dir(diff), "/bin"}, ":"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("KUBECONFIG", path)
			e.Setenv(asKubectl, "1")
			return os.WriteFile(path, config, 0o600)
		},
	})
}

// fill writes what only the test knows into a file: `fill FILE` replaces CA-BUNDLE.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	b, err := json.Marshal(ts.Value("ca"))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, "CA-BUNDLE", string(b))), 0o644))
}

// expand writes the schemas of built-in types into the definitions of a file, as the
// generators of operators do: `expand FILE` replaces each {$type: io.k8s....}.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	var docs []string
	schemas := builtInSchemas(ts)
	for _, doc := range strings.Split(ts.ReadFile(args[0]), "\n---\n") {
		var o any
		ts.Check(yaml.Unmarshal([]byte(doc), &o))
		b, err := json.Marshal(inlined(o, schemas))
		ts.Check(err)
		docs = append(docs, string(b))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Join(docs, "\n---\n")), 0o644))
}

func builtInSchemas(ts *testscript.TestScript) map[string]any {
	cmd := exec.Command(filepath.Join(strings.Split(ts.Getenv("PATH"), ":")[0], "kubectl"), "get", "--raw", "/openapi/v3/api/v1")
	cmd.Env = []string{"KUBECONFIG=" + ts.Getenv("KUBECONFIG"), asKubectl + "=1", "HOME=" + ts.Getenv("HOME")}
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	data, err := io.ReadAll(out)
	ts.Check(err)
	ts.Check(cmd.Wait())
	var doc struct {
		Components struct{ Schemas map[string]any }
	}
	ts.Check(json.Unmarshal(data, &doc))
	return doc.Components.Schemas
}

// inlined puts types in the place of references to them, in the way of structural schemas.
func inlined(v any, types map[string]any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = inlined(v[i], types)
		}
	case map[string]any:
		if name, ok := v["$type"].(string); ok {
			return inlinedType(name, types)
		}
		if ref, ok := v["$ref"].(string); ok {
			return inlinedType(strings.TrimPrefix(ref, "#/components/schemas/"), types)
		}
		if all, ok := v["allOf"].([]any); ok && len(all) == 1 {
			out := inlined(all[0], types)
			if words, ok := v["description"]; ok {
				out.(map[string]any)["description"] = words
			}
			return out
		}
		if d, ok := v["default"].(map[string]any); ok && len(d) == 0 || v["default"] == "" && v["enum"] != nil {
			delete(v, "default")
		}
		delete(v, "x-kubernetes-patch-merge-key")
		delete(v, "x-kubernetes-patch-strategy")
		delete(v, "x-kubernetes-unions")
		delete(v, "x-kubernetes-group-version-kind")
		for key := range v {
			v[key] = inlined(v[key], types)
		}
	}
	return v
}

func inlinedType(name string, types map[string]any) any {
	switch {
	case strings.HasSuffix(name, ".Quantity"), strings.HasSuffix(name, ".IntOrString"):
		return map[string]any{"anyOf": []any{map[string]any{"type": "integer"}, map[string]any{"type": "string"}}, "x-kubernetes-int-or-string": true}
	case strings.HasSuffix(name, ".ObjectMeta"):
		return map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	case strings.HasSuffix(name, ".Time"), strings.HasSuffix(name, ".MicroTime"):
		return map[string]any{"type": "string", "format": "date-time"}
	}
	b, err := json.Marshal(types[name])
	if err != nil || types[name] == nil {
		panic("no type " + name)
	}
	var fresh any
	_ = json.Unmarshal(b, &fresh)
	return inlined(fresh, types)
}
