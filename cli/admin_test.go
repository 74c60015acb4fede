package cli

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"orch/datastore/memory"
	"orch/server"
)

// TestAdministration runs the commands against a server on loopback.
func TestAdministration(t *testing.T) {
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "orch.yaml")
	s, err := server.New(server.Config{
		DataDir: dir, BindAddress: "127.0.0.1", AdvertiseAddress: "192.0.2.1", NodeName: "one", WriteKubeconfig: kubeconfig,
		ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDomain: "cluster.local", ServiceNodePortRange: "30000-32767", Version: "v1.37.0+orch",
	}, memory.New(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-s.Ready():
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		c := secretsEncryptCommand()
		if args[0] == "token" {
			c = tokenCommand()
		}
		c.SetOut(&out)
		c.SetErr(&out)
		c.SetArgs(append(args[1:], "--kubeconfig", kubeconfig))
		if err := c.ExecuteContext(t.Context()); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return out.String()
	}
	has := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("%q is not in:\n%s", p, text)
			}
		}
	}
	has(run("secrets-encrypt", "status"), "Encryption Status: Enabled", "reencrypt_finished", "secretbox", "key1")
	has(run("secrets-encrypt", "rotate-keys"), "secrets:", "looked at", "rotate-keys: done")
	has(run("secrets-encrypt", "status", "-o", "json"), `"key2"`, `"enabled": true`)
	has(run("secrets-encrypt", "disable"), "disable: done")
	has(run("secrets-encrypt", "status"), "Encryption Status: Disabled")
	token := strings.TrimSpace(run("token", "create", "--description", "for a test", "--ttl", "2h"))
	if hash := s.PKI().Token().CAHash; !strings.HasPrefix(token, "K10"+hash+"::") {
		t.Errorf("%s", token)
	}
	id := token[strings.LastIndex(token, ":")+1:][:6]
	has(run("token", "list"), id, "for a test", "authentication,signing")
	has(run("token", "delete", token), `bootstrap token "`+id+`" deleted`)
	if text := run("token", "list"); strings.Contains(text, id) {
		t.Errorf("%s", text)
	}
	old := s.PKI().Token().Secret
	has(run("token", "rotate"), "Token rotated", filepath.Join(dir, "server", "token"))
	if s.PKI().Token().Secret == old {
		t.Error("the token is the old one")
	}
	if !tokenForm.MatchString(strings.TrimSpace(run("token", "generate"))) {
		t.Error("a generated token has the wrong form")
	}
}
