package cli

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStatus(t *testing.T) {
	answers := map[string]string{
		"/version":      `{"gitVersion":"v1.37.0"}`,
		"/api/v1/nodes": `{"items":[{"metadata":{"name":"n1"},"status":{"conditions":[{"type":"Ready","status":"True"}]}}]}`,
		"/api/v1/pods": `{"items":[{"metadata":{"name":"p","namespace":"d"},"spec":{"nodeName":"n1"},"status":{"phase":"Pending",
			"containerStatuses":[{"state":{"waiting":{"reason":"ErrImagePull","message":"no such image"}}}]}}]}`,
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, answers[r.URL.Path])
	}))
	defer s.Close()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	config := func(authority, token, context string) string {
		path := filepath.Join(t.TempDir(), "kubeconfig")
		text := fmt.Sprintf("current-context: %s\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: %q, %s}}]\nusers: [{name: u, user: {token: %s}}]\n", context, s.URL, authority, token)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inline := "certificate-authority-data: " + base64.StdEncoding.EncodeToString(ca)
	for _, c := range []struct{ name, path, want, err string }{
		{"authority inline", config(inline, "secret", "x"), "d/p", ""},
		{"authority in a file", config("certificate-authority: "+filepath.Join(dir, "ca.pem"), "secret", "x"), "ErrImagePull: no such image", ""},
		{"no authority", config("certificate-authority: ''", "secret", "x"), "", "certificate"},
		{"wrong token", config(inline, "other", "x"), "", "who are you"},
		{"no such context", config(inline, "secret", "y"), "", "no current context"},
		{"no file", filepath.Join(dir, "none"), "", "is orch server running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			err := status(t.Context(), c.path, &out)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error is %v, want one with %q", err, c.err)
			}
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("no %q in\n%s", c.want, out.String())
			}
		})
	}
}

// TestRefusalIsASentence: an API server's error was shown as the JSON that it came in.
func TestRefusalIsASentence(t *testing.T) {
	for body, want := range map[string]string{
		`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"secrets \"x\" not found","code":404}`: `secrets "x" not found`,
		"no such page\n":   "404 Not Found: no such page",
		`{"kind":"Other"}`: `404 Not Found: {"kind":"Other"}`,
	} {
		if got := refusal("404 Not Found", []byte(body)).Error(); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
}

// TestUsageNamesTheCommand: whoever mistypes a flag of a command is sent to that command's help.
func TestUsageNamesTheCommand(t *testing.T) {
	part := func() Part { return noPart{} }
	for want, args := range map[string][]string{
		"orch status --help":     {"orch", "status", "--nope"},
		"orch agent join --help": {"orch", "agent", "join"},
		"orch --help":            {"orch", "frobnicate"},
	} {
		var errs strings.Builder
		if code := Main(t.Context(), Program{Stdout: io.Discard, Stderr: &errs, Server: part, Agent: part}, args); code != 2 || !strings.Contains(errs.String(), "Run '"+want+"'") {
			t.Errorf("%v: %d %s", args, code, errs.String())
		}
	}
}

// TestKubeconfigOfRoot: a user who may not read the administrator's kubeconfig was asked
// whether a server runs.
func TestKubeconfigOfRoot(t *testing.T) {
	if got := unreadable(&fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission}); !strings.Contains(got, "as root") {
		t.Error(got)
	}
	if got := unreadable(fs.ErrNotExist); !strings.Contains(got, "server running") {
		t.Error(got)
	}
}
