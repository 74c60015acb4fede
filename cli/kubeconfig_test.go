package cli

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
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
