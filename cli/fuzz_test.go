package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzKubeconfig: a kubeconfig is refused, or says where a server is.
func FuzzKubeconfig(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nclusters: [{name: k, cluster: {server: 'https://h:6443/', certificate-authority-data: YQ==}}]\nusers: [{name: u, user: {token: t, client-certificate: x, client-key-data: '!'}}]"))
	f.Add([]byte("current-context: &a [*a]"))
	path := filepath.Join(f.TempDir(), "kubeconfig")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if a, err := accessFrom(path); err == nil && a.url == "" {
			t.Errorf("%q leads nowhere", text)
		}
	})
}

// FuzzConfig: a config file is refused, or gives each key once.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("node-label: [a=b, c=d]\nnode-label+: e=f\ndisable-agent: true\nhttps-listen-port: 6443.0\ntls-san:"))
	f.Add([]byte("a: {b: c}\n? [x]\n: y"))
	path := filepath.Join(f.TempDir(), "config.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := readConfig(path, true)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, s := range list {
			if seen[s.key] {
				t.Errorf("%q gives %s twice", text, s.key)
			}
			seen[s.key] = true
		}
	})
}
